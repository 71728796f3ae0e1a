"""REST v3: an account's isolated trades."""

from collections.abc import Callable
from datetime import datetime
from typing import Final
from urllib.parse import urlencode

from marginguard.domain.errors import Malformed
from marginguard.domain.model import ClosedTrade, PendingTrade, Position, Side
from marginguard.domain.outcome import Outcome
from marginguard.domain.units import PositionId, Price, Sats, Usd
from marginguard.lnmarkets import wire
from marginguard.lnmarkets.calls import SignedCalls
from marginguard.lnmarkets.limits import Urgency
from marginguard.lnmarkets.paging import window
from marginguard.lnmarkets.sharing import Shared

_TRADES: Final = "/futures/isolated/trades"
_TRADE: Final = "/futures/isolated/trade"

_NEWEST_CLOSED: Final = 50
"""Closed trades to look through first: a page that is small to send and to parse."""


class IsolatedTrades:
    """The calls on isolated trades. Reads raise, and changes end, as `SignedCalls` says."""

    def __init__(self, calls: SignedCalls) -> None:
        self._calls = calls
        self._newest_closed = Shared(self._read_newest_closed)

    async def running(self) -> tuple[Position, ...]:
        """Return every running trade."""
        return await self._calls.read(f"{_TRADES}/running", wire.running_trades)

    async def open(self) -> tuple[PendingTrade, ...]:
        """Return every limit order that waits to be filled."""
        return await self._calls.read(f"{_TRADES}/open", wire.open_trades)

    async def closed(self, since: datetime) -> tuple[ClosedTrade, ...]:
        """Return the trades closed since then, by the exchange's time."""
        return await self._calls.read_all(
            f"{_TRADES}/closed", wire.closed_page, window(since=since), "the list of closed trades"
        )

    async def canceled(self, since: datetime) -> tuple[PendingTrade, ...]:
        """Return the limit orders canceled since then, by the exchange's time."""
        return await self._calls.read_all(
            f"{_TRADES}/canceled",
            wire.canceled_page,
            window(since=since),
            "the list of canceled trades",
        )

    async def find_closed(self, trade_id: PositionId, since: datetime) -> ClosedTrade | None:
        """Return the closed trade of this id if it ended at or after `since`, by our clock.

        None means that it is neither in the list since then nor among the account's newest
        5,000 closed trades: whether `from` goes by the time of closing or of opening is not
        documented, so a second look does without it. `since` is taken two minutes earlier.
        """
        return await self._find_closed(lambda trade: trade.id == trade_id, since)

    async def find_closed_by_client_id(self, client_id: str, since: datetime) -> ClosedTrade | None:
        """Return the trade that was opened with this tag and ended since then, by our clock.

        It looks as `find_closed` does, and where the exchange carried one order out twice it
        returns one of the two. Raises `Malformed` where the list since then is too long to be
        read whole: None must mean that the trade did not end.
        """
        return await self._find_closed(
            lambda trade: trade.client_id == client_id, since, refuse_part=True
        )

    async def place(
        self,
        *,
        side: Side,
        quantity: Usd,
        leverage: float,
        client_id: str,
        price: Price | None = None,
        stop_loss: Price | None = None,
        take_profit: Price | None = None,
    ) -> Outcome:
        """Order a trade once: at `price` or better, or at the market if it is None.

        `client_id` (at most 64 characters) finds the trade again; it does not keep the exchange
        from carrying the same order out twice.
        """
        order: dict[str, object] = {
            "type": "market" if price is None else "limit",
            "side": "buy" if side is Side.LONG else "sell",
            "quantity": quantity,
            "leverage": leverage,
            "clientId": client_id,
        }
        prices = {"price": price, "stoploss": stop_loss, "takeprofit": take_profit}
        order |= {name: value for name, value in prices.items() if value is not None}
        return await self._calls.change(
            "POST", _TRADE, lambda body: wire.live_trade_id(body, client_id=client_id), body=order
        )

    async def close(self, trade_id: PositionId) -> Outcome:
        """Ask once to close the trade whole."""
        return await self._calls.change(
            "POST",
            f"{_TRADE}/close",
            lambda body: _same(wire.closed_trade(body).id, trade_id),
            body={"id": trade_id},
        )

    async def add_margin(self, trade_id: PositionId, amount: Sats) -> Outcome:
        """Ask once to move `amount` sats (above 0) from the balance into the trade's margin."""
        return await self._move(f"{_TRADE}/add-margin", trade_id, amount)

    async def cash_in(self, trade_id: PositionId, amount: Sats) -> Outcome:
        """Ask once to take `amount` sats (above 0) out: of the profit first, then the margin."""
        return await self._move(f"{_TRADE}/cash-in", trade_id, amount)

    async def set_stop_loss(self, trade_id: PositionId, price: Price) -> Outcome:
        """Ask once to set the stop-loss, in place of an earlier one, at a fixed price."""
        return await self._calls.change(
            "PUT",
            f"{_TRADE}/stoploss",
            lambda body: _same(wire.live_trade_id(body), trade_id),
            body={"id": trade_id, "value": price},
            urgency=Urgency.PREPARE,
        )

    async def remove_stop_loss(self, trade_id: PositionId) -> Outcome:
        """Ask once to do without a stop-loss."""
        return await self._calls.change(
            "DELETE",
            f"{_TRADE}/stoploss",
            lambda body: _same(wire.live_trade_id(body), trade_id),
            query={"id": trade_id},
            urgency=Urgency.PREPARE,
        )

    async def set_take_profit(self, trade_id: PositionId, price: Price) -> Outcome:
        """Ask once to set the take-profit, in place of an earlier one."""
        return await self._calls.change(
            "PUT",
            f"{_TRADE}/takeprofit",
            lambda body: _same(wire.live_trade_id(body), trade_id),
            body={"id": trade_id, "value": price},
            urgency=Urgency.PREPARE,
        )

    async def cancel(self, trade_id: PositionId) -> Outcome:
        """Ask once to cancel a limit order that waits."""
        return await self._calls.change(
            "POST",
            f"{_TRADE}/cancel",
            lambda body: _same(wire.canceled_trade(body).id, trade_id),
            body={"id": trade_id},
        )

    async def cancel_all(self) -> Outcome:
        """Ask once to cancel every limit order that waits; the outcome carries no id."""
        return await self._calls.change("POST", f"{_TRADES}/cancel-all", _canceled_all)

    async def _read_newest_closed(self) -> tuple[ClosedTrade, ...]:
        query = urlencode({"limit": _NEWEST_CLOSED})
        return (await self._calls.read(f"{_TRADES}/closed", wire.closed_page, query)).items

    async def _find_closed(
        self,
        wanted: Callable[[ClosedTrade], bool],
        since: datetime,
        *,
        refuse_part: bool = False,
    ) -> ClosedTrade | None:
        start = self._calls.earliest_exchange_time(since)

        def ended_since(trade: ClosedTrade) -> bool:
            return wanted(trade) and (trade.closed_at is None or trade.closed_at >= start)

        # The trade asked for has nearly always ended just now, and others are asked for with it.
        found = next(filter(ended_since, await self._newest_closed.get()), None)
        if found is not None:
            return found
        for query, must_be_whole in ((window(since=start), refuse_part), (window(), False)):
            listing = await self._calls.read_until(
                f"{_TRADES}/closed", wire.closed_page, query, ended_since
            )
            found = next(filter(ended_since, listing.items), None)
            if found is not None:
                return found
            if must_be_whole and not listing.complete:
                raise Malformed("the list of closed trades is too long to be read whole")
        return None

    async def _move(self, path: str, trade_id: PositionId, amount: Sats) -> Outcome:
        return await self._calls.change(
            "POST",
            path,
            lambda body: _same(wire.running_trade(body).id, trade_id),
            body={"id": trade_id, "amount": amount},
        )


def _same(found: PositionId, wanted: PositionId) -> str:
    if found != wanted:
        raise Malformed(f"the answer is about the trade {found}, not {wanted}")
    return found


def _canceled_all(body: bytes) -> None:
    wire.canceled_trades(body)
