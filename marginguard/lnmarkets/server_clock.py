"""The exchange's time, which a signature must carry to within 30 s."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

import structlog

from marginguard.ports import Clock

WARN_OFFSET_S: Final = 5.0
CRITICAL_OFFSET_S: Final = 25.0


class ServerClock:
    """Tells the exchange's time from one sample of it.

    Time since the sample is measured by the monotonic clock, so that a jump of the wall clock
    does not spoil signatures. Before the first sample the wall clock is believed.
    `fetch_time` asks the exchange; it raises what reads raise.
    """

    def __init__(self, fetch_time: Callable[[], Awaitable[datetime]], clock: Clock) -> None:
        self._fetch_time = fetch_time
        self._clock = clock
        self._lock = asyncio.Lock()
        self._sampled_s: float | None = None
        # The exchange's time when the monotonic clock read 0, in seconds since the epoch.
        self._epoch_s = clock.now().timestamp() - clock.monotonic()
        self._offset_s: float | None = None

    @property
    def offset_s(self) -> float | None:
        """Seconds by which the exchange was ahead of our wall clock; None if never measured."""
        return self._offset_s

    def timestamp_ms(self) -> int:
        """Return the exchange's time now, in milliseconds since the epoch."""
        return int((self._epoch_s + self._clock.monotonic()) * 1000)

    async def resync(self) -> None:
        """Take a fresh sample; callers that wait for one another share it.

        Raises what a read raises; the earlier sample then stays in use.
        """
        asked_s = self._clock.monotonic()
        async with self._lock:
            if self._sampled_s is not None and self._sampled_s > asked_s:
                return
            await self._sample()

    async def _sample(self) -> None:
        before_s = self._clock.monotonic()
        server = await self._fetch_time()
        after_s = self._clock.monotonic()
        ours = self._clock.now()
        middle_s = (before_s + after_s) / 2
        self._epoch_s = server.timestamp() - middle_s
        self._offset_s = server.timestamp() - (ours.timestamp() - (after_s - middle_s))
        self._sampled_s = after_s
        self._report(self._offset_s)

    def _report(self, offset_s: float) -> None:
        log = structlog.get_logger()
        if abs(offset_s) < WARN_OFFSET_S:
            log.debug("clock.offset", offset_s=round(offset_s, 3))
            return
        tell = log.critical if abs(offset_s) >= CRITICAL_OFFSET_S else log.warning
        tell(
            "clock.offset",
            offset_s=round(offset_s, 3),
            meaning="this machine's clock differs from the exchange's; guarding goes on with"
            " the exchange's time",
            advice="set the machine's clock, for example with: timedatectl set-ntp true",
        )
