"""How many calls the exchange allows, kept to before a call is sent.

The exchange takes 5 calls a second signed with one key, and 1 unsigned call a second from one
address; it does not say how it counts. So no second, wherever it begins, may hold more. A leaky
bucket such as `aiolimiter`'s does not keep to that: one for five calls lets five through at
once and five more within the second after.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Self

from marginguard.domain.errors import Transient

PERIOD_S: Final = 1.1
"""The exchange's second, and a tenth more: calls may arrive closer together than they left."""

READS_A_PERIOD: Final = 3
"""What one look at an account takes: the balance, the isolated trades, the cross position."""

CHANGES_A_PERIOD: Final = 2
"""The rest of the 5: what protects a position never waits for what only looks."""

UNSIGNED_A_PERIOD: Final = 1

# A timer may fire a hair early; waiting for less than this would only spin.
_CLOCK_TICK_S: Final = 0.001


class Urgency(Enum):
    """What a call is for, which decides whom it waits for."""

    PROTECT = auto()
    """Closes, reduces, reopens or adds margin: it waits for nothing but the limit itself."""

    LOOK = auto()
    """Reads."""

    PREPARE = auto()
    """Sets a stop-loss: it may wait as long as anything protects."""


@dataclass(slots=True)
class _Line:
    """Those who wait, in the order of their coming."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    length: int = 0


class Budget:
    """At most `calls` calls in any `PERIOD_S / rate_scale` seconds, first come, first served.

    One that gives way goes when no other is in line, and leaves one call free for whoever comes
    next: so a budget of one call has none to give to it.
    """

    def __init__(self, calls: int, *, rate_scale: float = 1.0) -> None:
        self._period_s = PERIOD_S / rate_scale
        # When each call of the budget may be made again, by the loop's clock; soonest first.
        self._free_at_s = deque([float("-inf")] * calls)
        self._line = _Line()
        self._giving_way = _Line()
        self._paused_until_s = float("-inf")

    @property
    def idle(self) -> bool:
        """Whether a call that does not give way would be let through at once."""
        return not self._line.length and self._wait_s() <= 0

    async def take(self, patience_s: float, *, gives_way: bool = False) -> None:
        """Return when a call may be sent.

        Raises `Transient` if that is not within `patience_s` seconds, and at once where the
        calls in line or a pause rule it out from the start.
        """
        line, left_free = (self._giving_way, 1) if gives_way else (self._line, 0)
        if not line.length and self._wait_of_first_s(left_free) <= 0:
            self._use()
            return
        rounds, place = divmod(line.length, len(self._free_at_s) - left_free)
        least_s = self._wait_s(place + left_free) + rounds * self._period_s
        if least_s > patience_s:
            raise _over_limit(least_s, patience_s)
        line.length += 1
        try:
            async with asyncio.timeout(patience_s), line.turn:
                wait_s = self._wait_of_first_s(left_free)
                while wait_s > 0:
                    await asyncio.sleep(max(wait_s, _CLOCK_TICK_S))
                    wait_s = self._wait_of_first_s(left_free)
                self._use()
        except TimeoutError as error:
            raise _over_limit(self._wait_s(left_free), patience_s) from error
        finally:
            line.length -= 1

    def pause(self, seconds: float) -> None:
        """Let no call through for so many seconds."""
        until_s = asyncio.get_running_loop().time() + seconds
        self._paused_until_s = max(self._paused_until_s, until_s)

    def _wait_of_first_s(self, left_free: int) -> float:
        """Return the seconds until the first in a line may look again; 0 or less for go."""
        wait_s = self._wait_s(left_free)
        if left_free and self._line.length:
            return max(wait_s, _CLOCK_TICK_S)
        return wait_s

    def _wait_s(self, place: int = 0) -> float:
        """Return the seconds until the one at `place` in line may go; 0 or less for now."""
        may_go_s = max(self._paused_until_s, self._free_at_s[place])
        return may_go_s - asyncio.get_running_loop().time()

    def _use(self) -> None:
        self._free_at_s.popleft()
        self._free_at_s.append(asyncio.get_running_loop().time() + self._period_s)


def _over_limit(wait_s: float, patience_s: float) -> Transient:
    return Transient(
        f"the exchange's limit on calls leaves no room within {patience_s:.1f} s",
        retry_after_s=max(0.0, wait_s),
    )


class Limits:
    """The calls of one key, or the unsigned ones of one address: reads, and changes apart.

    A protective call takes from the budget of the reads too while nobody else wants it; one that
    prepares never does, and gives way to the protective ones in theirs. `rate_scale` multiplies
    the exchange's limits, for a simulated exchange whose limits are so multiplied.
    """

    def __init__(self, *, reads: int, changes: int, rate_scale: float) -> None:
        self._period_s = PERIOD_S / rate_scale
        self._reads = Budget(reads, rate_scale=rate_scale)
        self._changes = Budget(changes, rate_scale=rate_scale)

    @classmethod
    def of_key(cls, *, rate_scale: float = 1.0) -> Self:
        """Return the limits of calls that are signed with one key."""
        return cls(reads=READS_A_PERIOD, changes=CHANGES_A_PERIOD, rate_scale=rate_scale)

    @classmethod
    def of_address(cls, *, rate_scale: float = 1.0) -> Self:
        """Return the limits of calls that are not signed; none of them changes anything."""
        return cls(reads=UNSIGNED_A_PERIOD, changes=0, rate_scale=rate_scale)

    async def take(self, patience_s: float, urgency: Urgency) -> None:
        """Return when a call may be sent; raises `Transient` if not within `patience_s` s."""
        if urgency is Urgency.PREPARE:
            await self._changes.take(patience_s, gives_way=True)
        elif urgency is Urgency.LOOK or (not self._changes.idle and self._reads.idle):
            await self._reads.take(patience_s)
        else:
            await self._changes.take(patience_s)

    def pause(self, retry_after_s: float | None) -> None:
        """Note a 429: send nothing for `retry_after_s` seconds, or for a period if it is None.

        Reads begin a moment after the changes, which so are first in line. Not longer: to see
        again soon matters as much when the exchange is busy.
        """
        seconds = self._period_s if retry_after_s is None else retry_after_s
        self._changes.pause(seconds)
        self._reads.pause(seconds + self._period_s / 10)
