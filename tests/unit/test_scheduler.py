"""When guards run. Time here is the event loop's own, which looptime makes pass at once."""

import asyncio

import pytest

from marginguard.engine.scheduler import Scheduler
from marginguard.engine.settings import EngineSettings, Guard
from tests.unit.strategies import some_rules

pytestmark = pytest.mark.looptime


class LoopClock:
    def monotonic(self):
        return asyncio.get_running_loop().time()


class FakeRunner:
    """A guard whose runs take `takes_s` and end as `ends` says."""

    def __init__(self, name="guard-1", *, takes_s=0.0, ends=()):
        self.guard = Guard(id=name, account_id="main", user_id="owner", rules=some_rules())
        self.takes_s = takes_s
        self.ends = list(ends)
        self.runs = []
        self.blind_look_s = float("inf")
        self.under_way = 0
        self.most_under_way = 0

    async def run(self, source):
        self.runs.append((asyncio.get_running_loop().time(), source.value))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(self.takes_s)
        self.under_way -= 1
        return self.ends.pop(0) if self.ends else 0

    def next_look_s(self, beat_s):
        return min(beat_s, self.blind_look_s)

    def times(self):
        first = self.runs[0][0]
        return [round(at - first, 3) for at, _ in self.runs]


async def run_for(seconds, *runners, wakes=(), **settings):
    stop, first_pass = asyncio.Event(), asyncio.Event()
    scheduler = Scheduler(
        runners=runners,
        settings=EngineSettings(**settings),
        clock=LoopClock(),
        stop=stop,
        first_pass=first_pass,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(scheduler.run())
        elapsed = 0.0
        for at, guard_id in wakes:
            await asyncio.sleep(at - elapsed)
            elapsed = at
            scheduler.wake(guard_id)
        await asyncio.sleep(seconds - elapsed)
        stop.set()
    return first_pass


async def test_a_guard_runs_at_once_and_then_at_its_interval():
    runner = FakeRunner()
    await run_for(65, runner)
    assert runner.times() == [0, 30, 60]
    assert {source for _, source in runner.runs} == {"schedule"}


async def test_the_time_that_runs_take_does_not_shift_the_beat():
    runner = FakeRunner(takes_s=7)
    await run_for(65, runner)
    assert runner.times() == [0, 30, 60]


async def test_a_run_longer_than_the_interval_skips_beats_and_never_overlaps_itself():
    runner = FakeRunner(takes_s=70)
    await run_for(185, runner)
    assert runner.times() == [0, 90, 180]
    assert runner.most_under_way == 1


async def test_a_failed_run_is_retried_with_doubling_delays_instead_of_the_interval():
    runner = FakeRunner(ends=[3, 3, 3, 3, 0])
    await run_for(70, runner)
    assert runner.times() == [0, 5, 15, 35, 60]
    assert [source for _, source in runner.runs] == [
        "schedule",
        "retry",
        "retry",
        "retry",
        "schedule",
    ]


async def test_a_retry_never_waits_longer_than_the_interval():
    runner = FakeRunner(ends=[1])
    await run_for(2.5, runner, interval_s=1.0)
    assert runner.times()[:2] == [0, 1]


async def test_no_more_guards_run_at_once_than_there_are_slots():
    shared = FakeRunner(takes_s=10)
    runners = [FakeRunner(f"guard-{n}", takes_s=10) for n in range(5)]
    for runner in runners:
        runner.run = shared.run
    await run_for(45, *runners, max_concurrent=2)
    assert shared.most_under_way == 2


async def test_the_first_pass_is_over_once_every_guard_has_run():
    slow, quick = FakeRunner("slow", takes_s=20), FakeRunner("quick")
    assert (await run_for(25, slow, quick)).is_set()


async def test_stopping_wakes_the_wait_and_lets_a_run_under_way_end():
    runner = FakeRunner(takes_s=10)
    started = asyncio.get_running_loop().time()
    await run_for(1, runner)
    assert runner.under_way == 0
    assert asyncio.get_running_loop().time() - started == pytest.approx(10, abs=0.1)


async def test_without_guards_the_first_pass_is_over_at_once():
    assert (await run_for(0.1)).is_set()


async def test_a_woken_guard_runs_at_once_and_keeps_its_beat():
    runner = FakeRunner()
    await run_for(65, runner, wakes=[(10, "guard-1")])
    assert runner.times() == [0, 10, 30, 60]
    assert [source for _, source in runner.runs][1] == "price"


async def test_a_guard_woken_while_it_runs_runs_once_more():
    runner = FakeRunner(takes_s=4)
    await run_for(25, runner, wakes=[(2, "guard-1")])
    assert runner.times() == [0, 4]


async def test_wakes_are_spaced_and_none_is_lost():
    runner = FakeRunner()
    await run_for(25, runner, wakes=[(10, "guard-1"), (10.5, "guard-1"), (10.7, "guard-1")])
    assert runner.times() == [0, 10, 11]


async def test_a_guard_that_cannot_see_looks_sooner_than_a_long_interval():
    runner = FakeRunner()
    runner.blind_look_s = 20
    await run_for(45, runner, interval_s=3600.0)
    assert runner.times() == [0, 20, 40]
