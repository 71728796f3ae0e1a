"""A guard that is paused looks and alerts, does nothing, says so, and comes back by itself."""

import asyncio
from datetime import timedelta

import pytest

from marginguard.domain.errors import Unauthorized, Unreachable
from marginguard.domain.model import ActionKind
from marginguard.domain.pause import LONGEST_PAUSE, Pause
from marginguard.domain.records import ActionStatus, ArmedState, GuardState
from tests.unit.fakes import Crash, Rig, ambiguous, rejected
from tests.unit.strategies import NOON, a_position, price_at

CLOSE = ActionKind.CLOSE_POSITION
BY = "root (control socket)"


async def paused(*positions, span_s=600.0, **changes):
    """Return a rig whose guard closes at 80 %, has looked once and was paused then."""
    rig = Rig(*positions, **{"action": CLOSE, **changes})
    await rig.run()
    await rig.pause(span_s)
    return rig


def names(rig):
    return [call[0] for call in rig.exchange.calls]


def told(rig, kind):
    return [notice for notice in rig.ears.notices if notice.kind.value == kind]


async def test_a_paused_guard_alerts_of_a_breach_and_sends_nothing():
    rig = await paused()
    rig.market(a_position(), 85)
    await rig.run()
    assert rig.exchange.calls == []
    [notice] = told(rig, "threshold_reached")
    words = f"the guard is paused until 2026-03-14 12:10:00 UTC by {BY}"
    assert f"{words}, so nothing is done" in notice.text


async def test_a_paused_guard_alerts_of_a_breach_every_minute():
    rig = await paused()
    rig.market(a_position(), 85)
    for _ in range(13):
        await rig.run()
        rig.clock.advance(10)
    assert len(told(rig, "threshold_reached")) == 3


async def test_a_guard_that_is_paused_is_disarmed_at_once_and_says_so_as_critical():
    rig = await paused()
    assert rig.book.state.armed is ArmedState.DISARMED
    assert rig.book.state.reason == (
        f"paused until 2026-03-14 12:10:00 UTC by {BY}: it alerts and does nothing"
    )
    [notice] = told(rig, "guard_disarmed")
    assert notice.severity.value == "critical"
    assert "marginguard resume guard-1" in notice.data["advice"]


async def test_the_positions_of_a_paused_guard_count_as_not_covered():
    rig = await paused()
    await rig.run()
    assert rig.ears.seen["main"]["trade-1"].guard_id is None
    assert told(rig, "position_not_covered")


async def test_a_pause_is_spoken_of_again_every_quarter_of_an_hour():
    rig = await paused(span_s=3600.0)
    for _ in range(61):
        await rig.run()
        rig.clock.advance(30)
    assert [n.at - NOON for n in told(rig, "guard_disarmed")] == [
        timedelta(0),
        timedelta(minutes=15),
        timedelta(minutes=30),
    ]


async def test_a_guard_that_was_disarmed_already_tells_of_its_pause_too():
    rig = Rig(dry_run=True)
    await rig.run()
    before = len(rig.ears.notices)
    await rig.pause(60)
    [notice] = rig.ears.notices[before:]
    assert "paused until" in notice.text
    await rig.run()
    assert rig.book.state.reason.startswith("paused until")
    rig.clock.advance(60)
    await rig.run()
    assert rig.book.state.reason.startswith("dry run")
    assert rig.book.state.pause is None


async def test_a_guard_that_only_alerts_may_be_paused():
    rig = await paused(auto_execution=False)
    rig.market(a_position(), 85)
    await rig.run()
    assert len(told(rig, "threshold_reached")) == 1


async def test_a_breach_that_is_open_when_the_pause_ends_is_acted_on_at_once():
    rig = await paused(span_s=60)
    rig.market(a_position(), 85)
    await rig.run()
    rig.clock.advance(60)
    await rig.run()
    assert names(rig) == ["close"]
    assert rig.book.state.pause is None
    assert len(told(rig, "guard_armed")) == 2


async def test_a_breach_is_acted_on_at_the_first_look_after_a_resume():
    rig = await paused()
    rig.market(a_position(), 85)
    await rig.run()
    assert await rig.resume()
    assert rig.book.state.armed is ArmedState.DEGRADED
    await rig.run()
    assert names(rig) == ["close"]
    assert rig.book.state.armed is ArmedState.ARMED


async def test_a_paused_guard_is_due_the_moment_its_pause_ends():
    rig = await paused(span_s=20)
    rig.clock.advance(5)
    await rig.run()
    assert rig.next_look_s(30.0) == pytest.approx(15)
    rig.clock.advance(15)
    assert rig.next_look_s(30.0) == 0
    await rig.run()
    assert rig.next_look_s(30.0) == 30


async def test_a_paused_guard_with_a_long_interval_looks_once_a_minute():
    rig = await paused()
    assert rig.next_look_s(3600.0) == 60


async def test_a_pause_survives_a_restart():
    rig = await paused()
    rig.start()
    rig.market(a_position(), 85)
    await rig.run()
    assert rig.book.state.armed is ArmedState.DISARMED
    assert rig.exchange.calls == []
    rig.clock.advance(600)
    await rig.run()
    assert names(rig) == ["close"]


@pytest.mark.parametrize("set_s", [-300, 300, -3 * 86_400])
async def test_a_wall_clock_that_is_set_makes_no_pause_longer(set_s):
    rig = await paused(span_s=200)
    rig.clock.wall_offset = timedelta(seconds=set_s)
    rig.clock.advance(200)
    await rig.run()
    assert rig.book.state.armed is ArmedState.ARMED


