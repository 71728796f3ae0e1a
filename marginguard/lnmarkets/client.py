"""REST v3: the public reads, and one account behind `ports.Exchange`."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Final, Literal, TypeVar

import structlog

from marginguard.domain.errors import MarginguardError, Rejected, Transient, Unauthorized
from marginguard.domain.model import (
    Balance,
    Candle,
    ClosedTrade,
    CrossOrder,
    FundingSettlement,
    NewTrade,
    Position,
    Side,
    Transfer,
)
from marginguard.domain.outcome import Outcome
from marginguard.domain.units import CROSS, AccountId, PositionId, Price, Sats, Usd
from marginguard.lnmarkets import wire, wire_market
from marginguard.lnmarkets.calls import SignedCalls
from marginguard.lnmarkets.cross import CrossMargin
from marginguard.lnmarkets.isolated import IsolatedTrades
from marginguard.lnmarkets.paging import read_all, window
from marginguard.lnmarkets.server_clock import ServerClock, TimeReading
from marginguard.lnmarkets.sharing import Shared
from marginguard.lnmarkets.signing import Credentials
from marginguard.lnmarkets.transport import Transport

_T = TypeVar("_T")

CROSS_RETRY_S: Final = 3600.0
"""How often a key that may not read the cross position is tried again, and spoken of."""

CandleRange = Literal["1m", "5m", "15m", "1h", "4h", "1d"]


class PublicClient:
    """What anybody may read. Unsigned: one call a second for an address."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def ticker(self) -> wire.Ticker:
        """Return the last price and the index; raises what `Transport.read` raises."""
        answer = await self._transport.fetch("/futures/ticker")
        return replace(wire.ticker(answer.body), waited_s=answer.waited_s)

    async def server_time(self) -> TimeReading:
        """Return the exchange's time of day; raises what `Transport.read` raises."""
        answer = await self._transport.fetch("/time")
        return TimeReading(time=wire.server_time(answer.body), round_trip_s=answer.took_s)

    async def candles(
        self, *, since: datetime, until: datetime | None = None, span: CandleRange = "1m"
    ) -> tuple[Candle, ...]:
        """Return the candles of a time, each over `span`; at most 5,000, else `Malformed`."""
        return await read_all(
            lambda query: self._transport.read(
                "/futures/candles", wire_market.candle_page, query=query
            ),
            window(since=since, until=until, range=span),
            "the list of candles",
        )

    async def funding_settlements(
        self, *, since: datetime, until: datetime | None = None
    ) -> tuple[FundingSettlement, ...]:
        """Return the settlements of funding of a time; at most 5,000, else `Malformed`."""
        return await read_all(
            lambda query: self._transport.read(
                "/futures/funding-settlements", wire_market.settlement_page, query=query
            ),
            window(since=since, until=until),
            "the list of funding settlements",
        )


