"""The daemon's signs of life: what systemd, a heartbeat, health checks and metrics are told."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from marginguard.config import Config
from marginguard.domain.units import GuardId
from marginguard.engine.hooks import Hooks
from marginguard.ports import Clock
from marginguard.systemd import ServiceManager, Watchdog, watchdog_interval_s
from marginguard.telemetry.heartbeat import Heartbeat
from marginguard.telemetry.lag import LagProbe
from marginguard.telemetry.metrics import Metrics
from marginguard.telemetry.server import Health

COUNT_EVERY_S: Final = 1.0
"""The least time between two counts of the armed guards: with many, each decision is many."""

ALIVE_WITHIN_S: Final = 60.0
"""How old the newest decision may be for the daemon to count as alive."""


class Vitals:
    """Hears of every decision and passes it on; nothing here delays or fails one.

    `armed_guards` returns how many guards are armed, and how many there are; None while nothing
    guards yet.
    """

    def __init__(self, config: Config, *, environ: Mapping[str, str], clock: Clock) -> None:
        self.metrics: Final = Metrics()
        self.manager: Final = ServiceManager(environ)
        self.armed_guards: Callable[[], tuple[int, int]] | None = None
        self._clock = clock
        self._watchdog = Watchdog(
            self.manager, interval_s=watchdog_interval_s(environ), clock=clock
        )
        heartbeat = config.heartbeat
        self._heartbeat = (
            None
            if heartbeat.url is None
            else Heartbeat(
                heartbeat.url.get_secret_value(),
                interval_s=heartbeat.interval.total_seconds(),
                clock=clock,
            )
        )
        self._decided_s = clock.monotonic()
        self._counted_s = float("-inf")
        self._told = ""
        self.standing_by: str | None = None
        """Which accounts are left to another daemon, and to which; or None."""
        self.unreachable: frozenset[str] = frozenset()
        """The users whom no channel reaches."""

    @property
    def degraded(self) -> str | None:
        """Why the daemon as a whole does less than it should, besides its guards; or None."""
        if self.unreachable:
            return f"no channel reaches {', '.join(sorted(self.unreachable))}"
        return self.standing_by

    def reaches_nobody(self, users: frozenset[str]) -> None:
        """Note which users no channel reaches."""
        self.unreachable = users

    def hooks(self) -> Hooks:
        """Return what the scheduler is to call."""
        return Hooks(
            decided=self.decided,
            began=lambda late_s: self.metrics.began(lateness_s=late_s),
            waiting=self.metrics.queue_length,
            quiet=self.metrics.quiet_times,
            stuck=self._stuck,
        )

    def decided(self) -> None:
        """Note that a run has ended, or that a look at all guards found none overdue."""
        self._decided_s = self._clock.monotonic()
        self._watchdog.decided()
        due = self._decided_s - self._counted_s >= COUNT_EVERY_S
        if self.armed_guards is None or not due:
            return
        self._counted_s = self._decided_s
        armed, guards = self.armed_guards()
        if self._heartbeat is not None:
            less = armed < guards or not guards or self.degraded is not None
            self._heartbeat.completed(degraded=less)
        self._tell_status(f"guarding: {armed} of {guards} guards armed")

    def live(self) -> Health:
        """Return whether the daemon decides."""
        age_s = self._clock.monotonic() - self._decided_s
        alive = age_s < ALIVE_WITHIN_S
        reason = "it decides" if alive else "no guard has decided anything lately"
        return Health(ok=alive, reason=reason, details={"seconds_since_decision": round(age_s, 1)})

    def ready(self) -> Health:
        """Return whether every guard is armed."""
        if self.armed_guards is None:
            return Health(ok=False, reason="it is starting")
        armed, guards = self.armed_guards()
        well = armed == guards and guards > 0 and self.degraded is None
        reason = "every guard is armed" if well else self.degraded or "not every guard is armed"
        return Health(ok=well, reason=reason, details={"armed": armed, "guards": guards})

    async def run(self, stop: asyncio.Event) -> None:
        """Measure the loop's lag and send the heartbeat until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            group.create_task(LagProbe(self.metrics.loop_lag).run(stop), name="lag")
            if self._heartbeat is not None:
                group.create_task(self._heartbeat.run(stop), name="heartbeat")

    def _stuck(self, _guard_id: GuardId, _ran_s: float) -> None:
        self.metrics.stuck()

    def _tell_status(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self.manager.status(text)
