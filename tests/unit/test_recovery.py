"""What a process that died left under way: settled before that position is guarded again."""

import asyncio

import pytest

from marginguard.domain.errors import Unreachable
from marginguard.domain.model import ActionKind
from marginguard.domain.records import ActionStatus, ExecutionRecord
from marginguard.engine.settings import EngineSettings
from tests.unit.fakes import PROMPT, Rig, ambiguous, not_sent
from tests.unit.strategies import a_cross_position, a_position, a_rung

ADD = ActionKind.ADD_MARGIN
CLOSE = ActionKind.CLOSE_POSITION
REDUCE = ActionKind.REDUCE_POSITION
LOST = (False, ambiguous())


def breached(action, position=None, **changes):
    """Return a rig whose one position has used up 85 % of its margin; the threshold is 80."""
    position = position or a_position()
    rig = Rig(position, action=action, **changes)
    rig.market(position, 85)
    return rig


def names(rig):
    return [call[0] for call in rig.exchange.calls]


@pytest.mark.parametrize("processed", [True, False])
async def test_a_cut_that_a_crash_cut_short_is_never_ordered_twice(processed):
    """Failure 24: settled at start before that position is guarded."""
    rig = breached(REDUCE, a_cross_position())
    await rig.crash(1, processed=processed)
    for _ in range(3):
        await rig.run()
        rig.clock.advance(11)
    assert names(rig) == ["reduce_cross"]
    assert (rig.actions()[0].status is ActionStatus.DONE) == processed
    rig.clock.advance(3)
    await rig.run()
    assert names(rig) == ["reduce_cross"] * (1 if processed else 2)


@pytest.mark.parametrize("processed", [True, False])
async def test_a_close_that_a_crash_cut_short_is_done_once_in_the_record(processed):
    """Failure 24: the trade is read; closed again only if it still runs."""
    rig = breached(CLOSE)
    await rig.crash(1, processed=processed)
    await rig.run()
    assert names(rig) == ["close"] * (1 if processed else 2)
    [record] = rig.actions()
    assert record.status is ActionStatus.DONE


async def test_the_age_of_what_was_left_counts_from_the_start_of_the_new_process():
    """The old one may have sent until it died, and nobody knows when that was."""
    rig = breached(ADD)
    await rig.crash(1, processed=False)
    rig.clock.advance(34)
    await rig.run()
    assert names(rig) == ["add_margin"]
    rig.clock.advance(2)
    await rig.run()
    assert names(rig) == ["add_margin"] * 2


async def test_all_other_positions_are_guarded_while_one_is_not_settled():
    """Failure 24: the others need not wait."""
    weak, strong = a_position(id="weak", margin=90_000), a_position(id="strong")
    rig = Rig(weak, strong, action=ADD)
    rig.market(weak, 82)
    await rig.crash(1, processed=False)
    rig.market(strong, 85)
    await rig.run()
    assert [call[1] for call in rig.exchange.calls] == ["weak", "strong"]


@pytest.mark.parametrize("trouble", ["refused", "silent"])
async def test_one_leftover_that_cannot_be_read_does_not_blind_the_guard(trouble):
    """Failure 22: reading how one action ended holds up no other position."""
    settings = EngineSettings(
        action_base_delay_s=0.0, settle_delay_s=0.0, timeout_s=5.0, settle_patience_s=0.01
    )
    rig = Rig(a_cross_position(), action=ADD, settings=settings)
    rig.market(a_cross_position(), 85)
    await rig.crash(1, processed=False)

    async def unreadable(since):
        if trouble == "silent":
            await asyncio.Event().wait()
        raise Unreachable("down")

    rig.exchange.deposits = unreadable
    rig.exchange.positions["other"] = a_position(id="other", margin=500_000)
    await rig.run()
    assert [call[:2] for call in rig.exchange.calls] == [
        ("add_margin", "cross"),
        ("add_margin", "other"),
    ]
    assert rig.book.state.armed.value == "armed"


async def test_an_escalation_may_close_what_is_not_settled_yet():
    rig = breached(ADD, escalation=(a_rung(90.0, CLOSE),))
    await rig.crash(1, processed=False)
    rig.market(a_position(), 92)
    await rig.run()
    assert names(rig) == ["add_margin", "close"]


async def test_an_unsettled_spend_is_counted_again_after_a_restart():
    rig = breached(ADD, rung={"add_margin_amount": 1_000})
    rig.exchange.script.append(LOST)
    await rig.run()
    rig.start()
    assert [s.amount for s in rig.book.memory.spends] == [1_000]


async def test_what_was_recovered_is_recorded_as_a_recovery_and_told():
    rig = breached(CLOSE)
    await rig.crash(1, processed=True)
    await rig.run()
    execution = rig.journal.of(ExecutionRecord)[-1]
    assert (execution.source.value, execution.status.value) == ("recover", "completed")
    assert rig.ears.kinds().count("action_done") == 1


async def test_an_action_that_is_stopped_while_its_outcome_is_unknown_stays_in_the_journal():
    """Failure 25: SIGTERM during an action: no new attempt, and the next process settles it."""
    rig = breached(ADD)
    rig.exchange.script.append(LOST)
    rig.exchange.on_call = rig.stop.set
    await rig.run()
    assert names(rig) == ["add_margin"]
    [left] = rig.journal.unsettled_actions()
    assert left.status is ActionStatus.UNKNOWN
    rig.stop.clear()
    rig.exchange.on_call = lambda: None
    rig.start()
    rig.exchange.top_up("trade-1", left.amount)
    await rig.run()
    assert rig.actions()[0].status is ActionStatus.DONE
    assert names(rig) == ["add_margin"]


async def test_an_action_that_was_never_sent_is_not_sent_after_the_daemon_was_asked_to_stop():
    """Failure 25: no new attempt."""
    rig = breached(ADD)
    rig.exchange.script.append((False, not_sent()))
    rig.exchange.on_call = rig.stop.set
    await rig.run()
    assert names(rig) == ["add_margin"]
    assert rig.actions()[0].status is ActionStatus.REJECTED


async def test_an_action_that_is_stopped_while_it_is_being_proved_is_proved():
    """Failure 25: what is under way is settled."""
    rig = Rig(a_position(), action=CLOSE, settings=PROMPT)
    rig.market(a_position(), 85)
    rig.exchange.on_call = rig.stop.set
    await rig.run()
    assert rig.actions()[0].status is ActionStatus.DONE


async def test_two_looks_at_once_settle_an_action_once():
    """The transfer that proves a deposit proves it to one look alone."""
    rig = breached(ADD, a_cross_position())
    rig.exchange.script.append(LOST)
    await rig.run()
    [left] = rig.book.unsettled
    rig.exchange.top_up("cross", left.amount)
    rig.clock.advance(36)
    positions = await rig.exchange.running_positions()
    now_s = rig.clock.monotonic()
    deposits = rig.exchange.deposits
    gate = asyncio.Event()

    async def slow(since):
        found = await deposits(since)
        await gate.wait()
        return found

    rig.exchange.deposits = slow
    looks = [
        asyncio.create_task(rig.executor.settle(left, rig.book, positions, now_s)) for _ in "ab"
    ]
    await asyncio.sleep(0)
    gate.set()
    first, second = await asyncio.gather(*looks)
    assert (first.status, second) == (ActionStatus.DONE, left)
    assert rig.actions()[0].status is ActionStatus.DONE
    assert [s.amount for s in rig.book.memory.spends] == [left.amount]