class AccountClient:
    """One account: the `Exchange` port over REST.

    `isolated` and `cross` have every call there is; the methods here are what a guard needs.
    Reads raise, and changes end, as `SignedCalls` says. `rate_scale` multiplies the limits on
    calls, for a simulated exchange that allows more.
    """

    def __init__(
        self,
        account_id: AccountId,
        credentials: Credentials,
        *,
        transport: Transport,
        server_clock: ServerClock,
        rate_scale: float = 1.0,
    ) -> None:
        self.account_id: Final = account_id
        self.server_clock: Final = server_clock
        self._calls = SignedCalls(
            credentials, transport=transport, server_clock=server_clock, rate_scale=rate_scale
        )
        self.isolated: Final = IsolatedTrades(self._calls)
        self.cross: Final = CrossMargin(self._calls)
        self._balance = self._shared(self._read_balance)
        self._isolated_running = self._shared(self.isolated.running)
        self._cross_running = self._shared(self._read_cross)
        self._cross_was_read = False
        self._cross_barred_until_s: float | None = None

    @property
    def covers_cross(self) -> bool:
        """Whether the key may read the cross position, as far as is known."""
        return self._cross_barred_until_s is None

    async def balance(self, *, max_age_s: float = 0.0) -> Balance:
        """Return what the account can spend, as read up to `max_age_s` before; see `Shared`."""
        return await self._balance.get(max_age_s=max_age_s)

    async def running_positions(self, *, max_age_s: float = 0.0) -> tuple[Position, ...]:
        """Return every running isolated trade, and the cross position if it runs.

        As read up to `max_age_s` before, but after every change of ours; see `Shared`.
        Both are read at once, and either failing fails the read. A key that has never been
        allowed to read the cross position is taken at its word: it is told of, and tried again
        every hour. One that was allowed before and is not now is refused (`Unauthorized`).
        """
        try:
            async with asyncio.TaskGroup() as reads:
                isolated = reads.create_task(self._isolated_running.get(max_age_s=max_age_s))
                cross = reads.create_task(self._cross_running.get(max_age_s=max_age_s))
        except ExceptionGroup as group:
            failure = _gravest(group)
        else:
            position = cross.result()
            return isolated.result() if position is None else (*isolated.result(), position)
        raise failure

    async def closed_trade(self, position_id: PositionId, since: datetime) -> ClosedTrade | None:
        """Return how the position ended, if it did at or after `since` (our clock's time).

        For the cross position given that it does not run; see `CrossMargin.find_closed`.
        """
        if position_id == CROSS:
            return await self.cross.find_closed(since)
        return await self.isolated.find_closed(position_id, since)

    async def closed_by_client_id(self, client_id: str, since: datetime) -> ClosedTrade | None:
        """Return the closed trade with this tag if it ended since then (our clock's time)."""
        return await self.isolated.find_closed_by_client_id(client_id, since)

    async def cross_order(self, client_id: str, since: datetime) -> CrossOrder | None:
        """Return the cross order with this tag if it was filled since then (our clock's time)."""
        return await self.cross.find_filled(client_id, since)

    async def deposits(self, since: datetime) -> tuple[Transfer, ...]:
        """Return the transfers into and out of the cross margin since then (our clock's time)."""
        return await self.cross.transfers(since)

    async def close_position(self, position_id: PositionId) -> Outcome:
        """Ask once to close the position whole."""
        if position_id == CROSS:
            return await self.cross.close()
        return await self.isolated.close(position_id)

    async def add_margin(self, position_id: PositionId, amount: Sats) -> Outcome:
        """Ask once to add `amount` sats (above 0) to the position's margin."""
        if position_id == CROSS:
            return await self.cross.deposit(amount)
        return await self.isolated.add_margin(position_id, amount)

    async def reduce_cross(self, side: Side, quantity: Usd, client_id: str) -> Outcome:
        """Ask once to buy (long) or sell (short) on the cross margin, at the market."""
        return await self.cross.place(side=side, quantity=quantity, client_id=client_id)

    async def open_trade(self, order: NewTrade) -> Outcome:
        """Ask once to open an isolated trade; the outcome's `exchange_id` is its id."""
        return await self.isolated.place(
            side=order.side,
            quantity=order.quantity,
            leverage=order.leverage,
            client_id=order.client_id,
            stop_loss=order.stop_loss,
            take_profit=order.take_profit,
        )

    async def set_stop_loss(self, position_id: PositionId, price: Price | None) -> Outcome:
        """Ask once to set an isolated trade's stop-loss at a fixed price, or to remove it.

        Whether it trailed the market before or not: afterwards it does not. It lets calls that
        protect go first.
        """
        if price is None:
            return await self.isolated.remove_stop_loss(position_id)
        return await self.isolated.set_stop_loss(position_id, price)

    async def resync_clock(self) -> None:
        """Measure the exchange's clock again; a failure leaves the earlier offset in use."""
        try:
            await self.server_clock.resync()
        except (Transient, Rejected) as error:
            structlog.get_logger().warning(
                "clock.unmeasured",
                account=self.account_id,
                error=str(error),
                meaning="requests go on being signed with the time known before",
                advice="if requests are refused, see that this machine's clock is right",
            )

    def _shared(self, read: Callable[[], Awaitable[_T]]) -> Shared[_T]:
        return Shared(read, changes=lambda: self._calls.changes)

    async def _read_balance(self) -> Balance:
        return await self._calls.read("/account", lambda body: wire.balance(body, self.account_id))

    async def _read_cross(self) -> Position | None:
        now_s = asyncio.get_running_loop().time()
        if self._cross_barred_until_s is not None and now_s < self._cross_barred_until_s:
            return None
        try:
            position = await self.cross.position()
        except Unauthorized as refused:
            if self._cross_was_read or refused.code != "FORBIDDEN":
                raise
            self._cross_barred_until_s = now_s + CROSS_RETRY_S
            structlog.get_logger().warning(
                "account.cross_not_covered",
                account=self.account_id,
                error=str(refused),
                meaning="the key may not read the cross position, so no guard covers it",
                advice="if the account uses cross margin, give the key the permissions"
                " futures:cross:read and futures:cross:write; it is tried again every hour",
            )
            return None
        if self._cross_barred_until_s is not None:
            structlog.get_logger().info("account.cross_covered", account=self.account_id)
        self._cross_was_read = True
        self._cross_barred_until_s = None
        return position


def _gravest(group: ExceptionGroup) -> BaseException:
    """Return the failure that says most: a refused key before one that passes.

    What is none of the package's own errors is a bug, and comes first.
    """
    bugs = [e for e in group.exceptions if not isinstance(e, MarginguardError)]
    refused = [e for e in group.exceptions if isinstance(e, Unauthorized)]
    return (*bugs, *refused, *group.exceptions)[0]
