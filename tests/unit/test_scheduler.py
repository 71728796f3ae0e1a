"""When guards run. Time here is the event loop's own, which looptime makes pass at once."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from marginguard.engine.beats import phase_s
from marginguard.engine.hooks import Hooks
from marginguard.engine.scheduler import GRACE_S, Scheduler
from marginguard.engine.settings import EngineSettings, Guard
from tests.unit.strategies import some_rules

pytestmark = pytest.mark.looptime


FIRST, SECOND, THIRD = 20.754, 50.754, 80.754
"""The beats of guard-1 after the start, at an interval of 30 s."""


class LoopClock:
    """The loop's time, and what the machine was suspended for, of which the loop knows nothing."""

    def __init__(self):
        self.suspended_s = 0.0

    def monotonic(self):
        return asyncio.get_running_loop().time() + self.suspended_s


class FakeRunner:
    """A guard whose runs take `takes_s` and end as `ends` says."""

    def __init__(self, name="guard-1", *, takes_s=0.0, ends=(), priority=5):
        self.guard = Guard(
            id=name,
            account_id="main",
            user_id="owner",
            rules=some_rules(),
            priority=priority,
        )
        self.takes_s = takes_s
        self.ends = list(ends)
        self.started_s = asyncio.get_running_loop().time()
        self.runs = []
        self.recorded = None
        self.blind_look_s = float("inf")
        self.under_way = 0
        self.most_under_way = 0

    async def run(self, source):
        at_s = asyncio.get_running_loop().time() - self.started_s
        self.runs.append((round(at_s, 3), source.value))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(self.takes_s)
        self.under_way -= 1
        return self.ends.pop(0) if self.ends else 0

    def next_look_s(self, beat_s):
        return min(beat_s, self.blind_look_s)

    def times(self):
        return [at_s for at_s, _ in self.runs]

    def sources(self):
        return [source for _, source in self.runs]


@dataclass
class Heard:
    """What the hooks were told."""

    started_s: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    decided: list = field(default_factory=list)
    lateness: list = field(default_factory=list)
    waiting: list = field(default_factory=list)
    stuck: list = field(default_factory=list)

    def hooks(self):
        return Hooks(
            decided=lambda: self.decided.append(self.elapsed_s()),
            began=lambda late_s: self.lateness.append(round(late_s, 3)),
            waiting=self.waiting.append,
            stuck=lambda guard_id, running_s: self.stuck.append((guard_id, round(running_s))),
        )

    def elapsed_s(self):
        return round(asyncio.get_running_loop().time() - self.started_s, 3)


class Schedule:
    """A scheduler at work, and what it told."""

    def __init__(self, *runners, **settings):
        self.clock, self.heard = LoopClock(), Heard()
        self.stop, self.first_pass = asyncio.Event(), asyncio.Event()
        self.scheduler = Scheduler(
            runners=runners,
            settings=EngineSettings(**settings),
            clock=self.clock,
            stop=self.stop,
            first_pass=self.first_pass,
            hooks=self.heard.hooks(),
        )

    async def until(self, at_s):
        await asyncio.sleep(at_s - (asyncio.get_running_loop().time() - self.heard.started_s))


@asynccontextmanager
async def running(*runners, **settings):
    schedule = Schedule(*runners, **settings)
    async with asyncio.TaskGroup() as group:
        group.create_task(schedule.scheduler.run())
        yield schedule
        schedule.stop.set()


async def run_for(seconds, *runners, wakes=(), **settings):
    async with running(*runners, **settings) as schedule:
        for at_s, guard_id in wakes:
            await schedule.until(at_s)
            schedule.scheduler.wake(guard_id)
        await schedule.until(seconds)
    return schedule


async def test_a_guard_runs_at_once_and_then_at_its_beats():
    runner = FakeRunner()
    await run_for(85, runner)
    assert runner.times() == [0, FIRST, SECOND, THIRD]
    assert set(runner.sources()) == {"schedule"}


async def test_the_time_that_runs_take_does_not_shift_the_beat():
    runner = FakeRunner(takes_s=7)
    await run_for(85, runner)
    assert runner.times() == [0, FIRST, SECOND, THIRD]


async def test_a_run_longer_than_the_interval_skips_beats_and_never_overlaps_itself():
    runner = FakeRunner(takes_s=70)
    await run_for(175, runner)
    assert runner.times() == [0, THIRD, 170.754]
    assert runner.most_under_way == 1


