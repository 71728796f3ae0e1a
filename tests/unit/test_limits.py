"""The limits on calls. Time here is the event loop's own, which looptime makes pass at once."""

import asyncio

import pytest

from marginguard.domain.errors import Transient
from marginguard.lnmarkets.limits import PERIOD_S, Budget, Limits

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
    reads = [limits.take(LONG_S, change=False) for _ in range(12)]
    changes = [limits.take(LONG_S, change=True) for _ in range(12)]
    assert most_in_a_second(await times_of(*reads, *changes)) == 5


async def test_a_change_never_waits_behind_reads():
    """Failure 5: protective calls first."""
    limits = Limits.of_key()
    reads = [limits.take(LONG_S, change=False) for _ in range(30)]
    *_, first, second = await times_of(
        *reads, limits.take(LONG_S, change=True), limits.take(LONG_S, change=True)
    )
    assert (first, second) == (0, 0)


async def test_changes_use_the_budget_of_the_reads_when_nobody_reads():
    limits = Limits.of_key()
    times = await times_of(*(limits.take(LONG_S, change=True) for _ in range(5)))
    assert times == [0] * 5


async def test_unsigned_calls_are_one_a_second():
    limits = Limits.of_address()
    times = await times_of(*(limits.take(LONG_S, change=False) for _ in range(3)))
    assert times == pytest.approx([0, PERIOD_S, 2 * PERIOD_S], abs=0.01)


async def test_the_limits_grow_with_the_scale():
    limits = Limits.of_address(rate_scale=10)
    times = await times_of(*(limits.take(LONG_S, change=False) for _ in range(3)))
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
        limits.take(LONG_S, change=False), limits.take(LONG_S, change=True)
    )
    assert (read, change) == pytest.approx((7.0 + PERIOD_S / 10, 7.0), abs=0.01)


async def test_a_pause_without_a_length_lasts_a_period():
    limits = Limits.of_key()
    limits.pause(None)
    (change,) = await times_of(limits.take(LONG_S, change=True))
    assert change == pytest.approx(PERIOD_S, abs=0.01)


async def test_a_pause_reaches_those_in_line_too():
    limits = Limits.of_key()
    await times_of(*(limits.take(LONG_S, change=False) for _ in range(3)))
    waiting = asyncio.create_task(limits.take(LONG_S, change=False))
    await asyncio.sleep(0.5)
    limits.pause(10.0)
    await waiting
    assert now_s() == pytest.approx(0.5 + 10.0 + PERIOD_S / 10, abs=0.01)


async def test_a_shorter_pause_does_not_end_a_longer_one():
    limits = Limits.of_key()
    limits.pause(10.0)
    limits.pause(1.0)
    (change,) = await times_of(limits.take(LONG_S, change=True))
    assert change == pytest.approx(10.0, abs=0.01)


async def test_a_call_that_a_pause_outlasts_fails_at_once_and_says_how_long():
    limits = Limits.of_key()
    limits.pause(30.0)
    with pytest.raises(Transient) as caught:
        await limits.take(5.0, change=True)
    assert caught.value.retry_after_s == pytest.approx(30.0, abs=0.01)
    assert now_s() == pytest.approx(0, abs=0.01)
