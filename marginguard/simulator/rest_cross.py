"""REST v3: the calls on the cross position."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final

from pydantic import FiniteFloat

from marginguard.domain.units import Sats, Usd
from marginguard.simulator.cross import CrossPosition
from marginguard.simulator.orders import CrossOrder, CrossRequest
from marginguard.simulator.refusals import bad_request
from marginguard.simulator.routing import (
    AnyRoute,
    Context,
    Id,
    Nothing,
    OrderParams,
    Page,
    Params,
    Route,
)
from marginguard.simulator.wire import (
    cross_order_payload,
    cross_position_payload,
    funding_fee_payload,
    side_of_type,
    transfer_payload,
)


class _NewOrder(OrderParams):
    quantity: int


class _Amount(Params):
    amount: int


class _Leverage(Params):
    leverage: FiniteFloat


def _payload(context: Context, position: CrossPosition) -> object:
    return cross_position_payload(position, context.exchange.last)


def _position(context: Context, _params: Nothing) -> object:
    return _payload(context, context.exchange.cross.position(context.account))


def _order(context: Context, wanted: _NewOrder) -> object:
    request = CrossRequest(
        side=side_of_type[wanted.side],
        quantity=Usd(wanted.quantity),
        price=wanted.limit_price,
        client_id=wanted.client_id,
    )
    return cross_order_payload(context.exchange.cross.order(context.account, request, context.now))


def _close(context: Context, _params: Nothing) -> object:
    return cross_order_payload(context.exchange.cross.close(context.account, context.now))


def _cancel(context: Context, which: Id) -> object:
    order = context.exchange.cross.cancel(context.account, which.id, context.now)
    return cross_order_payload(order)


def _cancel_all(context: Context, _params: Nothing) -> object:
    canceled = context.exchange.cross.cancel_all(context.account, context.now)
    return [cross_order_payload(order) for order in canceled]


def _deposit(context: Context, wanted: _Amount) -> object:
    amount = Sats(wanted.amount)
    return _payload(context, context.exchange.cross.deposit(context.account, amount, context.now))


def _withdraw(context: Context, wanted: _Amount) -> object:
    amount = Sats(wanted.amount)
    return _payload(context, context.exchange.cross.withdraw(context.account, amount, context.now))


def _set_leverage(context: Context, wanted: _Leverage) -> object:
    if not wanted.leverage.is_integer():
        raise bad_request(f"Leverage must be a whole number, not {wanted.leverage}")
    leverage = int(wanted.leverage)
    position = context.exchange.cross.set_leverage(context.account, leverage, context.now)
    return _payload(context, position)


def _open(context: Context, _params: Nothing) -> object:
    return [cross_order_payload(o) for o in context.exchange.cross.open_orders(context.account)]


def _filled(context: Context, page: Page) -> object:
    orders = context.exchange.cross.filled_orders(context.account)
    return page.of(orders, _filled_at, cross_order_payload)


def _transfers(context: Context, page: Page) -> object:
    transfers = context.exchange.cross.transfers(context.account)
    return page.of(transfers, lambda transfer: transfer.time, transfer_payload)


def _funding_fees(context: Context, page: Page) -> object:
    fees = context.exchange.cross.funding_fees(context.account)
    return page.of(fees, lambda paid: paid.time, funding_fee_payload)


def _filled_at(order: CrossOrder) -> datetime:
    if order.filled_at is None:
        raise ValueError(f"order {order.id} is not filled")
    return order.filled_at


_CROSS: Final = "/futures/cross"
CROSS_ROUTES: Final[Mapping[tuple[str, str], AnyRoute]] = MappingProxyType(
    {
        ("GET", f"{_CROSS}/position"): Route(Nothing, _position),
        ("POST", f"{_CROSS}/position/close"): Route(Nothing, _close),
        ("POST", f"{_CROSS}/order"): Route(_NewOrder, _order),
        ("POST", f"{_CROSS}/order/cancel"): Route(Id, _cancel),
        ("POST", f"{_CROSS}/orders/cancel-all"): Route(Nothing, _cancel_all),
        ("GET", f"{_CROSS}/orders/open"): Route(Nothing, _open),
        ("GET", f"{_CROSS}/orders/filled"): Route(Page, _filled),
        ("POST", f"{_CROSS}/deposit"): Route(_Amount, _deposit),
        ("POST", f"{_CROSS}/withdraw"): Route(_Amount, _withdraw),
        ("PUT", f"{_CROSS}/leverage"): Route(_Leverage, _set_leverage),
        ("GET", f"{_CROSS}/transfers"): Route(Page, _transfers),
        ("GET", f"{_CROSS}/funding-fees"): Route(Page, _funding_fees),
    }
)
"""What each method and path, without `/v3`, does."""
