"""The last price, read from the ticker and borne out before it is trusted."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from marginguard.aio import sleep_or_stop
from marginguard.domain.errors import MarginguardError, Rejected, Transient
from marginguard.domain.model import PriceQuote
from marginguard.domain.sanity import Belief
from marginguard.domain.units import Percent
from marginguard.lnmarkets.wire import Ticker
from marginguard.ports import Clock

# The exchange allows an address one unsigned call a second, so the next tick is asked for a
# second after the first was, and an answer that lingers is not waited for.
_NEXT_TICK_AFTER_S: Final = 1.0
_NEXT_TICK_TIMEOUT_S: Final = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    """What asking once gave: a quote or an error, and when (monotonic seconds).

    `since_s` is when the question was sent, or for an error when it was asked for.
    """

    result: PriceQuote | MarginguardError
    since_s: float
    ended_s: float


class TickerPrices:
    """The `PriceSource` port over the ticker.

    Callers that ask while a reading is under way, or within `share_s` seconds of when its
    question was sent, share it, its failure included. A price more than `max_jump` percent away
    from the last accepted one is confirmed by the index or by the next tick; still unconfirmed,
    it is returned marked so. `stop` ends the wait for the next tick.
    """

    def __init__(
        self,
        ticker: Callable[[], Awaitable[Ticker]],
        clock: Clock,
        *,
        share_s: float,
        max_jump: Percent,
        stop: asyncio.Event,
    ) -> None:
        self._ticker = ticker
        self._clock = clock
        self._share_s = share_s
        self._belief = Belief(max_jump)
        self._stop = stop
        self._lock = asyncio.Lock()
        self._reading: _Reading | None = None

    @property
    def belief(self) -> Belief:
        """What bears out a price, for other sources of the same prices to share."""
        return self._belief

    async def quote(self) -> PriceQuote:
        """Return the last price; raises `Transient` when it cannot be read.

        `received_s` is when the question was sent: the price's true age is never more.
        """
        called_s = self._clock.monotonic()
        async with self._lock:
            reading = self._reading
            if reading is None or not self._shared(reading, called_s):
                reading = self._reading = await self._take_reading()
        if isinstance(reading.result, PriceQuote):
            return reading.result
        raise reading.result

    def _shared(self, reading: _Reading, called_s: float) -> bool:
        under_way = reading.ended_s >= called_s
        return under_way or self._clock.monotonic() - reading.since_s <= self._share_s

    async def _take_reading(self) -> _Reading:
        since_s = self._clock.monotonic()
        result: PriceQuote | MarginguardError
        try:
            result = await self._read_confirmed()
            # Not when it was asked for: the wait for a turn alone may be longer than `share_s`,
            # and then every few callers would have to wait for the next one.
            since_s = result.received_s
        except Rejected as error:
            # Nobody can do without a price: what refuses it now may not do so later.
            result = Transient(f"the ticker is refused: {error}")
            result.__cause__ = error
        except Transient as error:
            result = error
        return _Reading(result=result, since_s=since_s, ended_s=self._clock.monotonic())

    async def _read_confirmed(self) -> PriceQuote:
        quote = await self._read_once()
        if quote.confirmed:
            return quote
        pause_s = quote.received_s + _NEXT_TICK_AFTER_S - self._clock.monotonic()
        next_tick = "not read, because the daemon stops"
        if not await sleep_or_stop(pause_s, self._stop):
            try:
                async with asyncio.timeout(_NEXT_TICK_TIMEOUT_S):
                    quote = await self._read_once()
                next_tick = "also far from every price before it"
            except (Transient, Rejected, TimeoutError) as error:
                next_tick = f"not read: {str(error) or type(error).__name__}"
        if not quote.confirmed:
            warn_unconfirmed(quote, self._belief, next_tick)
        return quote

    async def _read_once(self) -> PriceQuote:
        asked_s = self._clock.monotonic()
        ticker = await self._ticker()
        sent_s = asked_s + ticker.waited_s
        self._belief.saw_index(ticker.index, sent_s)
        confirmed = self._belief.judge(ticker.last, sent_s)
        return PriceQuote(
            last=ticker.last, index=ticker.index, received_s=sent_s, confirmed=confirmed
        )


def warn_unconfirmed(quote: PriceQuote, belief: Belief, next_tick: str) -> None:
    """Tell that a price that jumped is used although nothing bears it out."""
    structlog.get_logger().warning(
        "price.unconfirmed",
        last=quote.last,
        index=quote.index,
        accepted_before=belief.accepted,
        max_jump=belief.max_jump,
        next_tick=next_tick,
        meaning="the price jumped and nothing bears it out: positions may be closed on it,"
        " but no margin is added",
        advice="compare it with other exchanges; the next readings confirm or drop it",
    )