async def test_guards_first_run_at_once_and_later_spread_over_the_interval():
    runners = [FakeRunner(f"guard-{number}") for number in range(30)]
    await run_for(60, *runners)
    beats = [phase_s(runner.guard.id, 30.0) for runner in runners]
    for runner, beat in zip(runners, beats, strict=True):
        assert runner.times() == pytest.approx([0, beat, beat + 30], abs=0.001)


@settings(max_examples=20)
@given(
    interval_s=st.floats(min_value=0.2, max_value=5000),
    takes=st.lists(st.floats(min_value=0, max_value=1.5), min_size=1, max_size=4),
)
async def test_no_beat_is_lost_or_doubled_whatever_the_interval(interval_s, takes):
    runners = [
        FakeRunner(f"guard-{number}", takes_s=share * interval_s)
        for number, share in enumerate(takes)
    ]
    await run_for(10 * interval_s, *runners, interval_s=interval_s)
    for share, runner in zip(takes, runners, strict=True):
        first_s = phase_s(runner.guard.id, interval_s)
        beats = [(at_s - first_s) / interval_s for at_s in runner.times()[1:]]
        assert beats == pytest.approx([round(beat) for beat in beats], abs=0.01)
        apart = {round(after - before) for before, after in pairwise(beats)}
        if share < 0.99:
            assert apart == {1}
        elif share > 1.01:
            assert apart == {2}


async def test_a_failed_run_is_retried_with_doubling_delays_instead_of_the_interval():
    runner = FakeRunner(ends=[3, 3, 3, 3, 0])
    await run_for(60, runner)
    assert runner.times() == [0, 5, 15, 35, SECOND]
    assert runner.sources() == ["schedule", "retry", "retry", "retry", "schedule"]


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
    async with running(slow, quick) as schedule:
        await schedule.until(19)
        assert not schedule.first_pass.is_set()
        await schedule.until(21)
        assert schedule.first_pass.is_set()


async def test_stopping_wakes_the_wait_and_lets_a_run_under_way_end():
    runner = FakeRunner(takes_s=10)
    schedule = await run_for(1, runner)
    assert runner.under_way == 0
    assert schedule.heard.elapsed_s() == 10


async def test_stopping_begins_no_run_for_the_guards_that_wait_for_a_slot():
    runners = [FakeRunner(f"guard-{n}", takes_s=10) for n in range(3)]
    await run_for(1, *runners, max_concurrent=1)
    assert sum(len(runner.runs) for runner in runners) == 1


async def test_without_guards_the_first_pass_is_over_at_once():
    assert (await run_for(0.1)).first_pass.is_set()


async def test_a_woken_guard_runs_at_once_and_keeps_its_beat():
    runner = FakeRunner()
    await run_for(55, runner, wakes=[(10, "guard-1")])
    assert runner.times() == [0, 10, FIRST, SECOND]
    assert runner.sources()[1] == "price"


async def test_a_guard_woken_while_it_runs_runs_once_more():
    runner = FakeRunner(takes_s=4)
    await run_for(15, runner, wakes=[(2, "guard-1")])
    assert runner.times() == [0, 4]


async def test_wakes_are_spaced_and_none_is_lost():
    runner = FakeRunner()
    await run_for(15, runner, wakes=[(10, "guard-1"), (10.5, "guard-1"), (10.7, "guard-1")])
    assert runner.times() == [0, 10, 11]


async def test_waking_a_guard_that_is_not_scheduled_does_nothing():
    runner = FakeRunner()
    await run_for(15, runner, wakes=[(10, "removed")])
    assert runner.times() == [0]


async def test_a_guard_that_cannot_see_looks_sooner_than_a_long_interval():
    runner = FakeRunner()
    runner.blind_look_s = 20
    await run_for(45, runner, interval_s=3600.0)
    assert runner.times() == [0, 20, 40]


async def test_where_slots_are_short_the_larger_priority_runs_first():
    names = ("free", "pro", "lifetime")
    runners = [FakeRunner(n, takes_s=1, priority=p) for n, p in zip(names, (1, 4, 5), strict=True)]
    await run_for(2.5, *runners, max_concurrent=1)
    assert {runner.guard.id: runner.times() for runner in runners} == {
        "lifetime": [0],
        "pro": [1],
        "free": [2],
    }


async def test_a_guard_that_is_woken_in_the_line_overtakes_every_routine_run():
    """A breach is a real risk, whatever the plan."""
    routine = [FakeRunner(f"lifetime-{n}", takes_s=1, priority=5) for n in range(5)]
    free = FakeRunner("free", takes_s=1, priority=1)
    await run_for(8, *routine, free, wakes=[(1.5, "free")], max_concurrent=1)
    assert free.runs[0] == (2, "price")


