"""Candles: how the price moved within each minute, and within longer spans."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from types import MappingProxyType
from typing import Final

from marginguard.domain.units import Price

MINUTE: Final = timedelta(minutes=1)
KEPT: Final = timedelta(days=7)
"""How far back the exchange remembers its price."""

RANGES: Final[Mapping[str, timedelta]] = MappingProxyType(
    {
        **{f"{count}m": timedelta(minutes=count) for count in (1, 3, 5, 10, 15, 30, 45)},
        **{f"{count}h": timedelta(hours=count) for count in (1, 2, 3, 4)},
        "1d": timedelta(days=1),
        "1w": timedelta(weeks=1),
    }
)
"""The spans of candles by the names that the exchange gives them."""

_A_MONDAY: Final = datetime(1970, 1, 5, tzinfo=UTC)
"""Every span is counted from here, so that a week begins on a Monday and a day at midnight."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candle:
    """The prices of one span that begins at `time`."""

    time: datetime
    open: Price
    high: Price
    low: Price
    close: Price

    @property
    def corners(self) -> tuple[Price, Price, Price, Price]:
        """Open, the extreme nearer to it, the other extreme, close."""
        if abs(self.high - self.open) <= abs(self.open - self.low):
            return self.open, self.high, self.low, self.close
        return self.open, self.low, self.high, self.close


class CandleBook:
    """The minute candles of the last days, without gaps: a still market makes flat ones."""

    def __init__(self) -> None:
        self._minutes: deque[Candle] = deque(maxlen=KEPT // MINUTE)

    def note(self, price: Price, now: datetime) -> None:
        """Note that the price is `price` at `now`, and since the last note was the one before."""
        minute = begin_of(now, MINUTE)
        if not self._minutes:
            self._minutes.append(_flat(price, minute))
            return
        close = self._minutes[-1].close
        time = max(self._minutes[-1].time + MINUTE, minute - KEPT)
        while time <= minute:
            self._minutes.append(_flat(close, time))
            time += MINUTE
        newest = self._minutes[-1]
        self._minutes[-1] = replace(
            newest, high=max(newest.high, price), low=min(newest.low, price), close=price
        )

    def candles(self, span: timedelta) -> Iterator[Candle]:
        """Yield the candles of `span`, one of `RANGES`, newest first; the newest still grows."""
        for begin, group in groupby(
            reversed(self._minutes), key=lambda minute: begin_of(minute.time, span)
        ):
            minutes = tuple(group)
            yield Candle(
                time=begin,
                open=minutes[-1].open,
                high=max(minute.high for minute in minutes),
                low=min(minute.low for minute in minutes),
                close=minutes[0].close,
            )


def begin_of(at: datetime, span: timedelta) -> datetime:
    """Return when the span that `at` (aware) lies in begins, in UTC."""
    return at.astimezone(UTC) - (at - _A_MONDAY) % span


def _flat(price: Price, time: datetime) -> Candle:
    return Candle(time=time, open=price, high=price, low=price, close=price)
