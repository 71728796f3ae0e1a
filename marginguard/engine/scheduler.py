"""When guards run: each at its interval, a bounded number at once, failed runs sooner."""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from marginguard.aio import sleep_or_stop
from marginguard.domain.records import ExecutionSource
from marginguard.domain.units import GuardId
from marginguard.engine.guard import GuardRunner
from marginguard.engine.settings import EngineSettings
from marginguard.ports import Clock

WAKE_SPACING_S: Final = 1.0
"""The least time between two runs of a guard that the price asked for."""


class Scheduler:
    """Runs every guard at its interval until `stop` is set, and then lets the runs end.

    `first_pass` is set once every guard has been run.
    """

    def __init__(
        self,
        *,
        runners: Sequence[GuardRunner],
        settings: EngineSettings,
        clock: Clock,
        stop: asyncio.Event,
        first_pass: asyncio.Event,
    ) -> None:
        self._runners = tuple(runners)
        self._settings = settings
        self._clock = clock
        self._stop = stop
        self._slots = asyncio.Semaphore(settings.max_concurrent)
        self._not_run_yet = {runner.guard.id for runner in runners}
        self._first_pass = first_pass
        self._wakes = {runner.guard.id: asyncio.Event() for runner in runners}
        self._woken_s: dict[GuardId, float] = {}
        self._deferred: dict[GuardId, asyncio.TimerHandle] = {}
        if not self._not_run_yet:
            first_pass.set()

    def wake(self, guard_id: GuardId) -> None:
        """Run a guard now instead of at its beat, or again if a run of it is under way.

        At most once in `WAKE_SPACING_S`, a later one waiting until then: a breach that a guard
        can do nothing about must not use up the exchange's limits.
        """
        wait_s = self._woken_s.get(guard_id, float("-inf")) + WAKE_SPACING_S
        wait_s -= self._clock.monotonic()
        if wait_s <= 0:
            self._wake_now(guard_id)
        elif guard_id not in self._deferred:
            loop = asyncio.get_running_loop()
            self._deferred[guard_id] = loop.call_later(wait_s, self._wake_now, guard_id)

    def _wake_now(self, guard_id: GuardId) -> None:
        deferred = self._deferred.pop(guard_id, None)
        if deferred is not None:
            deferred.cancel()
        self._woken_s[guard_id] = self._clock.monotonic()
        self._wakes[guard_id].set()

    async def run(self) -> None:
        """Run the guards; returns after `stop` once no run is under way any more."""
        async with asyncio.TaskGroup() as group:
            for runner in self._runners:
                group.create_task(self._keep_running(runner), name=f"guard:{runner.guard.id}")
            await self._stop.wait()
            for deferred in self._deferred.values():
                deferred.cancel()
            for wake in self._wakes.values():
                wake.set()

    async def _keep_running(self, runner: GuardRunner) -> None:
        due_s = self._clock.monotonic()
        wake = self._wakes[runner.guard.id]
        source = ExecutionSource.SCHEDULE
        failures = 0
        while not self._stop.is_set():
            async with self._slots:
                if self._stop.is_set():
                    return
                retries = await runner.run(source)
            self._note_first_pass(runner)
            now_s = self._clock.monotonic()
            if failures < retries:
                failures += 1
                source = ExecutionSource.RETRY
                delay_s = self._retry_delay_s(failures)
                structlog.get_logger().info(
                    "execution.retry", guard=runner.guard.id, attempt=failures, delay_s=delay_s
                )
            else:
                failures = 0
                source = ExecutionSource.SCHEDULE
                due_s = _next_beat(due_s, self._settings.interval_s, now_s)
                delay_s = runner.next_look_s(due_s - now_s)
            if await sleep_or_stop(delay_s, wake):
                wake.clear()
                source = ExecutionSource.PRICE

    def _retry_delay_s(self, failures: int) -> float:
        delay_s = self._settings.retry_delay_s * 2.0 ** (failures - 1)
        return float(min(delay_s, self._settings.interval_s))

    def _note_first_pass(self, runner: GuardRunner) -> None:
        self._not_run_yet.discard(runner.guard.id)
        if not self._not_run_yet:
            self._first_pass.set()


def _next_beat(due_s: float, interval_s: float, now_s: float) -> float:
    """Return the next beat after `now_s` on the grid that `due_s` lies on, so nothing drifts."""
    if due_s > now_s:
        return due_s  # the run was an extra one
    return due_s + (int((now_s - due_s) // interval_s) + 1) * interval_s
