"""REST v3: which call does what. Synchronous: a call is carried out whole or not at all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from types import MappingProxyType
from typing import Annotated, Any, Final, Generic, Literal, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
)

from marginguard.domain.errors import Rejected
from marginguard.domain.units import Price, Sats, Usd
from marginguard.ports import Clock
from marginguard.simulator.accounts import Account
from marginguard.simulator.auth import authenticate
from marginguard.simulator.calls import Call, Reply
from marginguard.simulator.exchange import Exchange
from marginguard.simulator.refusals import bad_request, not_found
from marginguard.simulator.trades import Order, Trade
from marginguard.simulator.wire import (
    account_payload,
    side_of_type,
    ticker_payload,
    timestamp,
    trade_payload,
)

_PREFIX: Final = "/v3"
_MAX_PAGE: Final = 1000


class _Params(BaseModel):
    """What a call may carry; anything else is refused, as a misspelt stop-loss must be."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Nothing(_Params):
    pass


class _NewTrade(_Params):
    type: Literal["market"]
    side: Literal["buy", "sell"]
    leverage: FiniteFloat
    quantity: int | None = None
    margin: int | None = None
    stoploss: FiniteFloat = 0.0
    takeprofit: FiniteFloat = 0.0
    client_id: Annotated[str | None, Field(alias="clientId", max_length=64)] = None


class _TradeId(_Params):
    id: UUID


class _Amount(_TradeId):
    amount: int


class _StopLoss(_TradeId):
    value: FiniteFloat
    mode: Literal["fixed"] = "fixed"


class _TakeProfit(_TradeId):
    value: FiniteFloat


class _Page(_Params):
    from_: Annotated[AwareDatetime | None, Field(alias="from")] = None
    to: AwareDatetime | None = None
    cursor: AwareDatetime | None = None
    limit: Annotated[int, Field(ge=1, le=_MAX_PAGE)] = _MAX_PAGE


@dataclass(frozen=True, kw_only=True, slots=True)
class _Context:
    """Who calls, on what, when."""

    exchange: Exchange
    account: Account
    now: datetime

    def payload(self, trade: Trade) -> dict[str, object]:
        return trade_payload(trade, self.exchange.last)


_P = TypeVar("_P", bound=_Params)


@dataclass(frozen=True, slots=True)
class _Route(Generic[_P]):
    params: type[_P]
    handle: Callable[[_Context, _P], object]


class RestApi:
    """Carries out REST calls on an exchange."""

    def __init__(self, exchange: Exchange, clock: Clock) -> None:
        self._exchange = exchange
        self._clock = clock

    def process(self, call: Call) -> Reply:
        """Carry out `call` now and return the answer; what is refused changes nothing.

        The signature's time is checked now too: a call that comes late is refused.
        """
        try:
            return Reply.of(self._carry_out(call))
        except Rejected as refused:
            return Reply.refusal(refused)

    def _carry_out(self, call: Call) -> object:
        now = self._clock.now()
        path = call.path.removeprefix(_PREFIX)
        if call.method == "GET" and (public := _PUBLIC.get(path)) is not None:
            return public(self._exchange, now)
        route = _SIGNED.get((call.method, path))
        if route is None:
            raise not_found(f"{call.method} {call.path} is not a route of this exchange")
        account = authenticate(self._exchange, call, now)
        context = _Context(exchange=self._exchange, account=account, now=now)
        return route.handle(context, _parse(route.params, call))


