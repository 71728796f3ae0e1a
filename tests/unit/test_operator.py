"""What an operator may ask of the running daemon. Time is the loop's own and passes at once."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from marginguard.domain.errors import Refused
from marginguard.domain.records import (
    ActionStatus,
    ArmedState,
    ExecutionSource,
)
from marginguard.engine.engine import Disarmed
from tests.unit.fakes import FakePrices, ambiguous, rejected
from tests.unit.operated import (
    ADD,
    BY,
    CLOSE,
    RUN_NOW,
    Running,
    a_guard,
    minutes,
    running,
)

pytestmark = pytest.mark.looptime


# Pause and resume.


async def test_a_pause_is_answered_with_its_end_and_what_stays():
    async with running() as daemon:
        answer = await daemon.operator.pause("guard-1", timedelta(minutes=10), by=BY)
    assert f"Guard guard-1 is paused until 2026-03-14 12:10:00 UTC by {BY}" in answer
    assert "Stop-losses on the exchange stay" in answer


async def test_a_pause_is_in_the_overview_at_once():
    async with running() as daemon:
        assert daemon.operator.overview().protected == "PROTECTED: 1 position, with an armed guard"
        await daemon.operator.pause("guard-1", timedelta(minutes=10), by=BY)
        overview = daemon.operator.overview()
    [guard], [position] = overview.guards, overview.positions
    assert (guard.armed, guard.pause.by) == (ArmedState.DISARMED, BY)
    assert position.guard_id is None
    assert overview.protected.startswith("NOT PROTECTED: guard guard-1 is disarmed: paused until")


async def test_a_guard_that_only_tells_is_not_said_to_protect():
    async with running(a_guard(auto_execution=False)) as daemon:
        said = daemon.operator.overview().protected
    assert said.startswith("NOT PROTECTED: guard guard-1 only tells")


async def test_a_breach_is_unprotected_until_the_guard_gets_it_answered():
    async with running() as daemon:
        daemon.exchange.script.extend([(False, rejected())] * 50)
        daemon.market(85)
        await daemon.operator.run_now("guard-1", by=BY, source=RUN_NOW)
        said = daemon.operator.overview().protected
        assert said.startswith("NOT PROTECTED: position trade-1 is UNPROTECTED at level 85")
        daemon.exchange.script.clear()
        await minutes(2)
        assert daemon.operator.overview().protected == "Nothing to protect: no position runs"


async def test_a_pause_ends_by_itself_to_the_second_and_the_breach_is_acted_on():
    async with running() as daemon:
        await daemon.operator.pause("guard-1", timedelta(seconds=97), by=BY)
        daemon.market(85)
        await asyncio.sleep(96.9)
        assert daemon.exchange.calls == []
        await asyncio.sleep(0.2)
        assert daemon.exchange.calls == [("close", "trade-1")]
        [guard] = daemon.operator.overview().guards
        assert (guard.armed, guard.pause) == (ArmedState.ARMED, None)


async def test_a_pause_that_ends_while_runs_fail_is_over_to_the_second():
    async with running() as daemon:
        await daemon.operator.pause("guard-1", timedelta(seconds=97), by=BY)
        await asyncio.sleep(80)
        daemon.market(85)
        good = daemon.prices.quote

        async def fails_until_the_end():
            return await good() if daemon.clock.monotonic() >= 97 else await broken()

        daemon.prices.quote = fails_until_the_end
        broken = FakePrices(daemon.clock, price=None).quote
        await asyncio.sleep(17.1)
        assert daemon.exchange.calls == [("close", "trade-1")]


async def test_a_resume_lets_the_guard_act_at_once():
    async with running() as daemon:
        await daemon.operator.pause("guard-1", timedelta(minutes=10), by=BY)
        daemon.market(85)
        await asyncio.sleep(5)
        answer = await daemon.operator.resume("guard-1", by=BY)
        await asyncio.sleep(0.1)
        assert daemon.exchange.calls == [("close", "trade-1")]
    assert "The pause of guard guard-1 is over" in answer


async def test_a_guard_that_is_not_paused_is_not_resumed():
    async with running() as daemon:
        with pytest.raises(Refused, match="guard-1 is not paused"):
            await daemon.operator.resume("guard-1", by=BY)


@pytest.mark.parametrize(
    "span", [timedelta(0), timedelta(hours=-1), timedelta(hours=24, seconds=1)]
)
async def test_a_pause_too_long_or_too_short_is_refused(span):
    async with running() as daemon:
        with pytest.raises(Refused, match="from 1 s to 24 h"):
            await daemon.operator.pause("guard-1", span, by=BY)
        assert daemon.operator.overview().guards[0].pause is None


async def test_a_second_pause_takes_the_place_of_the_first():
    async with running() as daemon:
        await daemon.operator.pause("guard-1", timedelta(minutes=10), by=BY)
        await daemon.operator.pause("guard-1", timedelta(minutes=1), by="telegram chat 7")
        await minutes(1.1)
        assert daemon.operator.overview().guards[0].armed is ArmedState.ARMED


async def test_a_pause_survives_a_restart_and_a_reload():
    async with running() as daemon:
        await daemon.operator.pause("guard-1", timedelta(minutes=10), by=BY)
        changed = a_guard(threshold=70.0)
        await daemon.made.apply([changed], [])
        await asyncio.sleep(1)
        assert daemon.operator.overview().guards[0].pause.by == BY
    async with running(journal=daemon.journal) as restarted:
        [guard] = restarted.operator.overview().guards
        assert (guard.armed, guard.pause.by) == (ArmedState.DISARMED, BY)


async def test_a_pause_goes_with_a_guard_that_moves_to_another_account():
    async with running(accounts=("main", "other")) as daemon:
        await daemon.operator.pause("guard-1", timedelta(minutes=10), by=BY)
        await daemon.made.apply([replace(a_guard(), account_id="other")], [])
        await asyncio.sleep(1)
        [guard] = daemon.operator.overview().guards
    assert (guard.account_id, guard.armed, guard.pause.by) == ("other", ArmedState.DISARMED, BY)


async def test_a_pause_is_no_longer_after_a_restart_by_a_clock_that_was_set_back():
    async with running() as daemon:
        await minutes(60)
        await daemon.operator.pause("guard-1", timedelta(minutes=10), by=BY)
    async with running(journal=daemon.journal) as restarted:  # whose clock begins at noon again
        assert restarted.operator.overview().guards[0].armed is ArmedState.DISARMED
        await minutes(11)
        assert restarted.operator.overview().guards[0].armed is ArmedState.ARMED


async def test_a_pause_that_the_full_disk_did_not_take_says_so():
    async with running() as daemon:
        daemon.journal.full = True
        with capture_logs() as logs:
            answer = await daemon.operator.pause("guard-1", timedelta(minutes=10), by=BY)
        assert "not written down" in answer
        assert "operator.unrecorded" in [line["event"] for line in logs]
        assert daemon.operator.overview().guards[0].pause is not None


# Running now.


async def test_a_run_that_was_asked_for_and_acts_returns_its_record():
    async with running() as daemon:
        daemon.market(85)
        record = await daemon.operator.run_now("guard-1", by=BY, source=RUN_NOW)
    assert (record.status.value, record.source) == ("completed", RUN_NOW)
    assert daemon.exchange.calls == [("close", "trade-1")]


async def test_a_quiet_run_returns_nothing_and_only_the_command_is_recorded():
    async with running() as daemon:
        source = ExecutionSource.RECOVER
        assert await daemon.operator.run_now("guard-1", by=BY, source=source) is None
    [command] = daemon.commands()
    assert (command.command, command.accepted) == ("recover guard-1", True)
    assert daemon.sources() == []


async def test_a_guard_that_runs_already_runs_again_right_after():
    async with running() as daemon:
        under_way, go_on = asyncio.Event(), asyncio.Event()
        read = daemon.exchange.running_positions

        async def slow(**options):
            under_way.set()
            await go_on.wait()
            return await read(**options)

        daemon.exchange.running_positions = slow
        asked = daemon.operator.run_now("guard-1", by=BY, source=RUN_NOW)
        first = asyncio.create_task(asked)
        await under_way.wait()
        asked = daemon.operator.run_now("guard-1", by=BY, source=ExecutionSource.RECOVER)
        second = asyncio.create_task(asked)
        await asyncio.sleep(1)
        daemon.exchange.running_positions = read
        daemon.market(85)
        go_on.set()
        assert (await first).source is RUN_NOW
        assert await second is None  # the first has closed it
        assert daemon.exchange.calls == [("close", "trade-1")]


async def test_a_run_that_does_not_end_is_said_to_go_on():
    async with running() as daemon:
        never = asyncio.Event()
        look = daemon.made._runners[0].run

        async def hangs(source):
            await never.wait()
            return await look(source)

        daemon.made._runners[0].run = hangs
        with pytest.raises(Refused, match="within 35 s; it goes on"):
            await daemon.operator.run_now("guard-1", by=BY, source=RUN_NOW)
        assert daemon.clock.monotonic() == pytest.approx(35, abs=1)
        never.set()


async def test_who_waits_for_a_run_is_told_when_the_guard_is_taken_away():
    async with running(a_guard(), a_guard("guard-2")) as daemon:
        slot = daemon.made._scheduler._slots
        slot._free = 0
        asked = daemon.operator.run_now("guard-2", by=BY, source=RUN_NOW)
        waiting = asyncio.create_task(asked)
        await asyncio.sleep(1)
        await daemon.made.apply([daemon.guards[0]], [])
        slot.give_back()
        with pytest.raises(Refused, match="taken out of service"):
            await waiting


# Who and what is refused.


async def test_an_unknown_guard_is_refused_with_the_nearest_name():
    async with running() as daemon:
        with pytest.raises(Refused, match='no guard "gaurd-1"; did you mean guard-1'):
            await daemon.operator.pause("gaurd-1", timedelta(minutes=1), by=BY)


async def test_a_guard_that_is_not_run_is_refused_with_the_reason():
    idle = Disarmed(guard_id="guard-9", account_id="main", reason="enabled = false")
    async with running(disarmed=[idle]) as daemon:
        for work in (
            daemon.operator.pause("guard-9", timedelta(minutes=1), by=BY),
            daemon.operator.resume("guard-9", by=BY),
            daemon.operator.run_now("guard-9", by=BY, source=RUN_NOW),
        ):
            with pytest.raises(Refused, match="guard-9 is not run: enabled = false"):
                await work
        assert "guard-9 is disarmed: enabled = false" in daemon.operator.overview().protected


async def test_nothing_is_asked_of_a_daemon_that_starts_or_stops():
    daemon = Running()
    assert daemon.operator.overview().protected == "NOT PROTECTED: the daemon is still starting"
    with pytest.raises(Refused, match="still starting"):
        await daemon.operator.run_now("guard-1", by=BY, source=RUN_NOW)
    daemon.engine = daemon.made
    with pytest.raises(Refused, match="are being started"):
        await daemon.operator.run_now("guard-1", by=BY, source=RUN_NOW)
    daemon.stop.set()
    with pytest.raises(Refused, match="being stopped"):
        await daemon.operator.run_now("guard-1", by=BY, source=RUN_NOW)
    assert daemon.operator.overview().protected == "NOT PROTECTED: the daemon is being stopped"


async def test_a_guard_of_an_account_that_another_daemon_holds_is_refused():
    async with running() as daemon:
        daemon.left = {"main": "process 4711 guards it"}
        with pytest.raises(Refused, match=r"stands by for account main: process 4711"):
            await daemon.operator.pause("guard-1", timedelta(minutes=1), by=BY)
        assert "only stands by" in daemon.operator.overview().protected


# Settling by the owner's word.


async def frozen(daemon):
    """Let an action become one that no reading can tell, and return its record."""
    daemon.exchange.script.append((False, ambiguous()))
    daemon.market(85)
    await asyncio.sleep(31)
    before = daemon.exchange.positions["trade-1"]
    daemon.exchange.positions["trade-1"] = replace(before, margin=before.margin + 1)
    await minutes(2)
    [record] = daemon.journal.unsettled_actions()
    assert record.frozen
    return record


@pytest.mark.parametrize("applied", [True, False])
async def test_a_frozen_action_is_settled_by_the_owners_word_and_spending_goes_on(applied):
    async with running(a_guard(action=ADD)) as daemon:
        record = await frozen(daemon)
        calls = len(daemon.exchange.calls)
        answer = await daemon.operator.settle(record.id, applied=applied, by=BY)
        await minutes(2)
        settled = {r.id: r for r in daemon.journal.records if getattr(r, "attempts", 0)}[record.id]
        spends = [s.action_id for s in daemon.made._books["guard-1"].memory.spends]
        assert settled.status is (ActionStatus.DONE if applied else ActionStatus.REJECTED)
        assert not settled.frozen
        assert f"by the owner's word ({BY})" in (settled.proof or settled.error)
        assert (record.id in spends) is applied
        assert len(daemon.exchange.calls) > calls
        assert daemon.operator.last_actions()[-1].id == record.id
    assert ("count as spent" if applied else "do not count as spent") in answer


async def test_an_action_that_is_not_frozen_or_not_known_is_not_settled_by_word():
    async with running(a_guard(action=ADD)) as daemon:
        daemon.exchange.script.append((False, ambiguous()))
        daemon.market(85)
        await asyncio.sleep(31)
        [record] = daemon.journal.unsettled_actions()
        with pytest.raises(Refused, match="settled by reading how it ended"):
            await daemon.operator.settle(record.id, applied=True, by=BY)
        with pytest.raises(Refused, match="waits to be settled"):
            await daemon.operator.settle(uuid7(), applied=True, by=BY)


async def test_a_frozen_action_of_a_guard_that_is_gone_is_settled_too():
    async with running(a_guard(action=ADD)) as daemon:
        record = await frozen(daemon)
        await daemon.made.apply([], [])
        await daemon.operator.settle(record.id, applied=True, by=BY)
        assert daemon.journal.unsettled_actions() == []


# The record.


async def test_every_command_is_recorded_with_who_asked_and_what_was_answered():
    async with running() as daemon:
        operator = daemon.operator
        await operator.pause("guard-1", timedelta(minutes=10), by=BY)
        with pytest.raises(Refused):
            await operator.resume("other", by=BY)
        await operator.reload(by="SIGHUP")
        await operator.note("/help", by="telegram chat 7", answer="...", accepted=True)
    seen = [(c.command, c.by, c.guard_id, c.accepted) for c in daemon.commands()]
    assert seen == [
        ("pause guard-1 600s", BY, "guard-1", True),
        ("resume other", BY, "other", False),
        ("reload", "SIGHUP", None, True),
        ("/help", "telegram chat 7", None, True),
    ]
    assert "no guard" in daemon.commands()[1].answer
    assert daemon.reloads


async def test_a_pause_is_logged_as_a_warning_with_advice_and_a_refusal_as_information():
    async with running() as daemon:
        with capture_logs() as logs:
            await daemon.operator.pause("guard-1", timedelta(minutes=10), by=BY)
            with pytest.raises(Refused):
                await daemon.operator.pause("guard-1", timedelta(days=3), by=BY)
    first, second = (line for line in logs if line["event"] == "operator.command")
    assert (first["log_level"], first["accepted"]) == ("warning", True)
    assert "marginguard resume guard-1" in first["advice"]
    assert (second["log_level"], second["accepted"]) == ("info", False)


async def test_a_text_of_any_length_and_kind_is_recorded():
    async with running() as daemon:
        text = "/pause \ud800" + "x" * 10_000
        await daemon.operator.note(text, by="telegram chat 7", answer="?", accepted=False)
    [command] = daemon.commands()
    assert len(command.command) == 500
    command.command.encode()


async def test_the_last_actions_are_the_newest_ten_each_once():
    async with running() as daemon:
        daemon.market(85)
        await daemon.operator.run_now("guard-1", by=BY, source=RUN_NOW)
        [last] = daemon.operator.last_actions()
        assert (last.kind, last.status) == (CLOSE, ActionStatus.DONE)
        for _ in range(20):
            daemon.operator.heard(replace(last, id=uuid7()))
        again = daemon.operator.last_actions()[3]
        daemon.operator.heard(again)
    shown = daemon.operator.last_actions()
    assert len({one.id for one in shown}) == len(shown) == 10
    assert shown[0] is again


async def test_a_change_that_comes_while_the_engine_starts_is_taken_over_when_it_runs():
    daemon = Running()
    async with asyncio.TaskGroup() as group:
        changing = group.create_task(daemon.made.apply([a_guard("guard-2")], []))
        group.create_task(daemon.made.run())
        await changing
        await asyncio.sleep(1)
        assert [guard.guard_id for guard in daemon.made.guards_now()] == ["guard-2"]
        daemon.stop.set()