async def test_a_guard_that_is_woken_from_its_sleep_overtakes_every_routine_run():
    free = FakeRunner("guard-1", priority=1)
    routine = [FakeRunner(f"lifetime-{n}", takes_s=6, priority=5) for n in range(9)]
    async with running(free, max_concurrent=1) as schedule:
        await schedule.until(1)
        await schedule.scheduler.replace([free, *routine])
        await schedule.until(3)
        schedule.scheduler.wake("guard-1")
        await schedule.until(15)
    assert free.runs == [(0, "schedule"), (7, "price")]


async def test_a_timer_that_fires_a_little_early_runs_a_guard_once():
    runner = FakeRunner()
    async with running(runner) as schedule:
        await schedule.until(10)
        schedule.clock.suspended_s = -0.0005
        await schedule.until(60)
    assert runner.times() == pytest.approx([0, FIRST, SECOND], abs=0.002)
    assert min(schedule.heard.lateness) == 0


async def test_a_guard_of_the_lowest_priority_is_run_while_the_others_take_every_slot():
    pressing = [FakeRunner(f"lifetime-{n}", takes_s=2, priority=5) for n in range(6)]
    free = FakeRunner("free", takes_s=2, priority=1)
    await run_for(300, *pressing, free, max_concurrent=1, interval_s=4.0)
    starts = free.times()
    # Four levels of priority at 10 s each, and then one run of each guard.
    assert max(b - a for a, b in zip([0, *starts], [*starts, 300], strict=True)) <= 40 + 14 + 4


async def test_the_hooks_hear_how_late_runs_begin_and_how_many_wait():
    runners = [FakeRunner(f"guard-{n}", takes_s=3) for n in range(3)]
    schedule = await run_for(8, *runners, max_concurrent=1)
    assert schedule.heard.lateness == [0, 3, 6]
    assert schedule.heard.waiting == [1, 2, 1, 0]


async def test_the_lateness_of_a_woken_guard_counts_from_its_waking():
    runner = FakeRunner(takes_s=4)
    schedule = await run_for(15, runner, wakes=[(3, "guard-1")])
    assert schedule.heard.lateness == [0, 1]


async def test_every_completed_run_is_a_decision_whatever_its_result():
    """Failure 38: an outage of the exchange must not look like a blocked daemon."""
    runner = FakeRunner(takes_s=1, ends=[3, 3, 0])
    schedule = await run_for(19, runner)
    assert schedule.heard.decided == [1, 7, 18]


async def test_a_long_interval_without_a_run_is_bridged_by_the_idle_pass():
    schedule = await run_for(65, FakeRunner(), interval_s=3600.0)
    assert schedule.heard.decided == [0, 20, 40, 60]


async def test_without_guards_the_idle_pass_decides_that_nothing_is_due():
    assert (await run_for(45)).heard.decided == [20, 40]


async def test_a_run_past_its_time_out_withholds_the_decision_of_the_idle_pass():
    """Failure 38: the watchdog must fire when the runs do not come back."""
    runner = FakeRunner(takes_s=1000)
    schedule = await run_for(200, runner, timeout_s=30.0, interval_s=3600.0)
    assert [at_s for at_s in schedule.heard.decided if at_s < 1000] == [20]
    assert 20 < 30 + GRACE_S < 40


async def test_guards_that_wait_for_a_slot_beyond_an_interval_withhold_it_too():
    slow = FakeRunner("slow", takes_s=100)
    schedule = await run_for(99, slow, FakeRunner(), max_concurrent=1, timeout_s=90.0)
    assert schedule.heard.decided[:2] == [20, 100]


async def test_a_run_that_does_not_come_back_is_told_once_and_holds_up_nobody_else():
    stuck, sound = FakeRunner("stuck", takes_s=500), FakeRunner()
    with capture_logs() as logs:
        schedule = await run_for(300, stuck, sound, max_concurrent=2, timeout_s=30.0)
    (told,) = [entry for entry in logs if entry["event"] == "execution.stuck"]
    assert (told["guard"], told["log_level"]) == ("stuck", "critical")
    assert schedule.heard.stuck == [("stuck", 100)]
    assert len(sound.runs) == 11
    assert [entry["guard"] for entry in logs if entry["event"] == "execution.came_back"] == [
        "stuck"
    ]


async def test_a_run_within_twice_its_time_out_is_not_called_stuck():
    schedule = await run_for(70, FakeRunner(takes_s=64), timeout_s=30.0)
    assert schedule.heard.stuck == []


