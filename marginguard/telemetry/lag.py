"""How late the event loop is: what blocks it delays every guard."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from marginguard.aio import sleep_or_stop

PROBE_S: Final = 1.0
LOUD_S: Final = 1.0


class LagProbe:
    """Sleeps again and again, and tells by how much each sleep was too long.

    `on_lag` gets seconds, 0 or more, and must not raise. A lag of `loud_s` or more is a warning.
    """

    def __init__(
        self,
        on_lag: Callable[[float], None],
        *,
        probe_s: float = PROBE_S,
        loud_s: float = LOUD_S,
    ) -> None:
        self._on_lag = on_lag
        self._probe_s = probe_s
        self._loud_s = loud_s

    async def run(self, stop: asyncio.Event) -> None:
        """Probe until `stop` is set."""
        clock = asyncio.get_running_loop().time
        while True:
            asked_s = clock() + self._probe_s
            if await sleep_or_stop(self._probe_s, stop):
                return
            lag_s = max(0.0, clock() - asked_s)
            self._on_lag(lag_s)
            if lag_s >= self._loud_s:
                structlog.get_logger().warning(
                    "loop.lag",
                    lag_s=round(lag_s, 3),
                    advice="nothing was guarded for so long: the machine is overloaded or was"
                    " frozen; if it repeats, look at its CPU, memory and disk",
                )
