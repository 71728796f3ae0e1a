"""REST v3: which call does what. Synchronous: a call is carried out whole or not at all."""

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final

from marginguard.domain.errors import Rejected
from marginguard.ports import Clock
from marginguard.simulator.auth import authenticate, require_permission
from marginguard.simulator.calls import Call, Reply
from marginguard.simulator.candles import RANGES
from marginguard.simulator.exchange import Exchange
from marginguard.simulator.refusals import bad_request, not_found
from marginguard.simulator.rest_cross import CROSS_ROUTES
from marginguard.simulator.rest_isolated import ISOLATED_ROUTES
from marginguard.simulator.routing import AnyRoute, Context, Nothing, Page, Route, parse_params
from marginguard.simulator.wire import (
    account_payload,
    candle_payload,
    settlement_payload,
    ticker_payload,
    timestamp,
)

_PREFIX: Final = "/v3"


class _CandlePage(Page):
    range: str = "1m"


class RestApi:
    """Carries out REST calls on an exchange."""

    def __init__(self, exchange: Exchange, clock: Clock) -> None:
        self._exchange = exchange
        self._clock = clock

    def process(self, call: Call) -> Reply:
        """Carry out `call` now and return the answer; what is refused changes nothing.

        The signature's time is checked now too: a call that comes late is refused. Funding that
        has come due is settled first.
        """
        now = self._clock.now()
        self._exchange.pass_time(now)
        try:
            return Reply.of(self._carry_out(call, now))
        except Rejected as refused:
            return Reply.refusal(refused)

    def _carry_out(self, call: Call, now: datetime) -> object:
        path = call.path.removeprefix(_PREFIX)
        if call.method == "GET" and (public := _PUBLIC.get(path)) is not None:
            return public(self._exchange, call, now)
        route = _SIGNED.get((call.method, path))
        if route is None:
            raise not_found(f"{call.method} {call.path} is not a route of this exchange")
        account = authenticate(self._exchange, call, now)
        require_permission(account, call)
        context = Context(exchange=self._exchange, account=account, now=now)
        return route.handle(context, parse_params(route.params, call))


def _ping(_exchange: Exchange, _call: Call, _now: datetime) -> object:
    return "pong"


def _time(_exchange: Exchange, _call: Call, now: datetime) -> object:
    return {"time": timestamp(now)}


def _ticker(exchange: Exchange, _call: Call, now: datetime) -> object:
    return ticker_payload(exchange, now)


def _candles(exchange: Exchange, call: Call, _now: datetime) -> object:
    page = parse_params(_CandlePage, call)
    span = RANGES.get(page.range)
    if span is None:
        raise bad_request(f"range: {page.range!r} is not one of {', '.join(RANGES)}")
    candles = exchange.market.candles.candles(span)
    return page.of(candles, lambda candle: candle.time, candle_payload)


def _settlements(exchange: Exchange, call: Call, _now: datetime) -> object:
    page = parse_params(Page, call)
    return page.of(exchange.settlements, lambda settled: settled.time, settlement_payload)


def _account(context: Context, _params: Nothing) -> object:
    return account_payload(context.account)


_PUBLIC: Final[Mapping[str, Callable[[Exchange, Call, datetime], object]]] = MappingProxyType(
    {
        "/ping": _ping,
        "/time": _time,
        "/futures/ticker": _ticker,
        "/futures/candles": _candles,
        "/futures/funding-settlements": _settlements,
    }
)
_SIGNED: Final[Mapping[tuple[str, str], AnyRoute]] = MappingProxyType(
    {("GET", "/account"): Route(Nothing, _account), **ISOLATED_ROUTES, **CROSS_ROUTES}
)
