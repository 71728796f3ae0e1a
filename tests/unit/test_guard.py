"""One execution of a guard, from reads that fail to notices that are due."""

import asyncio
from dataclasses import replace

import pytest

from marginguard.domain.errors import Rejected, Unauthorized, Unreachable
from marginguard.domain.model import ActionKind
from marginguard.domain.records import (
    ActionStatus,
    ExecutionRecord,
    ExecutionSource,
    GuardState,
)
from marginguard.engine.hooks import Hooks
from tests.unit.fakes import PROMPT, Rig, ambiguous, rejected
from tests.unit.strategies import a_position, price_at

CLOSE = ActionKind.CLOSE_POSITION
ADD = ActionKind.ADD_MARGIN


def newest_execution(rig):
    return rig.journal.of(ExecutionRecord)[-1]


async def test_nothing_breached_is_counted_and_not_recorded():
    rig = Rig()
    assert await rig.run() == 0
    assert rig.ears.checks == 1
    assert rig.journal.of(ExecutionRecord) == []


async def test_a_quiet_run_tells_how_long_it_and_its_phases_took():
    rig, told = Rig(action=CLOSE), []
    rig.hooks = Hooks(quiet=lambda took_s, phases: told.append((took_s, dict(phases))))
    quote = rig.prices.quote

    async def slowly():
        rig.clock.advance(0.5)
        return await quote()

    rig.prices.quote = slowly
    await rig.run()
    [(took_s, phases)] = told
    assert (took_s, phases["price"]) == (0.5, 0.5)
    assert phases.keys() >= {"positions", "price", "decision"}
    rig.market(a_position(), 90)
    await rig.run()
    assert len(told) == 1


async def test_the_first_good_look_arms_the_guard_and_says_so():
    rig = Rig()
    await rig.run()
    await rig.run()
    assert rig.ears.kinds() == ["guard_armed"]
    assert [s.armed.value for s in rig.journal.of(GuardState)][-1] == "armed"


async def test_a_failed_read_of_positions_is_unknown_and_never_flat():
    """Failure 9: an error is not an empty list."""
    rig = Rig()
    await rig.run()
    seen = rig.ears.seen["main"]
    rig.exchange.read_errors.append(Unreachable("down"))
    assert await rig.run() == 3
    record = newest_execution(rig)
    assert (record.status.value, record.error_code.value) == ("failed", "POSITIONS_UNKNOWN")
    assert record.error_type.value == "NETWORK_ERROR"
    assert rig.ears.seen["main"] is seen
    assert "position_gone" not in rig.ears.kinds()


async def test_a_position_without_a_price_is_unknown_and_recorded():
    rig = Rig()
    rig.prices.price = None
    assert await rig.run() == 3
    assert newest_execution(rig).error_code.value == "PRICE_UNKNOWN"


async def test_a_stale_price_is_never_acted_on():
    """Failure 19: stale data alerts and does not act."""
    rig = Rig(action=CLOSE)
    rig.prices.price = price_at(a_position(), 90)
    rig.prices.age_s = 5.1
    await rig.run()
    assert rig.exchange.calls == []
    assert newest_execution(rig).status.value == "failed"


async def test_a_blind_guard_is_degraded_only_after_blind_after_and_says_so_once():
    rig = Rig()
    await rig.run()
    for _ in range(5):
        rig.exchange.read_errors.append(Unreachable("down"))
        await rig.run()
        rig.clock.advance(15)
    assert rig.book.state.armed.value == "degraded"
    await rig.run()
    told = ["guard_armed", "execution_failed", "guard_degraded", "guard_armed"]
    assert rig.ears.kinds() == told


async def test_a_guard_that_never_saw_anything_is_degraded_loudly_too():
    rig = Rig()
    rig.exchange.read_errors.extend([Unreachable("down")] * 2)
    await rig.run()
    rig.clock.advance(60)
    await rig.run()
    assert rig.ears.kinds() == ["guard_degraded"]


async def test_a_refused_key_disarms_and_a_working_one_arms_again():
    """Failure 6: disarm, and re-arm by itself when the key works again."""
    rig = Rig()
    rig.exchange.read_errors.append(Unauthorized("UNAUTHORIZED", status=401, code="UNAUTHORIZED"))
    assert await rig.run() == 0
    assert rig.book.state.armed.value == "disarmed"
    assert newest_execution(rig).error_code.value == "INVALID_CREDENTIALS"
    await rig.run()
    assert rig.book.state.armed.value == "armed"


async def test_an_unknown_balance_stops_spending_and_not_closing():
    adding, closing = Rig(action=ADD), Rig(action=CLOSE)
    for rig in (adding, closing):
        rig.prices.price = price_at(a_position(), 85)
        rig.exchange.balance_error = Rejected("no permission", status=403, code=None)
        await rig.run()
    assert adding.exchange.calls == []
    assert "unprotected" in adding.ears.kinds()
    assert closing.exchange.calls == [("close", "trade-1")]