def _parse(params: type[_P], call: Call) -> _P:
    try:
        if call.method in {"POST", "PUT"}:
            return params.model_validate_json(call.body)
        return params.model_validate_strings(dict(parse_qsl(call.query, keep_blank_values=True)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise bad_request(f"{where}: {first['msg']}" if where else first["msg"]) from error


def _ping(_exchange: Exchange, _now: datetime) -> object:
    return "pong"


def _time(_exchange: Exchange, now: datetime) -> object:
    return {"time": timestamp(now)}


def _account(context: _Context, _params: _Nothing) -> object:
    return account_payload(context.account)


def _running(context: _Context, _params: _Nothing) -> object:
    return [context.payload(t) for t in context.exchange.running_trades(context.account)]


def _open(_context: _Context, _params: _Nothing) -> object:
    return []  # limit orders wait here; there are none without them


def _canceled(_context: _Context, _params: _Page) -> object:
    return {"data": [], "nextCursor": None}


def _closed(context: _Context, page: _Page) -> object:
    found = [
        (trade.closing.at, trade)
        for trade in context.exchange.closed_trades(context.account)
        if trade.closing is not None and _within(page, trade.closing.at)
    ]
    shown = found[: page.limit]
    return {
        "data": [context.payload(trade) for _, trade in shown],
        "nextCursor": timestamp(shown[-1][0]) if len(found) > len(shown) else None,
    }


def _within(page: _Page, at: datetime) -> bool:
    return (
        (page.from_ is None or at >= page.from_)
        and (page.to is None or at <= page.to)
        and (page.cursor is None or at < page.cursor)
    )


def _new_trade(context: _Context, wanted: _NewTrade) -> object:
    order = Order(
        side=side_of_type[wanted.side],
        leverage=Fraction(str(wanted.leverage)),
        quantity=None if wanted.quantity is None else Usd(wanted.quantity),
        margin=None if wanted.margin is None else Sats(wanted.margin),
        stop_loss=_price_or_none(wanted.stoploss),
        take_profit=_price_or_none(wanted.takeprofit),
        client_id=wanted.client_id,
    )
    return context.payload(context.exchange.open_trade(context.account, order, context.now))


def _close(context: _Context, which: _TradeId) -> object:
    return context.payload(context.exchange.close_trade(context.account, which.id, context.now))


def _add_margin(context: _Context, wanted: _Amount) -> object:
    amount = Sats(wanted.amount)
    return context.payload(context.exchange.add_margin(context.account, wanted.id, amount))


def _cash_in(context: _Context, wanted: _Amount) -> object:
    amount = Sats(wanted.amount)
    return context.payload(context.exchange.cash_in(context.account, wanted.id, amount))


def _put_stop_loss(context: _Context, wanted: _StopLoss) -> object:
    price = _price_or_none(wanted.value)
    return context.payload(context.exchange.set_stop_loss(context.account, wanted.id, price))


def _put_take_profit(context: _Context, wanted: _TakeProfit) -> object:
    price = _price_or_none(wanted.value)
    return context.payload(context.exchange.set_take_profit(context.account, wanted.id, price))


def _delete_stop_loss(context: _Context, which: _TradeId) -> object:
    return context.payload(context.exchange.set_stop_loss(context.account, which.id, None))


def _delete_take_profit(context: _Context, which: _TradeId) -> object:
    return context.payload(context.exchange.set_take_profit(context.account, which.id, None))


def _price_or_none(value: float) -> Price | None:
    """Return the price, or None for the exchange's 0, which means none."""
    return Price(value) if value else None


_PUBLIC: Final[Mapping[str, Callable[[Exchange, datetime], object]]] = MappingProxyType(
    {"/ping": _ping, "/time": _time, "/futures/ticker": ticker_payload}
)
_TRADE: Final = "/futures/isolated/trade"
_SIGNED: Final[Mapping[tuple[str, str], _Route[Any]]] = MappingProxyType(
    {
        ("GET", "/account"): _Route(_Nothing, _account),
        ("GET", f"{_TRADE}s/running"): _Route(_Nothing, _running),
        ("GET", f"{_TRADE}s/open"): _Route(_Nothing, _open),
        ("GET", f"{_TRADE}s/closed"): _Route(_Page, _closed),
        ("GET", f"{_TRADE}s/canceled"): _Route(_Page, _canceled),
        ("POST", _TRADE): _Route(_NewTrade, _new_trade),
        ("POST", f"{_TRADE}/close"): _Route(_TradeId, _close),
        ("POST", f"{_TRADE}/add-margin"): _Route(_Amount, _add_margin),
        ("POST", f"{_TRADE}/cash-in"): _Route(_Amount, _cash_in),
        ("PUT", f"{_TRADE}/stoploss"): _Route(_StopLoss, _put_stop_loss),
        ("DELETE", f"{_TRADE}/stoploss"): _Route(_TradeId, _delete_stop_loss),
        ("PUT", f"{_TRADE}/takeprofit"): _Route(_TakeProfit, _put_take_profit),
        ("DELETE", f"{_TRADE}/takeprofit"): _Route(_TradeId, _delete_take_profit),
    }
)
