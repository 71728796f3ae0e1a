"""The limits on calls. Time here is the event loop's own, which looptime makes pass at once."""

import asyncio

import pytest

from marginguard.domain.errors import Transient
from marginguard.lnmarkets.limits import PERIOD_S, Budget, Limits, Urgency

pytestmark = pytest.mark.looptime

LONG_S = 600.0


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def times_of(*takes):
    """Take all turns at once; return when each was given, in seconds from now."""
    start_s = now_s()

    async def one(take) -> float:
        await take
        return round(now_s() - start_s, 3)

    return await asyncio.gather(*(one(take) for take in takes))


def most_in_a_second(times: list[float]) -> int:
    return max(sum(start <= at < start + 1.0 for at in times) for start in times)


@pytest.mark.parametrize("calls", [1, 2, 3])
async def test_no_second_of_any_position_holds_more_calls_than_allowed(calls):
    """Failure 5: a plain bucket would let twice as many through in its first second."""
    budget = Budget(calls)
    times = await times_of(*(budget.take(LONG_S) for _ in range(20)))
    assert most_in_a_second(times) == calls


async def test_a_full_budget_is_used_at_once_and_in_the_order_of_asking():
    budget = Budget(3)
    times = await times_of(*(budget.take(LONG_S) for _ in range(7)))
    assert times == pytest.approx([0, 0, 0, PERIOD_S, PERIOD_S, PERIOD_S, 2 * PERIOD_S], abs=0.01)


async def test_an_idle_second_saves_up_no_more_than_a_full_budget():
    budget = Budget(3)
    await times_of(*(budget.take(LONG_S) for _ in range(3)))
    await asyncio.sleep(60)
    times = await times_of(*(budget.take(LONG_S) for _ in range(6)))
    assert most_in_a_second(times) == 3


async def test_all_calls_of_a_key_stay_within_five_a_second():
    limits = Limits.of_key()
    reads = [limits.take(LONG_S, Urgency.LOOK) for _ in range(12)]
    changes = [limits.take(LONG_S, Urgency.PROTECT) for _ in range(12)]
    stops = [limits.take(LONG_S, Urgency.PREPARE) for _ in range(12)]
    assert most_in_a_second(await times_of(*reads, *changes, *stops)) == 5


async def test_a_change_never_waits_behind_reads():
    """Failure 5: protective calls first."""
    limits = Limits.of_key()
    reads = [limits.take(LONG_S, Urgency.LOOK) for _ in range(30)]
    *_, first, second = await times_of(
        *reads, limits.take(LONG_S, Urgency.PROTECT), limits.take(LONG_S, Urgency.PROTECT)
    )
    assert (first, second) == (0, 0)


async def test_a_protective_call_never_waits_behind_stop_losses():
    """Failure 5: protective calls first, with the reads' share of the limit used up too."""
    limits = Limits.of_key()
    reads = [limits.take(LONG_S, Urgency.LOOK) for _ in range(30)]
    stops = [limits.take(LONG_S, Urgency.PREPARE) for _ in range(30)]
    protective = [limits.take(LONG_S, Urgency.PROTECT) for _ in range(3)]
    times = await times_of(*reads, *stops, *protective)
    assert times[-3:] == pytest.approx([0, PERIOD_S, PERIOD_S], abs=0.01)
    assert [at for at in sorted(times[30:-3]) if at < 1.5 * PERIOD_S] == [0]


async def test_stop_losses_go_one_by_one_and_leave_a_call_free():
    budget = Budget(2)
    times = await times_of(*(budget.take(LONG_S, gives_way=True) for _ in range(4)))
    assert times == pytest.approx([n * PERIOD_S for n in range(4)], abs=0.01)
    assert budget.idle


async def test_stop_losses_go_on_when_the_protective_calls_are_done():
    budget = Budget(2)
    protective = [budget.take(LONG_S) for _ in range(4)]
    *_, stop = await times_of(*protective, budget.take(LONG_S, gives_way=True))
    assert stop == pytest.approx(2 * PERIOD_S, abs=0.01)


async def test_stop_losses_hold_no_read_back():
    """To see the account matters more than what only prepares."""
    limits = Limits.of_key()
    stops = [limits.take(LONG_S, Urgency.PREPARE) for _ in range(9)]
    reads = [limits.take(LONG_S, Urgency.LOOK) for _ in range(3)]
    assert (await times_of(*stops, *reads))[-3:] == [0, 0, 0]


async def test_after_a_pause_the_protective_calls_go_before_the_stop_losses():
    """Failure 5: `Retry-After` for the whole key, protective calls first."""
    limits = Limits.of_key()
    limits.pause(7.0)
    stops = [limits.take(LONG_S, Urgency.PREPARE) for _ in range(3)]
    protective = [limits.take(LONG_S, Urgency.PROTECT) for _ in range(2)]
    times = await times_of(*stops, *protective)
    assert times[-2:] == pytest.approx([7.0, 7.0], abs=0.01)
    assert min(times[:3]) == pytest.approx(7.0 + PERIOD_S, abs=0.01)


