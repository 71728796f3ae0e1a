"""The last price from the stream, borne out before it is trusted, with REST to fall back on."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from marginguard.aio import sleep_or_stop, unless_stopped
from marginguard.domain.errors import Transient
from marginguard.domain.model import Position, PriceQuote
from marginguard.domain.sanity import jumps
from marginguard.domain.units import Price
from marginguard.lnmarkets.prices import TickerPrices, warn_unconfirmed
from marginguard.ports import Clock

FRESH_S: Final = 1.5
"""A price of the stream that is older is looked up by REST, before the stream counts as silent."""


class LivePrices:
    """The `PriceSource` port over the stream; the ticker takes over while that is silent.

    The stream hands its prices to `take_last` and `take_index`. Every one that is believed goes
    on to the listeners at once, so that no extreme of a burst is lost. One that jumps is held
    until the next price, the index or a position's P&L bears it out; a price near the accepted
    one drops it. What is still in doubt `confirm_within_s` after the doubt began is passed on
    marked unconfirmed, and so is all that follows until something is borne out.
    """

    def __init__(
        self,
        ticker: TickerPrices,
        clock: Clock,
        *,
        stale_after_s: float,
        confirm_within_s: float = 1.0,
    ) -> None:
        self._ticker = ticker
        self._belief = ticker.belief
        self._clock = clock
        self._stale_after_s = stale_after_s
        self._confirm_within_s = confirm_within_s
        self._listeners: list[Callable[[PriceQuote], None]] = []
        self._newest: PriceQuote | None = None
        self._heard_s = clock.monotonic()
        self._silent = False
        # The newest price in doubt, since when there is doubt, and whether that was passed on.
        self._doubtful: PriceQuote | None = None
        self._doubt_began_s = 0.0
        self._passed_on = False
        self._must_pass_on = asyncio.Event()

    def listen(self, on_tick: Callable[[PriceQuote], None]) -> None:
        """Have `on_tick` called with every price that is passed on; it must return quickly."""
        self._listeners.append(on_tick)

    async def quote(self) -> PriceQuote:
        """Return the stream's newest price, or the ticker's when that is not quite new.

        Raises `Transient` when there is neither.
        """
        newest = self._newest
        age_s = float("inf") if newest is None else self._clock.monotonic() - newest.received_s
        if newest is not None and age_s <= FRESH_S:
            return newest
        if age_s > self._stale_after_s:
            self._note_silence()
        try:
            return await self._ticker.quote()
        except Transient:
            # Not silent for long enough to be stale: better than not to see at all.
            if newest is None or age_s > self._stale_after_s:
                raise
            return newest

    def bear_out(self, position: Position) -> None:
        """Take note of a position just read: its P&L may confirm a price that jumped."""
        self._belief.saw_position(position, self._clock.monotonic())
        self._reconsider()

    def take_index(self, price: Price, received_s: float) -> None:
        """Take an index of the stream: it may confirm a price that jumped, and refutes none."""
        self._belief.saw_index(price, received_s)
        self._reconsider()

    def take_last(self, price: Price, received_s: float) -> None:
        """Take a last price of the stream, received at `received_s` (monotonic seconds)."""
        self._heard_s = received_s
        if self._silent:
            self._silent = False
            structlog.get_logger().info("price.stream_back", last=price)
        quote = PriceQuote(
            last=price,
            index=self._belief.index(received_s),
            received_s=received_s,
            confirmed=self._belief.judge(price, received_s),
        )
        if quote.confirmed:
            if self._doubtful is not None:
                self._end_doubt(self._doubtful, quote)
            self._pass_on(quote)
        else:
            self._doubt(quote)

    async def run(self, stop: asyncio.Event) -> None:
        """Pass on in time what stays in doubt, and tell of silence, until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._limit_doubt(stop), name="doubt")
            group.create_task(self._watch_silence(stop), name="silence")

    def _pass_on(self, quote: PriceQuote) -> None:
        self._newest = quote
        for on_tick in self._listeners:
            on_tick(quote)

    def _doubt(self, quote: PriceQuote) -> None:
        if self._doubtful is None:
            self._doubt_began_s = quote.received_s
            self._must_pass_on.set()
        self._doubtful = quote
        if self._passed_on:
            self._pass_on(quote)
        elif quote.received_s - self._doubt_began_s >= self._confirm_within_s:
            self._pass_on_in_doubt(quote)

    def _pass_on_in_doubt(self, quote: PriceQuote) -> None:
        self._must_pass_on.clear()
        self._passed_on = True
        warn_unconfirmed(quote, self._belief, "none, or also far from every price before it")
        self._pass_on(quote)

    def _end_doubt(self, doubtful: PriceQuote, confirmed: PriceQuote) -> None:
        """Pass on what was in doubt if the price that ended the doubt agrees with it."""
        agrees = not jumps(doubtful.last, confirmed.last, self._belief.max_jump)
        passed_on = self._passed_on
        self._forget_doubt()
        if agrees and not passed_on:
            self._pass_on(replace(doubtful, confirmed=True))
        if not agrees:
            structlog.get_logger().info(
                "price.jump_dropped", dropped=doubtful.last, last=confirmed.last
            )

    def _forget_doubt(self) -> None:
        self._doubtful = None
        self._passed_on = False
        self._must_pass_on.clear()

    def _reconsider(self) -> None:
        """Pass on what is in doubt, as confirmed, if it is borne out by now."""
        doubtful = self._doubtful
        if doubtful is None:
            return
        now_s = self._clock.monotonic()
        if now_s - doubtful.received_s > self._stale_after_s:
            # The stream fell silent in doubt; whatever is true now, that price is old.
            self._forget_doubt()
        elif self._belief.reconsider(doubtful.last, now_s):
            self._forget_doubt()
            self._pass_on(replace(doubtful, confirmed=True))

    async def _limit_doubt(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await unless_stopped(self._must_pass_on.wait(), stop)
            left_s = self._doubt_began_s + self._confirm_within_s - self._clock.monotonic()
            if left_s > 0:
                await sleep_or_stop(left_s, stop)
                continue
            # The ticker is another reader of the same prices, and may have settled it.
            self._reconsider()
            if self._doubtful is not None and self._must_pass_on.is_set():
                self._pass_on_in_doubt(self._doubtful)

    async def _watch_silence(self, stop: asyncio.Event) -> None:
        left_s = self._stale_after_s
        while not await sleep_or_stop(left_s, stop):
            self._note_silence()
            left_s = self._heard_s + self._stale_after_s - self._clock.monotonic()
            if self._silent:
                left_s = self._stale_after_s

    def _note_silence(self) -> None:
        silence_s = self._clock.monotonic() - self._heard_s
        if not self._listeners:
            return  # there is no stream that could be silent
        if self._silent or silence_s < self._stale_after_s:
            return
        self._silent = True
        structlog.get_logger().warning(
            "price.stream_stale",
            silent_s=round(silence_s, 1),
            meaning="the stream tells no prices; they are read over REST at the interval",
            advice="the stream is connected anew by itself; if this goes on, see whether the"
            " exchange's stream address is reachable from here",
        )