async def test_a_run_that_seems_long_only_because_the_machine_was_suspended_is_not_stuck():
    """Failure 26: the run's own time-out has not passed yet."""
    async with running(FakeRunner(takes_s=25), timeout_s=30.0) as schedule:
        await schedule.until(10)
        schedule.clock.suspended_s = 7200.0
        await schedule.until(50)
    assert schedule.heard.stuck == []


async def test_after_a_suspension_a_guard_does_not_sleep_on_to_its_old_beat():
    """Failure 26: the loop's sleep does not count the time that the machine was suspended."""
    runner = FakeRunner()
    async with running(runner, interval_s=3600.0) as schedule:
        await schedule.until(10)
        schedule.clock.suspended_s = 7200.0
        await schedule.until(25)
    assert runner.times() == [0, 20]
    assert schedule.heard.decided == [0, 20]


async def test_replacing_starts_the_new_stops_the_removed_and_leaves_the_others_alone():
    kept, removed, new = FakeRunner(), FakeRunner("removed"), FakeRunner("new")
    async with running(kept, removed) as schedule:
        await schedule.until(10)
        await schedule.scheduler.replace([kept, new])
        await schedule.until(55)
    assert kept.times() == [0, FIRST, SECOND]
    assert removed.times() == [0]
    assert new.times()[0] == 10
    assert len(new.times()) == 3


async def test_a_removed_guard_ends_its_run_before_replacing_returns():
    removed = FakeRunner("removed", takes_s=8)
    async with running(removed) as schedule:
        await schedule.until(1)
        await schedule.scheduler.replace([])
        assert schedule.heard.elapsed_s() == 8
        await schedule.until(100)
    assert (removed.times(), removed.under_way) == ([0], 0)


async def test_a_changed_guard_goes_on_after_the_old_run_without_a_gap_or_an_overlap():
    old, new = FakeRunner(takes_s=8), FakeRunner(takes_s=1)
    async with running(old) as schedule:
        await schedule.until(1)
        await schedule.scheduler.replace([new])
        assert old.under_way == 0
        await schedule.until(25)
    assert (old.times(), new.times()) == ([0], [8, FIRST])


async def test_a_changed_guard_that_sleeps_is_run_anew_at_once():
    old, new = FakeRunner(ends=[3]), FakeRunner()
    async with running(old) as schedule:
        await schedule.until(2)
        await schedule.scheduler.replace([new])
        await schedule.until(25)
    assert (old.times(), new.runs) == ([0], [(2, "schedule"), (FIRST, "schedule")])


async def test_a_guard_that_is_removed_and_added_again_during_a_run_never_overlaps_itself():
    old, new = FakeRunner(takes_s=8), FakeRunner()
    async with running(old) as schedule:
        await schedule.until(1)
        removing = asyncio.create_task(schedule.scheduler.replace([]))
        await schedule.until(2)
        await schedule.scheduler.replace([new])
        await removing
        await schedule.until(15)
    assert (old.times(), new.times()) == ([0], [8])


async def test_a_guard_that_is_removed_while_it_waits_for_a_slot_is_not_run():
    slow, removed = FakeRunner("slow", takes_s=5), FakeRunner("removed", priority=1)
    async with running(slow, removed, max_concurrent=1) as schedule:
        await schedule.until(1)
        await schedule.scheduler.replace([slow])
        assert schedule.heard.elapsed_s() == 1
        await schedule.until(10)
    assert removed.runs == []
    assert schedule.first_pass.is_set()


async def test_replacing_during_the_first_pass_waits_for_the_new_guards_too():
    first, second = FakeRunner("first", takes_s=5), FakeRunner("second", takes_s=5)
    async with running(first) as schedule:
        await schedule.until(4)
        await schedule.scheduler.replace([first, second])
        await schedule.until(6)
        assert not schedule.first_pass.is_set()
        await schedule.until(10)
        assert schedule.first_pass.is_set()


async def test_replacing_before_the_start_and_after_the_end_is_harmless():
    before, after = FakeRunner(), FakeRunner("guard-2")
    schedule = Schedule(before)
    await schedule.scheduler.replace([after])
    async with asyncio.TaskGroup() as group:
        group.create_task(schedule.scheduler.run())
        await schedule.until(1)
        schedule.stop.set()
    await schedule.scheduler.replace([before])
    assert (before.times(), after.times()) == ([], [0])


async def test_what_a_run_raises_ends_the_scheduler():
    """Failure 37: a guard's task that dies takes the daemon down."""
    runner = FakeRunner()

    async def run(source):
        raise ZeroDivisionError

    runner.run = run
    with pytest.RaisesGroup(pytest.RaisesGroup(ZeroDivisionError)):
        await Schedule(runner, FakeRunner("guard-2")).scheduler.run()