async def test_a_stop_loss_that_must_wait_longer_than_its_timeout_fails_at_once():
    budget = Budget(2)
    waiting = [asyncio.create_task(budget.take(LONG_S, gives_way=True)) for _ in range(4)]
    await asyncio.sleep(0)
    start_s = now_s()
    with pytest.raises(Transient) as caught:
        await budget.take(2.0, gives_way=True)
    assert now_s() == start_s
    assert caught.value.retry_after_s == pytest.approx(4 * PERIOD_S, abs=0.01)
    await asyncio.gather(*waiting)


async def test_a_stop_loss_held_back_by_protective_calls_fails_when_its_time_is_up():
    budget = Budget(2)
    protective = [asyncio.create_task(budget.take(LONG_S)) for _ in range(12)]
    await asyncio.sleep(0)
    start_s = now_s()
    with pytest.raises(Transient):
        await budget.take(3.0, gives_way=True)
    assert now_s() - start_s == pytest.approx(3.0, abs=0.01)
    await asyncio.gather(*protective)


async def test_changes_use_the_budget_of_the_reads_when_nobody_reads():
    limits = Limits.of_key()
    times = await times_of(*(limits.take(LONG_S, Urgency.PROTECT) for _ in range(5)))
    assert times == [0] * 5


async def test_unsigned_calls_are_one_a_second():
    limits = Limits.of_address()
    times = await times_of(*(limits.take(LONG_S, Urgency.LOOK) for _ in range(3)))
    assert times == pytest.approx([0, PERIOD_S, 2 * PERIOD_S], abs=0.01)


async def test_the_limits_grow_with_the_scale():
    limits = Limits.of_address(rate_scale=10)
    times = await times_of(*(limits.take(LONG_S, Urgency.LOOK) for _ in range(3)))
    assert times == pytest.approx([0, PERIOD_S / 10, PERIOD_S / 5], abs=0.01)


async def test_a_call_that_must_wait_longer_than_its_timeout_fails_at_once():
    budget = Budget(1)
    waiting = [asyncio.create_task(budget.take(LONG_S)) for _ in range(6)]
    await asyncio.sleep(0)
    start_s = now_s()
    with pytest.raises(Transient, match=r"no room within 2\.0 s") as caught:
        await budget.take(2.0)
    assert now_s() == start_s
    assert caught.value.retry_after_s == pytest.approx(6 * PERIOD_S, abs=0.01)
    await asyncio.gather(*waiting)


async def test_a_call_whose_time_runs_out_in_line_fails_then():
    budget = Budget(1)
    await budget.take(LONG_S)
    with pytest.raises(Transient):
        await budget.take(0.5)


async def test_one_that_leaves_the_line_costs_the_others_nothing():
    budget = Budget(1)
    await budget.take(LONG_S)
    first, second = (asyncio.create_task(budget.take(LONG_S)) for _ in range(2))
    await asyncio.sleep(0.5)
    first.cancel()
    await second
    assert now_s() == pytest.approx(PERIOD_S, abs=0.01)
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_pause_holds_all_calls_of_the_key_and_changes_go_first():
    """Failure 5: `Retry-After` for the whole key, protective calls first."""
    limits = Limits.of_key()
    limits.pause(7.0)
    read, change = await times_of(
        limits.take(LONG_S, Urgency.LOOK), limits.take(LONG_S, Urgency.PROTECT)
    )
    assert (read, change) == pytest.approx((7.0 + PERIOD_S / 10, 7.0), abs=0.01)


async def test_a_pause_without_a_length_lasts_a_period():
    limits = Limits.of_key()
    limits.pause(None)
    (change,) = await times_of(limits.take(LONG_S, Urgency.PROTECT))
    assert change == pytest.approx(PERIOD_S, abs=0.01)


async def test_a_pause_reaches_those_in_line_too():
    limits = Limits.of_key()
    await times_of(*(limits.take(LONG_S, Urgency.LOOK) for _ in range(3)))
    waiting = asyncio.create_task(limits.take(LONG_S, Urgency.LOOK))
    await asyncio.sleep(0.5)
    limits.pause(10.0)
    await waiting
    assert now_s() == pytest.approx(0.5 + 10.0 + PERIOD_S / 10, abs=0.01)


async def test_a_shorter_pause_does_not_end_a_longer_one():
    limits = Limits.of_key()
    limits.pause(10.0)
    limits.pause(1.0)
    (change,) = await times_of(limits.take(LONG_S, Urgency.PROTECT))
    assert change == pytest.approx(10.0, abs=0.01)


async def test_a_call_that_a_pause_outlasts_fails_at_once_and_says_how_long():
    limits = Limits.of_key()
    limits.pause(30.0)
    with pytest.raises(Transient) as caught:
        await limits.take(5.0, Urgency.PROTECT)
    assert caught.value.retry_after_s == pytest.approx(30.0, abs=0.01)
    assert now_s() == pytest.approx(0, abs=0.01)
