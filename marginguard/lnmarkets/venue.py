"""One exchange as an account reaches it: everything that the accounts on it share."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from marginguard.domain.errors import MarginguardError
from marginguard.domain.model import PriceQuote
from marginguard.domain.units import AccountId, Percent
from marginguard.lnmarkets.client import AccountClient, PublicClient
from marginguard.lnmarkets.live_prices import LivePrices
from marginguard.lnmarkets.prices import TickerPrices
from marginguard.lnmarkets.server_clock import ServerClock
from marginguard.lnmarkets.signing import Credentials
from marginguard.lnmarkets.stream import StreamLimits
from marginguard.lnmarkets.stream_account import AccountListener, AccountStream
from marginguard.lnmarkets.stream_prices import PublicStream
from marginguard.lnmarkets.transport import Transport
from marginguard.ports import Clock


@dataclass(frozen=True, kw_only=True, slots=True)
class VenueSettings:
    """How to reach an exchange, and which of its prices to believe.

    `stream_url` None: prices come from REST alone. `share_s` is how long guards share one
    reading of the price; `rate_scale` multiplies the limits on calls, for a simulated exchange
    that plays faster than real time.
    """

    rest_url: str
    stream_url: str | None
    timeout_s: float
    stale_after_s: float
    share_s: float
    max_jump: Percent
    rate_scale: float = 1.0


class Venue:
    """The connections, the clock and the prices of one exchange; an async context manager."""

    def __init__(
        self,
        settings: VenueSettings,
        *,
        clock: Clock,
        stream_limits: StreamLimits,
        stop: asyncio.Event,
        on_call: Callable[[str, str, float], None] | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._stream_limits = stream_limits
        self._resources = AsyncExitStack()
        self._transport = Transport(
            settings.rest_url,
            timeout_s=settings.timeout_s,
            rate_scale=settings.rate_scale,
            on_call=on_call,
            clock=clock,
        )
        public = PublicClient(self._transport)
        self._server_clock = ServerClock(public.server_time, clock)
        ticker = TickerPrices(
            public.ticker, clock, share_s=settings.share_s, max_jump=settings.max_jump, stop=stop
        )
        self.prices = LivePrices(ticker, clock, stale_after_s=settings.stale_after_s)
        self._streams: list[PublicStream | AccountStream] = []

    async def __aenter__(self) -> Self:
        await self._resources.enter_async_context(self._transport)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._resources.aclose()

    def account(self, account_id: AccountId, credentials: Credentials) -> AccountClient:
        """Return the client of an account on this exchange."""
        return AccountClient(
            account_id,
            credentials,
            transport=self._transport,
            server_clock=self._server_clock,
            rate_scale=self._settings.rate_scale,
        )

    def stream_prices(
        self, on_tick: Callable[[PriceQuote], None], on_snapshot_needed: Callable[[], None]
    ) -> None:
        """Have `on_tick` called with every price of the stream, once `run` runs."""
        if self._settings.stream_url is None:
            return
        self.prices.listen(on_tick)
        self._streams.append(
            PublicStream(
                self._settings.stream_url,
                self.prices,
                on_snapshot_needed=on_snapshot_needed,
                server_clock=self._server_clock,
                clock=self._clock,
                limits=self._stream_limits,
                stale_after_s=self._settings.stale_after_s,
            )
        )

    def stream_account(
        self, account_id: AccountId, credentials: Credentials, listener: AccountListener
    ) -> None:
        """Have `listener` called with what happens on an account, once `run` runs."""
        if self._settings.stream_url is None:
            return
        self._streams.append(
            AccountStream(
                self._settings.stream_url,
                account_id,
                credentials,
                listener=listener,
                server_clock=self._server_clock,
                clock=self._clock,
                limits=self._stream_limits,
            )
        )

    async def measure_clock(self) -> None:
        """Take the first sample of the exchange's clock; a failure is only told."""
        try:
            await self._server_clock.resync()
        except MarginguardError as error:
            structlog.get_logger().warning(
                "clock.unmeasured",
                exchange=self._settings.rest_url,
                error=str(error),
                advice="this machine's clock is believed until the exchange answers",
            )

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the clock measured and the streams connected until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._server_clock.run(stop), name="clock")
            if self._settings.stream_url is not None:
                group.create_task(self.prices.run(stop), name="prices")
            for stream in self._streams:
                group.create_task(stream.run(stop), name=stream.name)
