"""REST v3: an account's cross margin, its position and its orders."""

from datetime import datetime
from typing import Final

from marginguard.domain.errors import Malformed
from marginguard.domain.model import (
    ClosedTrade,
    CrossOrder,
    FundingFee,
    OrderType,
    Position,
    Side,
    Transfer,
)
from marginguard.domain.outcome import Outcome
from marginguard.domain.units import CROSS, Price, Sats, Usd
from marginguard.lnmarkets import wire_cross
from marginguard.lnmarkets.calls import SignedCalls
from marginguard.lnmarkets.paging import window

_CROSS: Final = "/futures/cross"


class CrossMargin:
    """The calls on the cross margin. Reads raise, and changes end, as `SignedCalls` says."""

    def __init__(self, calls: SignedCalls) -> None:
        self._calls = calls

    async def position(self) -> Position | None:
        """Return the position, or None if none runs."""
        return await self._calls.read(f"{_CROSS}/position", wire_cross.position)

    async def open_orders(self) -> tuple[CrossOrder, ...]:
        """Return every order that waits to be filled."""
        return await self._calls.read(f"{_CROSS}/orders/open", wire_cross.open_orders)

    async def filled_orders(self, since: datetime) -> tuple[CrossOrder, ...]:
        """Return the orders filled at or after `since`, by our clock; the exchange's included."""
        start = self._calls.exchange_time(since)
        found = await self._calls.read_all(
            f"{_CROSS}/orders/filled",
            wire_cross.filled_page,
            window(since=start),
            "the list of filled cross orders",
        )
        return tuple(o for o in found if o.filled_at is not None and o.filled_at >= start)

    async def find_filled(self, client_id: str, since: datetime) -> CrossOrder | None:
        """Return the order with this tag if it was filled at or after `since`, by our clock.

        `since` is taken two minutes earlier. Raises `Malformed` where the list is too long to
        be read whole: None must mean that there is no such order.
        """
        start = self._calls.earliest_exchange_time(since)

        def wanted(order: CrossOrder) -> bool:
            since_then = order.filled_at is not None and order.filled_at >= start
            return since_then and order.client_id == client_id

        listing = await self._calls.read_until(
            f"{_CROSS}/orders/filled", wire_cross.filled_page, window(since=start), wanted
        )
        found = next(filter(wanted, listing.items), None)
        if found is None and not listing.complete:
            raise Malformed("the list of filled cross orders is too long to be read whole")
        return found

    async def transfers(self, since: datetime) -> tuple[Transfer, ...]:
        """Return the transfers from and to the balance at or after `since`, by our clock.

        Each once, though the exchange's pages may overlap.
        """
        start = self._calls.exchange_time(since)
        found = await self._calls.read_all(
            f"{_CROSS}/transfers",
            wire_cross.transfer_page,
            window(since=start),
            "the list of transfers",
        )
        once = {transfer.id: transfer for transfer in found if transfer.at >= start}
        return tuple(once.values())

    async def funding_fees(self, since: datetime) -> tuple[FundingFee, ...]:
        """Return the funding paid and received since then, by the exchange's time."""
        return await self._calls.read_all(
            f"{_CROSS}/funding-fees",
            wire_cross.funding_fee_page,
            window(since=since),
            "the list of funding fees",
        )

    async def find_closed(self, since: datetime) -> ClosedTrade | None:
        """Return how the position ended at or after `since` (our clock), given that none runs.

        The order that was filled last is what ended it; it does not tell the P&L.
        """
        orders = await self.filled_orders(since)
        if not orders:
            return None
        last = max(orders, key=lambda order: order.filled_at or order.created_at)
        return ClosedTrade(
            id=CROSS,
            exit_price=last.price,
            pl=None,
            closed_at=last.filled_at,
            liquidated=last.type is OrderType.LIQUIDATION,
        )

    async def place(
        self, *, side: Side, quantity: Usd, client_id: str, price: Price | None = None
    ) -> Outcome:
        """Order once: at `price` or better, or at the market if it is None.

        An order on the other side reduces the position. `client_id` (at most 64 characters)
        finds the order again; it does not keep the exchange from carrying it out twice.
        """

        def order_id(body: bytes) -> str:
            order = wire_cross.filled_order(body) if price is None else wire_cross.order(body)
            if order.client_id not in {None, client_id}:
                raise Malformed(f"the order {order.id} has another client id")
            if (order.side, order.quantity) != (side, quantity):
                raise Malformed(f"the order {order.id} is not the one asked for")
            return order.id

        request: dict[str, object] = {
            "type": "market" if price is None else "limit",
            "side": "buy" if side is Side.LONG else "sell",
            "quantity": quantity,
            "clientId": client_id,
        }
        if price is not None:
            request["price"] = price
        return await self._calls.change("POST", f"{_CROSS}/order", order_id, body=request)

    async def close(self) -> Outcome:
        """Ask once to close the position whole; the call has no body."""
        return await self._calls.change(
            "POST", f"{_CROSS}/position/close", lambda body: wire_cross.filled_order(body).id
        )

    async def deposit(self, amount: Sats) -> Outcome:
        """Ask once to move `amount` sats (above 0) from the balance into the cross margin."""
        return await self._move(f"{_CROSS}/deposit", amount)

    async def withdraw(self, amount: Sats) -> Outcome:
        """Ask once to move `amount` sats (above 0) from the cross margin to the balance."""
        return await self._move(f"{_CROSS}/withdraw", amount)

    async def set_leverage(self, leverage: int) -> Outcome:
        """Ask once to set the leverage, 1 to 100."""
        return await self._calls.change(
            "PUT",
            f"{_CROSS}/leverage",
            wire_cross.position_id,
            body={"leverage": leverage},
        )

    async def _move(self, path: str, amount: Sats) -> Outcome:
        return await self._calls.change(
            "POST", path, wire_cross.position_id, body={"amount": amount}
        )
