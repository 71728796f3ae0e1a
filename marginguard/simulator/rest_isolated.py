"""REST v3: the calls on isolated trades."""

from collections.abc import Mapping
from datetime import datetime
from fractions import Fraction
from types import MappingProxyType
from typing import Final, Literal

from pydantic import FiniteFloat

from marginguard.domain.units import Price, Sats, Usd
from marginguard.simulator.routing import AnyRoute, Context, Id, Nothing, OrderParams, Page, Route
from marginguard.simulator.trades import Order, Trade
from marginguard.simulator.wire import side_of_type, trade_payload


class _NewTrade(OrderParams):
    leverage: FiniteFloat
    quantity: int | None = None
    margin: int | None = None
    stoploss: FiniteFloat = 0.0
    takeprofit: FiniteFloat = 0.0


class _Amount(Id):
    amount: int


class _StopLoss(Id):
    """`value` is a price, or where the mode is `trailing` a share of it; 0 removes the stop."""

    value: FiniteFloat
    mode: Literal["fixed", "trailing"] = "fixed"


class _TakeProfit(Id):
    value: FiniteFloat


def _payload(context: Context, trade: Trade) -> object:
    return trade_payload(trade, context.exchange.last)


def _running(context: Context, _params: Nothing) -> object:
    return [_payload(context, t) for t in context.exchange.running_trades(context.account)]


def _open(context: Context, _params: Nothing) -> object:
    return [_payload(context, t) for t in context.exchange.open_trades(context.account)]


def _canceled(context: Context, page: Page) -> object:
    trades = context.exchange.canceled_trades(context.account)
    return page.of(trades, _ended_at, lambda trade: _payload(context, trade))


def _closed(context: Context, page: Page) -> object:
    trades = context.exchange.closed_trades(context.account)
    return page.of(trades, _ended_at, lambda trade: _payload(context, trade))


def _ended_at(trade: Trade) -> datetime:
    at = trade.canceled_at if trade.closing is None else trade.closing.at
    if at is None:
        raise ValueError(f"trade {trade.id} has not ended")
    return at


def _new_trade(context: Context, wanted: _NewTrade) -> object:
    order = Order(
        side=side_of_type[wanted.side],
        leverage=Fraction(str(wanted.leverage)),
        quantity=None if wanted.quantity is None else Usd(wanted.quantity),
        margin=None if wanted.margin is None else Sats(wanted.margin),
        price=wanted.limit_price,
        stop_loss=_price_or_none(wanted.stoploss),
        take_profit=_price_or_none(wanted.takeprofit),
        client_id=wanted.client_id,
    )
    return _payload(context, context.exchange.open_trade(context.account, order, context.now))


def _close(context: Context, which: Id) -> object:
    trade = context.exchange.close_trade(context.account, which.id, context.now)
    return _payload(context, trade)


def _cancel(context: Context, which: Id) -> object:
    trade = context.exchange.cancel_trade(context.account, which.id, context.now)
    return _payload(context, trade)


def _cancel_all(context: Context, _params: Nothing) -> object:
    canceled = context.exchange.cancel_all_trades(context.account, context.now)
    return [_payload(context, trade) for trade in canceled]


def _add_margin(context: Context, wanted: _Amount) -> object:
    amount = Sats(wanted.amount)
    return _payload(context, context.exchange.add_margin(context.account, wanted.id, amount))


def _cash_in(context: Context, wanted: _Amount) -> object:
    amount = Sats(wanted.amount)
    return _payload(context, context.exchange.cash_in(context.account, wanted.id, amount))


def _put_stop_loss(context: Context, wanted: _StopLoss) -> object:
    if wanted.mode == "trailing" and wanted.value:
        distance = Fraction(str(wanted.value))
        trade = context.exchange.set_trailing_stop(context.account, wanted.id, distance)
        return _payload(context, trade)
    price = _price_or_none(wanted.value)
    return _payload(context, context.exchange.set_stop_loss(context.account, wanted.id, price))


def _put_take_profit(context: Context, wanted: _TakeProfit) -> object:
    price = _price_or_none(wanted.value)
    return _payload(context, context.exchange.set_take_profit(context.account, wanted.id, price))


def _delete_stop_loss(context: Context, which: Id) -> object:
    return _payload(context, context.exchange.set_stop_loss(context.account, which.id, None))


def _delete_take_profit(context: Context, which: Id) -> object:
    return _payload(context, context.exchange.set_take_profit(context.account, which.id, None))


def _price_or_none(value: float) -> Price | None:
    """Return the price, or None for the exchange's 0, which means none."""
    return Price(value) if value else None


_TRADE: Final = "/futures/isolated/trade"
ISOLATED_ROUTES: Final[Mapping[tuple[str, str], AnyRoute]] = MappingProxyType(
    {
        ("GET", f"{_TRADE}s/running"): Route(Nothing, _running),
        ("GET", f"{_TRADE}s/open"): Route(Nothing, _open),
        ("GET", f"{_TRADE}s/closed"): Route(Page, _closed),
        ("GET", f"{_TRADE}s/canceled"): Route(Page, _canceled),
        ("POST", _TRADE): Route(_NewTrade, _new_trade),
        ("POST", f"{_TRADE}/close"): Route(Id, _close),
        ("POST", f"{_TRADE}/cancel"): Route(Id, _cancel),
        ("POST", f"{_TRADE}s/cancel-all"): Route(Nothing, _cancel_all),
        ("POST", f"{_TRADE}/add-margin"): Route(_Amount, _add_margin),
        ("POST", f"{_TRADE}/cash-in"): Route(_Amount, _cash_in),
        ("PUT", f"{_TRADE}/stoploss"): Route(_StopLoss, _put_stop_loss),
        ("DELETE", f"{_TRADE}/stoploss"): Route(Id, _delete_stop_loss),
        ("PUT", f"{_TRADE}/takeprofit"): Route(_TakeProfit, _put_take_profit),
        ("DELETE", f"{_TRADE}/takeprofit"): Route(Id, _delete_take_profit),
    }
)
"""What each method and path, without `/v3`, does."""