def test_a_pause_that_seems_longer_than_any_may_be_is_over():
    pause = Pause(until=NOON + LONGEST_PAUSE, by=BY)
    assert pause.left(NOON) == LONGEST_PAUSE
    assert not pause.left(NOON - timedelta(seconds=1))
    assert not pause.left(pause.until)


async def test_stop_losses_stay_as_they_are_while_the_guard_is_paused():
    rig = await paused(backstop=95.0)
    stands = rig.exchange.positions["trade-1"].stop_loss
    rig.exchange.top_up("trade-1", 50_000)
    await rig.run()
    assert rig.exchange.positions["trade-1"].stop_loss == stands
    await rig.resume()
    await rig.run()
    assert names(rig) == ["set_stop_loss", "set_stop_loss"]


async def test_an_action_that_was_under_way_is_settled_while_the_guard_is_paused():
    rig = Rig(action=ActionKind.ADD_MARGIN)
    rig.market(a_position(), 85)
    rig.exchange.script.append((False, ambiguous()))
    await rig.run()
    await rig.pause(600)
    rig.clock.advance(40)
    await rig.run()
    [settled] = rig.actions()
    assert settled.status is ActionStatus.REJECTED
    assert names(rig) == ["add_margin"]


async def test_the_rest_of_a_reduction_is_opened_again_while_the_guard_is_paused():
    rig = Rig(action=ActionKind.REDUCE_POSITION)
    rig.market(a_position(), 85)
    quote = rig.prices.quote

    async def dies():
        if rig.exchange.calls:
            raise Crash
        return await quote()

    rig.prices.quote = dies
    with pytest.raises(BaseExceptionGroup):
        await rig.run()
    rig.prices.quote = quote
    rig.start()
    await rig.book.pause(Pause(until=rig.clock.now() + timedelta(seconds=600), by=BY))
    await rig.run()
    assert rig.book.state.armed is ArmedState.DISARMED
    assert names(rig) == ["close", "open_trade"]


async def test_an_action_that_is_decided_and_waits_for_its_turn_is_not_begun_after_a_pause():
    rig = Rig(action=CLOSE)
    await rig.run()
    rig.market(a_position(), 85)
    while not rig.executor.turns.locked():
        await rig.executor.turns.acquire()
    running = asyncio.create_task(rig.run())
    for _ in range(50):
        await asyncio.sleep(0)
    assert not running.done()
    await rig.pause(600)
    rig.executor.turns.release()
    await running
    assert rig.exchange.calls == []
    assert rig.actions() == []
    assert len(told(rig, "threshold_reached")) == 1


async def test_a_fallback_is_not_begun_after_a_pause():
    rig = Rig(action=ActionKind.ADD_MARGIN, fallback=(CLOSE,))
    await rig.run()
    rig.market(a_position(), 85)
    waiting = []

    async def refuses(*_):
        waiting.append(asyncio.create_task(rig.pause(600)))
        await asyncio.sleep(0)
        return await refused(*_)

    refused = rig.exchange.add_margin
    rig.exchange.script.append((False, rejected()))
    rig.exchange.add_margin = refuses
    await rig.run()
    assert names(rig) == ["add_margin"]
    assert len(told(rig, "threshold_reached")) == 1


async def test_a_paused_guard_that_is_blind_stays_disarmed():
    rig = await paused()
    for _ in range(4):
        rig.exchange.read_errors.append(Unreachable("no route"))
        await rig.run()
        rig.clock.advance(30)
    assert rig.book.state.armed is ArmedState.DISARMED
    assert "paused until" in rig.book.state.reason
    assert "it has been blind" in rig.book.state.reason


async def test_a_paused_guard_whose_key_is_refused_says_both():
    rig = await paused()
    rig.exchange.read_errors.append(Unauthorized("key", status=401, code="UNAUTHORIZED"))
    await rig.run()
    assert "paused until" in rig.book.state.reason
    assert "refuses the account's key" in rig.book.state.reason
    assert rig.next_look_s(3600.0) == 30


async def test_a_pause_that_ends_while_the_guard_is_blind_is_over_all_the_same():
    rig = await paused(span_s=20)
    rig.clock.advance(20)
    rig.exchange.read_errors.append(Unreachable("no route"))
    await rig.run()
    assert (rig.book.state.armed, rig.book.state.pause) == (ArmedState.DEGRADED, None)
    assert "its pause is over" in rig.book.state.reason
    assert rig.next_look_s(30.0) > 0


async def test_a_pause_is_in_force_though_the_disk_is_full_and_is_written_when_it_is_not():
    rig = Rig(action=CLOSE)
    await rig.run()
    rig.journal.full = True
    assert not await rig.pause(600)
    rig.market(a_position(), 85)
    await rig.run()
    assert rig.exchange.calls == []
    rig.journal.full = False
    await rig.run()
    assert rig.journal.of(GuardState)[-1].pause is not None


async def test_a_breach_that_a_paused_guard_has_told_does_not_run_it_at_every_tick():
    rig = await paused()
    price = price_at(a_position(), 85)
    assert rig.breached_at(price)
    rig.market(a_position(), 85)
    await rig.run()
    assert not rig.breached_at(price)
    await rig.resume()
    assert rig.breached_at(price)
