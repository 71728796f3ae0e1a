"""REST v3: the public reads, and one account behind `ports.Exchange`."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from urllib.parse import urlencode

import orjson
import structlog

from marginguard.domain.errors import Malformed, Rejected, Transient, Unauthorized
from marginguard.domain.model import Balance, ClosedTrade, Position
from marginguard.domain.outcome import Outcome
from marginguard.domain.units import AccountId, PositionId, Sats
from marginguard.lnmarkets import wire
from marginguard.lnmarkets.server_clock import ServerClock
from marginguard.lnmarkets.signing import Credentials, Signer
from marginguard.lnmarkets.transport import Transport

_RUNNING: Final = "/futures/isolated/trades/running"
_CLOSED: Final = "/futures/isolated/trades/closed"
_CLOSE: Final = "/futures/isolated/trade/close"
_ADD_MARGIN: Final = "/futures/isolated/trade/add-margin"

_PAGE_LIMIT: Final = 1000  # the most that the exchange gives at once
_MAX_PAGES: Final = 5
# `since` is our clock's time and the exchange stamps its own.
_CLOCK_SLACK: Final = timedelta(minutes=2)

_T = TypeVar("_T")


class PublicClient:
    """What anybody may read. Unsigned: one call a second for an address."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def ticker(self) -> wire.Ticker:
        """Return the last price and the index; raises what `Transport.read` raises."""
        return await self._transport.read("/futures/ticker", wire.ticker)

    async def server_time(self) -> datetime:
        """Return the exchange's time of day; raises what `Transport.read` raises."""
        return await self._transport.read("/time", wire.server_time)


class AccountClient:
    """One account: the `Exchange` port over REST.

    Reads raise as `Transport.read` says, after one clock resync and one resend where the key
    is refused: a signature whose time is off is refused in the same way. Nothing else is
    retried here. A change that is refused so ends `rejected` with `unauthorized`, and its
    caller decides whether to resync and send again.
    """

    def __init__(
        self,
        account_id: AccountId,
        credentials: Credentials,
        *,
        transport: Transport,
        server_clock: ServerClock,
    ) -> None:
        self._account_id = account_id
        self._signer = Signer(credentials, server_clock.timestamp_ms)
        self._transport = transport
        self._server_clock = server_clock

    async def balance(self) -> Balance:
        """Return what the account can spend."""
        return await self._read("/account", lambda body: wire.balance(body, self._account_id))

    async def running_positions(self) -> tuple[Position, ...]:
        """Return every running isolated trade."""
        return await self._read(_RUNNING, wire.running_trades)

    async def closed_trade(self, position_id: PositionId, since: datetime) -> ClosedTrade | None:
        """Return the closed trade of this id if it ended at or after `since`.

        None means that it is neither in the list since then nor among the account's newest
        5,000 closed trades: whether `from` goes by the time of closing or of opening is not
        documented, so a second look does without it. `since` is taken two minutes earlier,
        because the two clocks may differ.
        """
        start = (since - _CLOCK_SLACK).astimezone(UTC)
        stamp = start.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for window in ({"from": stamp}, {}):
            trade = await self._find_closed(position_id, window)
            if trade is not None:
                ended_before = trade.closed_at is not None and trade.closed_at < start
                return None if ended_before else trade
        return None

    async def close_position(self, position_id: PositionId) -> Outcome:
        """Ask once to close the trade whole."""
        return await self._change(
            _CLOSE, {"id": position_id}, position_id, lambda body: wire.closed_trade(body).id
        )

    async def add_margin(self, position_id: PositionId, amount: Sats) -> Outcome:
        """Ask once to add `amount` sats (above 0) to the trade's margin."""
        return await self._change(
            _ADD_MARGIN,
            {"id": position_id, "amount": amount},
            position_id,
            lambda body: wire.running_trade(body).id,
        )

    async def resync_clock(self) -> None:
        """Measure the exchange's clock again; a failure leaves the earlier offset in use."""
        try:
            await self._server_clock.resync()
        except (Transient, Rejected) as error:
            structlog.get_logger().warning(
                "clock.unmeasured",
                account=self._account_id,
                error=str(error),
                meaning="requests go on being signed with the time known before",
                advice="if requests are refused, see that this machine's clock is right",
            )

    async def _find_closed(
        self, position_id: PositionId, window: dict[str, str]
    ) -> ClosedTrade | None:
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            query = {**window, "limit": str(_PAGE_LIMIT)}
            if cursor is not None:
                query["cursor"] = cursor
            page = await self._read(_CLOSED, wire.closed_page, query=urlencode(query))
            for trade in page.trades:
                if trade.id == position_id:
                    return trade
            cursor = page.next_cursor
            if cursor is None:
                break
        return None

    async def _read(self, path: str, parse: Callable[[bytes], _T], *, query: str = "") -> _T:
        try:
            return await self._transport.read(path, parse, query=query, signer=self._signer)
        except Unauthorized:
            await self._server_clock.resync()
        return await self._transport.read(path, parse, query=query, signer=self._signer)

    async def _change(
        self,
        path: str,
        request: dict[str, object],
        position_id: PositionId,
        trade_id: Callable[[bytes], PositionId],
    ) -> Outcome:
        def exchange_id(body: bytes) -> str:
            found = trade_id(body)
            if found != position_id:
                raise Malformed(f"the answer is about the trade {found}, not {position_id}")
            return found

        return await self._transport.change(
            "POST", path, exchange_id, signer=self._signer, body=orjson.dumps(request)
        )
