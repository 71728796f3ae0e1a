"""The exchange's time, which a signature must carry to within 30 s."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

import structlog

from marginguard.aio import sleep_or_stop
from marginguard.domain.errors import Rejected, Transient
from marginguard.ports import Clock

WARN_OFFSET_S: Final = 5.0
CRITICAL_OFFSET_S: Final = 25.0

_LOOK_EVERY_S: Final = 5.0
_SAMPLES: Final = 5
_REFRESH_S: Final = 900.0
_RETRY_S: Final = 30.0
_REMIND_S: Final = 3600.0
# A leap second, or a clock that is slewed, is no jump.
_JUMP_S: Final = 2.0
# What two clocks may drift apart, and more than common ones do.
_DRIFT: Final = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeReading:
    """The exchange's time, and how long it was asked for, without waits before the sending."""

    time: datetime
    round_trip_s: float


class _Alarm(StrEnum):
    NONE = "none"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    """What one reading says: the exchange's time when the monotonic clock read 0.

    In seconds since the epoch. `error_s` is how far off that may be: the time lies anywhere
    within the round trip, and is taken at its middle.
    """

    epoch_s: float
    error_s: float
    at_s: float

    def error_at_s(self, now_s: float) -> float:
        return self.error_s + _DRIFT * (now_s - self.at_s)

    def contradicts(self, other: "_Sample", now_s: float) -> bool:
        apart_s = abs(self.epoch_s - other.epoch_s)
        return apart_s > self.error_at_s(now_s) + other.error_at_s(now_s)


class ServerClock:
    """Tells the exchange's time from the best of a few samples of it.

    Time since a sample is measured by the monotonic clock, so that a jump of the wall clock
    does not spoil signatures. Before the first sample the wall clock is believed. The sample
    with the shortest round trip counts, as long as no newer one contradicts it.
    `fetch_time` asks the exchange; it raises what reads raise.
    """

    def __init__(self, fetch_time: Callable[[], Awaitable[TimeReading]], clock: Clock) -> None:
        self._fetch_time = fetch_time
        self._clock = clock
        self._lock = asyncio.Lock()
        self._taken = 0
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        self._epoch_s = self._wall_epoch_s()
        self._alarm = _Alarm.NONE
        self._told_s = float("-inf")
        self._unmeasured_told_s = float("-inf")

    @property
    def measured(self) -> bool:
        """Whether the exchange's time was ever read; until then a refused key may be good."""
        return bool(self._samples)

    @property
    def offset_s(self) -> float | None:
        """Seconds by which the exchange is ahead of our wall clock; None if never measured."""
        return self._epoch_s - self._wall_epoch_s() if self.measured else None

    def timestamp_ms(self) -> int:
        """Return the exchange's time now, in milliseconds since the epoch."""
        return int((self._epoch_s + self._clock.monotonic()) * 1000)

    async def resync(self) -> None:
        """Take a fresh sample; callers that wait for one another share it.

        Raises what a read raises; the earlier samples then stay in use.
        """
        taken_before = self._taken
        async with self._lock:
            if self._taken > taken_before:
                return
            await self._sample()

    async def run(self, stop: asyncio.Event) -> None:
        """Refine the measurement, refresh it, and repeat it after a jump, until `stop` is set.

        A few samples at first, then one every quarter of an hour, and one at once when the wall
        clock and the monotonic one have moved apart: somebody set the clock, or the machine
        slept.
        """
        ours_s = self._wall_epoch_s()
        due_s = self._clock.monotonic()
        while not await sleep_or_stop(_LOOK_EVERY_S, stop):
            jumped = abs(self._wall_epoch_s() - ours_s) > _JUMP_S
            ours_s = self._wall_epoch_s()
            if jumped or self._clock.monotonic() >= due_s:
                due_s = self._clock.monotonic() + await self._refresh()

    async def _refresh(self) -> float:
        """Take a sample; return the seconds until the next one."""
        try:
            await self.resync()
        except (Transient, Rejected) as error:
            self._tell_unmeasured(error)
            return _RETRY_S
        self._unmeasured_told_s = float("-inf")
        return 0.0 if len(self._samples) < _SAMPLES else _REFRESH_S

    async def _sample(self) -> None:
        reading = await self._fetch_time()
        now_s = self._clock.monotonic()
        half_s = reading.round_trip_s / 2
        sample = _Sample(
            epoch_s=reading.time.timestamp() - (now_s - half_s), error_s=half_s, at_s=now_s
        )
        if any(sample.contradicts(earlier, now_s) for earlier in self._samples):
            self._samples.clear()
        self._samples.append(sample)
        self._epoch_s = min(self._samples, key=lambda s: s.error_at_s(now_s)).epoch_s
        self._taken += 1
        self._report(self._epoch_s - self._wall_epoch_s())

    def _wall_epoch_s(self) -> float:
        """Return our wall clock's time when the monotonic clock read 0."""
        return self._clock.now().timestamp() - self._clock.monotonic()

    def _report(self, offset_s: float) -> None:
        """Tell when the offset becomes, or ceases to be, dangerous, and hourly while it is."""
        alarm = _alarm(offset_s)
        now_s = self._clock.monotonic()
        changed = alarm is not self._alarm
        repeat = alarm is not _Alarm.NONE and now_s - self._told_s >= _REMIND_S
        self._alarm = alarm
        log = structlog.get_logger()
        if not (changed or repeat):
            log.debug("clock.offset", offset_s=round(offset_s, 3))
            return
        self._told_s = now_s
        if alarm is _Alarm.NONE:
            log.info("clock.right", offset_s=round(offset_s, 3))
            return
        tell = log.critical if alarm is _Alarm.CRITICAL else log.warning
        tell(
            "clock.offset",
            offset_s=round(offset_s, 3),
            meaning="this machine's clock differs from the exchange's; guarding goes on with"
            " the exchange's time",
            advice="set the machine's clock, for example with: timedatectl set-ntp true",
        )

    def _tell_unmeasured(self, error: Exception) -> None:
        now_s = self._clock.monotonic()
        if now_s - self._unmeasured_told_s < _REMIND_S:
            return
        self._unmeasured_told_s = now_s
        structlog.get_logger().warning(
            "clock.unmeasured",
            error=str(error),
            measured_before=self.measured,
            meaning="requests are signed with the time known before, or with this machine's",
            advice="see that the exchange can be reached and that this machine's clock is right;"
            " it is tried again every 30 s",
        )


def _alarm(offset_s: float) -> _Alarm:
    if abs(offset_s) >= CRITICAL_OFFSET_S:
        return _Alarm.CRITICAL
    return _Alarm.WARNING if abs(offset_s) >= WARN_OFFSET_S else _Alarm.NONE
