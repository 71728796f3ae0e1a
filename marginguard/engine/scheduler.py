"""When guards run: each at its interval, a bounded number at once, failed runs sooner."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from marginguard.aio import sleep_or_stop
from marginguard.domain.records import ExecutionSource
from marginguard.domain.units import GuardId
from marginguard.engine.beats import next_beat_s, phase_s
from marginguard.engine.guard import GuardRunner
from marginguard.engine.hooks import NO_HOOKS, Hooks
from marginguard.engine.seat import Ask, Run, Seat
from marginguard.engine.settings import EngineSettings
from marginguard.engine.slots import Slots, Turn
from marginguard.ports import Clock

WAKE_SPACING_S: Final = 1.0
"""The least time between two runs of a guard that the price asked for."""

TIMER_SLACK_S: Final = 0.001
"""How early a run may begin: an event loop's timers are not finer than this."""

GRACE_S: Final = 5.0
"""What a run may take beyond its time-out, to write down how it ended."""

STUCK_TIMEOUTS: Final = 2.0
"""A run that is still under way after so many of its time-outs does not come back."""


class Scheduler:
    """Runs every guard at its interval until `stop` is set, and then lets the runs end.

    The first run of each is due at once; its beats lie spread over the interval. Where slots are
    short, `Slots` says who goes first. `first_pass` is set once every guard has been run.

    Every `idle_pass_s` it looks at all of them: where none is overdue, that is a decision too.
    Neither it nor a run ever tells `hooks.decided` because of a timer alone.
    """

    def __init__(
        self,
        *,
        runners: Sequence[GuardRunner],
        settings: EngineSettings,
        clock: Clock,
        stop: asyncio.Event,
        first_pass: asyncio.Event,
        hooks: Hooks = NO_HOOKS,
        idle_pass_s: float = 20.0,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._stop = stop
        self._first_pass = first_pass
        self._hooks = hooks
        self._idle_pass_s = idle_pass_s
        self._slots = Slots(settings.max_concurrent, on_waiting=hooks.waiting)
        self._started_s = clock.monotonic()
        self._seats: dict[GuardId, Seat] = {}
        self._not_run_yet: set[GuardId] = set()
        self._group: asyncio.TaskGroup | None = None
        for runner in _by_priority(runners):
            self._seat(runner)
        self._note_first_pass()

    def wake(self, guard_id: GuardId) -> None:
        """Run a guard now instead of at its beat, or again if a run of it is under way.

        It goes before the guards that are merely due. At most once in `WAKE_SPACING_S`, a later
        waking being put off until then: a breach that a guard can do nothing about must not use
        up the exchange's limits. A guard that is no longer scheduled is left alone.
        """
        seat = self._seats.get(guard_id)
        if seat is None or seat.runner is None:
            return
        wait_s = seat.woken_s + WAKE_SPACING_S - self._clock.monotonic()
        if wait_s <= 0:
            self._wake_now(seat)
        elif seat.deferred is None:
            loop = asyncio.get_running_loop()
            seat.deferred = loop.call_later(wait_s, self._wake_now, seat)

    def ask(self, guard_id: GuardId, source: ExecutionSource) -> Ask | None:
        """Run a guard now, or again right after the run of it that is under way.

        Nothing puts it off but a want of slots. Returns None for a guard that is not scheduled.
        """
        seat = self._seats.get(guard_id)
        if seat is None or seat.runner is None or self._stop.is_set():
            return None
        ask = Ask(source=source)
        seat.asks.append(ask)
        self._wake_now(seat)
        return ask

    async def replace(self, runners: Sequence[GuardRunner]) -> None:
        """Run these guards from now on, and no others.

        A runner that is scheduled already goes on undisturbed, in its sleep as in its run. A new
        one is due at once; one that takes the place of another for the same guard, as soon as
        the run of that one that may be under way has ended: the two never overlap. Returns once
        no runner that was given up is running any more, however long that takes; being cancelled
        before that changes nothing of what is scheduled.
        """
        wanted = {runner.guard.id: runner for runner in _by_priority(runners)}
        now_s = self._clock.monotonic()
        for seat in self._seats.values():
            runner = wanted.get(seat.guard_id)
            if runner is not seat.runner:
                seat.hand_over(runner, now_s)
        self._not_run_yet &= wanted.keys()
        for runner in wanted.values():
            if runner.guard.id not in self._seats:
                self._start(self._seat(runner))
        self._note_first_pass()
        given_up = [
            seat.run
            for seat in self._seats.values()
            if seat.run is not None and seat.run.runner is not seat.runner
        ]
        for run in given_up:
            await run.ended.wait()

    async def run(self) -> None:
        """Run the guards; returns after `stop` once no run is under way any more."""
        async with asyncio.TaskGroup() as side:
            watching = side.create_task(self._keep_watching(), name="idle-pass")
            async with asyncio.TaskGroup() as self._group:
                for seat in self._seats.values():
                    self._start(seat)
                await self._stop.wait()
                for seat in self._seats.values():
                    seat.undefer()
                    seat.stirred.set()
            watching.cancel()

    def _seat(self, runner: GuardRunner) -> Seat:
        guard_id = runner.guard.id
        seat = Seat(guard_id=guard_id, runner=runner, due_s=self._clock.monotonic())
        self._seats[guard_id] = seat
        if not self._first_pass.is_set():
            self._not_run_yet.add(guard_id)
        return seat

    def _start(self, seat: Seat) -> None:
        """Begin to run a guard; before `run` that is left to it, and after `stop` undone."""
        if self._group is not None and not self._stop.is_set():
            self._group.create_task(self._keep_running(seat), name=f"guard:{seat.guard_id}")

    def _wake_now(self, seat: Seat) -> None:
        seat.undefer()
        seat.woken_s = self._clock.monotonic()
        if seat.asked_s is None:
            seat.asked_s = seat.woken_s
        if seat.turn is not None:
            self._slots.hasten(seat.turn)
        seat.stirred.set()

    async def _keep_running(self, seat: Seat) -> None:
        try:
            while (runner := await self._falls_due(seat)) is not None:
                await self._take_turn(seat, runner.guard.priority)
        finally:
            del self._seats[seat.guard_id]
            for ask in seat.take_asks():
                ask.done.set()

    async def _falls_due(self, seat: Seat) -> GuardRunner | None:
        """Sleep until a run is due; return whose it is, or None once it is nobody's."""
        while (runner := self._runner_of(seat)) is not None:
            left_s = seat.wanted_s - self._clock.monotonic()
            if left_s <= TIMER_SLACK_S:
                break
            await sleep_or_stop(left_s, seat.stirred)
            seat.stirred.clear()
        return runner

    def _runner_of(self, seat: Seat) -> GuardRunner | None:
        return None if self._stop.is_set() else seat.runner

    async def _take_turn(self, seat: Seat, priority: int) -> None:
        """Wait for a slot and run who has the seat by then."""
        seat.turn = Turn(
            priority=priority,
            since_s=self._clock.monotonic(),
            breached=seat.asked_s is not None,
        )
        try:
            await self._slots.take(seat.turn)
        finally:
            seat.turn = None
        try:
            runner = self._runner_of(seat)
            if runner is not None:
                await self._run_once(seat, runner)
        finally:
            self._slots.give_back()

    async def _run_once(self, seat: Seat, runner: GuardRunner) -> None:
        asks = seat.take_asks()
        source = seat.source if seat.asked_s is None else ExecutionSource.PRICE
        source = asks[0].source if asks else source
        run = Run(runner=runner, began_s=self._clock.monotonic())
        self._hooks.began(max(0.0, run.began_s - seat.wanted_s))
        seat.asked_s = None  # whoever asks from here on asks for another run
        seat.run = run
        try:
            retries = await runner.run(source)
            for ask in asks:
                ask.ran, ask.recorded = True, runner.recorded
        finally:
            seat.run = None
            run.ended.set()
            for ask in asks:
                ask.done.set()
        if run.stuck:
            ran_s = round(self._clock.monotonic() - run.began_s)
            structlog.get_logger().warning(
                "execution.came_back",
                guard=seat.guard_id,
                ran_s=ran_s,
                advice="the guard runs again; see the log since then for what held it up",
            )
        self._hooks.decided()
        self._not_run_yet.discard(seat.guard_id)
        self._note_first_pass()
        if seat.runner is runner:
            self._plan_next(seat, runner, retries)

    def _plan_next(self, seat: Seat, runner: GuardRunner, retries: int) -> None:
        """Set when the guard is due next, `retries` being how often its run may be repeated."""
        now_s = self._clock.monotonic()
        if seat.failures < retries:
            seat.failures += 1
            delay_s = self._retry_delay_s(seat.failures)
            delay_s = min(delay_s, runner.next_look_s(delay_s))
            seat.due_s, seat.source = now_s + delay_s, ExecutionSource.RETRY
            structlog.get_logger().info(
                "execution.retry", guard=seat.guard_id, attempt=seat.failures, delay_s=delay_s
            )
            return
        interval_s = self._settings.interval_s
        origin_s = self._started_s + phase_s(seat.guard_id, interval_s)
        beat_s = next_beat_s(now_s + TIMER_SLACK_S, origin_s=origin_s, interval_s=interval_s)
        delay_s = runner.next_look_s(beat_s - now_s)
        seat.failures, seat.source = 0, ExecutionSource.SCHEDULE
        # Not by way of the delay, whose rounding would miss the beat.
        seat.due_s = beat_s if delay_s == beat_s - now_s else now_s + delay_s

    def _retry_delay_s(self, failures: int) -> float:
        delay_s = self._settings.retry_delay_s * 2.0 ** (failures - 1)
        return float(min(delay_s, self._settings.interval_s))

    def _note_first_pass(self) -> None:
        if not self._not_run_yet:
            self._first_pass.set()

    async def _keep_watching(self) -> None:
        while True:
            await asyncio.sleep(self._idle_pass_s)
            self._look_around()

    def _look_around(self) -> None:
        """Look at every guard; say that decisions are made if none is overdue."""
        now_s = self._clock.monotonic()
        run_limit_s = self._settings.timeout_s + GRACE_S
        interval_s = self._settings.interval_s
        sound = True
        for seat in self._seats.values():
            if seat.overdue(now_s, run_limit_s=run_limit_s, interval_s=interval_s):
                sound = False
            if seat.overslept(now_s):
                seat.stirred.set()
            if seat.run is not None:
                self._tell_if_stuck(seat.guard_id, seat.run, now_s)
        if sound:
            self._hooks.decided()

    def _tell_if_stuck(self, guard_id: GuardId, run: Run, now_s: float) -> None:
        running_s = now_s - run.began_s
        if run.stuck or running_s <= STUCK_TIMEOUTS * self._settings.timeout_s + GRACE_S:
            return
        if not run.suspected:
            # After the process was frozen everything seems to have taken long: look once more.
            run.suspected = True
            return
        run.stuck = True
        structlog.get_logger().critical(
            "execution.stuck",
            guard=guard_id,
            running_s=round(running_s),
            timeout_s=self._settings.timeout_s,
            advice="the guard does not guard: its run does not come back, and is not ended since an"
            " action may be under way; look at the position on the exchange, then restart the"
            " daemon, which first settles what was under way",
        )
        self._hooks.stuck(guard_id, running_s)


def _by_priority(runners: Iterable[GuardRunner]) -> list[GuardRunner]:
    """Return them in the order in which they are to take the slots that are free at first."""
    return sorted(runners, key=lambda runner: -runner.guard.priority)
