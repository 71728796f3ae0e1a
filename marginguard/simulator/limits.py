"""How much the exchange takes from one caller, and how long one over it has to wait.

A limit holds for every span of its length, wherever it begins: the strictest reading of "5 a
second". A client that stays within it stays within any other.
"""

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

from marginguard.domain.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much is allowed; the exchange's own limits unless told otherwise."""

    signed_per_s: int = 5
    """Signed REST calls for a key."""
    unsigned_per_s: int = 1
    """Unsigned REST calls for an address."""
    messages_per_s: int = 10
    """Messages to the stream on one connection."""
    message_bytes: int = 16 * 1024
    """The longest message to the stream."""
    idle_timeout_s: float = 120.0
    """How long a connection to the stream may send nothing."""
    connections: int = 32
    """Open connections to the stream for an address."""
    new_connections_per_hour: int = 500
    """New connections to the stream for an address."""
    authentications_per_minute: int = 20
    """Attempts to authenticate on the stream for an address."""

    def scaled(self, scale: float) -> "Limits":
        """Return these limits for market time that runs `scale` times as fast as real time.

        Rates grow with it, rounded up; sizes and time-outs stay. Raises `ConfigError` unless
        `scale` is a number above 0.
        """
        if not (math.isfinite(scale) and scale > 0):
            raise ConfigError(f"the rate scale is {scale}: it must be a number above 0")
        return replace(
            self,
            signed_per_s=math.ceil(self.signed_per_s * scale),
            unsigned_per_s=math.ceil(self.unsigned_per_s * scale),
            messages_per_s=math.ceil(self.messages_per_s * scale),
            new_connections_per_hour=math.ceil(self.new_connections_per_hour * scale),
            authentications_per_minute=math.ceil(self.authentications_per_minute * scale),
        )


EXCHANGE_LIMITS: Final = Limits()
"""What the exchange documents."""


@dataclass(kw_only=True, slots=True)
class Window:
    """At most `limit` events in any `span_s` seconds. Refused ones do not count."""

    limit: int
    span_s: float
    _taken: deque[float] = field(default_factory=deque)

    def take(self, now_s: float) -> float:
        """Count an event at `now_s` (monotonic) and return 0, or the seconds to wait for it."""
        if self.remaining(now_s) > 0:
            self._taken.append(now_s)
            return 0.0
        return self._taken[0] + self.span_s - now_s

    def remaining(self, now_s: float) -> int:
        """Return how many events more may be taken at `now_s`."""
        while self._taken and now_s - self._taken[0] >= self.span_s:
            self._taken.popleft()
        return self.limit - len(self._taken)


class RateLimit:
    """A window of its own for every key, such as an address."""

    def __init__(self, *, limit: int, span_s: float) -> None:
        self._limit = limit
        self._span_s = span_s
        self._windows: dict[str, Window] = {}

    def take(self, key: str, now_s: float) -> float:
        """Count an event of `key` and return 0, or the seconds it has to wait."""
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = Window(limit=self._limit, span_s=self._span_s)
        return window.take(now_s)


class CallLimits:
    """The limits of REST calls: signed ones count for the key, others for the address."""

    def __init__(self, limits: Limits) -> None:
        self._signed = RateLimit(limit=limits.signed_per_s, span_s=1.0)
        self._unsigned = RateLimit(limit=limits.unsigned_per_s, span_s=1.0)

    def take(self, key: str | None, address: str, now_s: float) -> float:
        """Count a call and return 0, or the seconds it has to wait. `key` is None if unsigned."""
        if key is None:
            return self._unsigned.take(address, now_s)
        return self._signed.take(key, now_s)