async def test_one_failing_position_never_holds_up_another_and_the_run_is_partial():
    """Failure 22: the others go on, worst first."""
    worst = a_position(id="worst", margin=90_000)
    other = a_position(id="other")
    rig = Rig(other, worst, action=CLOSE)
    rig.prices.price = price_at(other, 85)
    rig.exchange.script.append((False, rejected()))
    await rig.run()
    assert [call[1] for call in rig.exchange.calls] == ["worst", "other"]
    record = newest_execution(rig)
    assert record.status.value == "partial"
    assert (record.positions_succeeded, record.positions_failed) == (1, 1)
    assert record.results["other"].startswith("level 85")


async def test_completed_needs_every_action_proved():
    rig = Rig(action=CLOSE)
    rig.prices.price = price_at(a_position(), 85)
    await rig.run()
    record = newest_execution(rig)
    assert (record.status.value, record.positions_requiring_action) == ("completed", 1)
    assert set(record.phases) == {"positions", "settling", "price", "decision", "actions"}


async def test_an_unproved_action_fails_the_run_which_is_then_retried():
    rig = Rig(action=ADD)
    rig.prices.price = price_at(a_position(), 85)
    rig.exchange.script.append((False, ambiguous()))
    assert await rig.run() == 3
    assert newest_execution(rig).status.value == "failed"


async def test_a_run_that_settles_an_earlier_action_is_recorded_as_a_recovery():
    rig = Rig(action=ADD)
    rig.prices.price = price_at(a_position(), 85)
    rig.exchange.script.append((False, ambiguous()))
    await rig.run()
    rig.exchange.top_up("trade-1", rig.exchange.calls[0][2])
    await rig.run()
    record = newest_execution(rig)
    assert (record.source.value, record.status.value) == ("recover", "completed")
    assert rig.actions()[0].status is ActionStatus.DONE


async def test_an_unprotected_position_is_spoken_of_again_every_minute():
    rig = Rig(action=ADD, balance=10)
    rig.prices.price = price_at(a_position(), 85)
    for _ in range(5):
        await rig.run()
        rig.clock.advance(30)
    assert rig.ears.kinds().count("unprotected") == 3
    assert len(rig.journal.of(ExecutionRecord)) == 3


async def test_auto_execution_off_alerts_and_does_nothing():
    rig = Rig(action=CLOSE, auto_execution=False)
    rig.prices.price = price_at(a_position(), 85)
    await rig.run()
    assert rig.exchange.calls == []
    assert "threshold_reached" in rig.ears.kinds()
    assert newest_execution(rig).status.value == "skipped"


async def test_a_position_that_no_guard_covers_is_told_once_an_hour():
    rig = Rig(a_position(), a_position(id="forgotten"), selected=frozenset({"trade-1"}))
    await rig.run()
    await rig.run()
    assert rig.ears.kinds().count("position_not_covered") == 1
    rig.clock.advance(3600)
    await rig.run()
    assert rig.ears.kinds().count("position_not_covered") == 2
    seen = rig.ears.seen["main"]
    assert seen["forgotten"].guard_id is None
    assert seen["trade-1"].guard_id == "guard-1"


async def test_a_position_that_ends_without_the_guard_is_reported():
    """Failure 11: liquidated or closed by others is told."""
    rig = Rig()
    await rig.run()
    rig.exchange.end("trade-1")
    await rig.run()
    assert "position_gone" in rig.ears.kinds()


async def test_a_position_that_the_guard_closed_surprises_nobody():
    rig = Rig(action=CLOSE)
    rig.prices.price = price_at(a_position(), 85)
    await rig.run()
    await rig.run()
    assert "position_gone" not in rig.ears.kinds()


async def test_a_second_breach_soon_after_the_first_is_held_back_by_the_cooldown():
    """Failure 23: hysteresis, cooldown."""
    rig = Rig(action=ADD, rung={"add_margin_amount": 1_000})
    rig.prices.price = price_at(a_position(), 85)
    await rig.run()
    rig.clock.advance(59)
    await rig.run()
    assert len(rig.exchange.calls) == 1
    rig.clock.advance(1)
    await rig.run()
    assert len(rig.exchange.calls) == 2


async def test_the_memory_of_a_breach_survives_a_restart():
    rig = Rig(action=ADD, rung={"add_margin_amount": 1_000})
    rig.prices.price = price_at(a_position(), 85)
    await rig.run()
    rig.start()
    await rig.run()
    assert len(rig.exchange.calls) == 1


async def test_a_level_moved_by_funding_between_reads_is_judged_by_the_new_margin():
    rig = Rig(action=CLOSE)
    rig.prices.price = price_at(a_position(), 79)
    await rig.run()
    assert rig.exchange.calls == []
    rig.exchange.positions["trade-1"] = replace(a_position(), margin=90_000, funding_paid=10_000)
    await rig.run()
    assert rig.exchange.calls == [("close", "trade-1")]


async def test_a_price_that_breaches_a_known_position_calls_for_a_look():
    rig = Rig(action=CLOSE)
    assert not rig.breached_at(price_at(a_position(), 85))
    await rig.run()
    assert rig.breached_at(price_at(a_position(), 85))
    assert not rig.breached_at(price_at(a_position(), 79))


