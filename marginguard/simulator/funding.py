"""Funding: when it is settled, and the settlements that were."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Final
from uuid import UUID

from marginguard.domain.units import Price, Sats

FUNDING_INTERVAL: Final = timedelta(hours=8)
DEFAULT_FUNDING_RATE: Final = 0.0001


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """One settlement of funding; `rate` 0.0001 is 0.01 %, longs pay where it is above 0."""

    id: UUID
    time: datetime
    rate: float
    price: Price

    @property
    def exact_rate(self) -> Fraction:
        """The rate as it is written."""
        return Fraction(str(self.rate))


@dataclass(frozen=True, kw_only=True, slots=True)
class FundingFee:
    """What a settlement cost the cross position (negative: brought it), in sats."""

    settlement_id: UUID
    time: datetime
    fee: Sats


class FundingClock:
    """Tells which of the settlement times (00:00, 08:00 and 16:00 UTC) have come."""

    def __init__(self) -> None:
        self._told: datetime | None = None

    def due(self, now: datetime) -> Iterator[datetime]:
        """Yield every settlement time since the last look, oldest first; at the first look none.

        Each is told once: a clock that is set back settles nothing again.
        """
        if self._told is None:
            self._told = now
        while (time := next_funding_time(self._told)) <= now:
            self._told = time
            yield time


def next_funding_time(now: datetime) -> datetime:
    """Return the next of 00:00, 08:00 and 16:00 UTC after `now` (aware)."""
    now = now.astimezone(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + ((now - midnight) // FUNDING_INTERVAL + 1) * FUNDING_INTERVAL