async def test_a_price_calls_for_no_look_while_the_cooldown_runs():
    rig = Rig(action=ADD, rung={"add_margin_amount": 1_000})
    rig.prices.price = price_at(a_position(), 85)
    await rig.run()
    assert not rig.breached_at(price_at(a_position(), 85))
    assert rig.breached_at(price_at(a_position(), 95))


async def test_without_real_time_monitoring_no_price_calls_for_a_look():
    rig = Rig(action=CLOSE, real_time_monitoring=False)
    await rig.run()
    assert not rig.breached_at(price_at(a_position(), 85))


async def test_a_refused_key_is_tried_again_every_30_seconds():
    rig = Rig()
    rig.exchange.read_errors.append(Unauthorized("UNAUTHORIZED", status=401, code="UNAUTHORIZED"))
    await rig.run()
    assert rig.next_look_s(0.2) == 30.0
    assert len(rig.refusals) == 1
    await rig.run()
    assert rig.next_look_s(0.2) == 0.2


async def test_positions_read_long_ago_are_not_acted_on():
    """Failure 26: a process that was frozen in the middle of a read sees old data."""
    rig = Rig(action=CLOSE)
    rig.prices.price = price_at(a_position(), 90)
    read = rig.exchange.running_positions

    async def frozen_meanwhile(**_):
        positions = await read()
        rig.clock.advance(10.1)
        return positions

    rig.exchange.running_positions = frozen_meanwhile
    await rig.run()
    assert rig.exchange.calls == []
    assert newest_execution(rig).error_type.value == "NETWORK_ERROR"


async def ages_asked_for(rig, source):
    """Return how old the reads of balance and positions may be in a run."""
    ages = []

    def noting(read):
        async def reading(*, max_age_s=0.0):
            ages.append(max_age_s)
            return await read(max_age_s=max_age_s)

        return reading

    exchange = rig.exchange
    balance, positions = exchange.balance, exchange.running_positions
    exchange.balance, exchange.running_positions = noting(balance), noting(positions)
    try:
        await rig.run(source)
    finally:
        exchange.balance, exchange.running_positions = balance, positions
    return ages


@pytest.mark.parametrize("source", list(ExecutionSource))
async def test_only_a_routine_look_shares_what_another_guard_read_within_a_second(source):
    routine = source is ExecutionSource.SCHEDULE
    assert await ages_asked_for(Rig(action=CLOSE), source) == [1.0 if routine else 0.0] * 2


async def test_what_is_to_be_settled_is_read_anew_in_a_routine_look_too():
    rig = Rig(action=ADD)
    rig.market(a_position(), 85)
    rig.exchange.script.append((False, ambiguous()))
    await rig.run()
    assert rig.book.unsettled
    assert await ages_asked_for(rig, ExecutionSource.SCHEDULE) == [0.0, 0.0]


async def test_a_look_that_outlives_its_time_out_is_a_stalled_run_that_is_retried():
    rig = Rig(action=CLOSE, settings=replace(PROMPT, timeout_s=0.01))

    async def never(**_):
        await asyncio.Event().wait()

    rig.exchange.running_positions = never
    async with asyncio.timeout(10):
        assert await rig.run() == 3
    record = newest_execution(rig)
    assert (record.status.value, record.error_code.value) == ("failed", "STALLED")
    assert record.error_type.value == "NETWORK_ERROR"


async def test_a_guard_whose_positions_do_not_run_waits_and_says_so():
    """Failure 40: disarmed, loudly; it arms itself when one of them appears."""
    rig = Rig(a_position(id="other"), selected=frozenset({"trade-7", "trade-8"}))
    await rig.run()
    await rig.run()
    assert rig.book.state.armed.value == "disarmed"
    [notice] = [n for n in rig.ears.notices if n.kind.value == "guard_disarmed"]
    assert notice.severity.value == "critical"
    assert "no such position runs: trade-7, trade-8; it waits for it" in notice.text
    assert "position_not_covered" in rig.ears.kinds()
    rig.exchange.positions["trade-7"] = a_position(id="trade-7")
    await rig.run()
    assert rig.book.state.armed.value == "armed"
    assert "no such position runs: trade-8" in rig.book.state.reason
    assert rig.ears.kinds().count("guard_armed") == 1


async def test_a_guard_whose_position_was_closed_says_that_it_guards_nothing():
    """Failure 40: its position vanished."""
    rig = Rig(selected=frozenset({"trade-1"}))
    await rig.run()
    rig.exchange.end("trade-1")
    await rig.run()
    assert rig.book.state.armed.value == "disarmed"


async def test_a_guard_that_awaits_a_position_still_guards_the_others():
    rig = Rig(action=CLOSE, selected=frozenset({"trade-1", "trade-7"}))
    rig.market(a_position(), 85)
    await rig.run()
    assert rig.exchange.calls == [("close", "trade-1")]
