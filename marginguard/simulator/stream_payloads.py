"""The stream's topics, and what is pushed on them. Times are milliseconds since the epoch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from types import MappingProxyType
from typing import Final

import orjson

from marginguard.domain.units import Price
from marginguard.simulator.candles import MINUTE
from marginguard.simulator.cross import CrossPosition
from marginguard.simulator.events import (
    CrossChanged,
    CrossOrderChanged,
    Event,
    FundingSettled,
    PriceMoved,
    TradeChanged,
    TradeEvent,
    TradeFunded,
)
from marginguard.simulator.exchange import Exchange
from marginguard.simulator.funding import next_funding_time
from marginguard.simulator.orders import CrossOrder
from marginguard.simulator.trades import MAX_QUANTITY, Trade
from marginguard.simulator.wire import cross_position_payload, number, type_of_side

_PAIR: Final = "btc_usd"
_MARKET: Final = f"futures/inverse/{_PAIR}"
LAST_PRICE: Final = f"{_MARKET}/lastPrice"
INDEX: Final = f"{_MARKET}/index"
TICKER: Final = f"{_MARKET}/ticker"
BUCKETS: Final = f"{_MARKET}/buckets"
FUNDING: Final = f"{_MARKET}/funding"
TRADES: Final = f"{_MARKET}/isolated/trades"
ORDERS: Final = f"{_MARKET}/cross/orders"
POSITION: Final = f"{_MARKET}/cross/position"
MINUTE_CANDLE: Final = f"{_MARKET}/ohlc/1m"
_RESOLUTIONS: Final = (
    *("1m", "3m", "5m", "10m", "15m", "30m", "45m", "1h", "2h", "3h", "4h"),
    *("1d", "1w", "1month", "3months"),
)

PUBLIC: Final = frozenset(
    {LAST_PRICE, INDEX, TICKER, BUCKETS, FUNDING, "announcements"}
    | {f"{_MARKET}/ohlc/{resolution}" for resolution in _RESOLUTIONS}
)
"""What anybody may subscribe to. Longer candles and announcements are never pushed."""

PRIVATE: Final[Mapping[str, str]] = MappingProxyType(
    {
        TRADES: "futures:isolated:read",
        ORDERS: "futures:cross:read",
        POSITION: "futures:cross:read",
        "wallet/deposit": "account:read",
        "wallet/withdrawal": "account:read",
    }
)
"""What an account may subscribe to, each with the permission that it takes."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Push:
    """What is sent to the subscribers of `topic`: all, or those of the account with this key."""

    topic: str
    data: Mapping[str, object]
    account: str | None = None

    def frame(self) -> bytes:
        """Return the message as it goes over the wire."""
        params = {"topic": self.topic, "data": dict(self.data)}
        return orjson.dumps({"jsonrpc": "2.0", "method": "subscription", "params": params})


def milliseconds(at: datetime) -> int:
    """Return `at` (aware) in whole milliseconds since the epoch."""
    return (at - _EPOCH) // _MILLISECOND


def pushes_of(event: Event, exchange: Exchange) -> tuple[Push, ...]:
    """Return what the stream tells of `event`, which has just taken effect on `exchange`."""
    match event:
        case PriceMoved():
            return market_pushes(exchange, event.at)
        case TradeChanged():
            return (_trade_push(event.trade, event.event, _trade_payload(event)),)
        case TradeFunded():
            payload = {
                "margin": event.trade.margin,
                "liquidationPrice": number(event.trade.liquidation),
                "fundingFee": event.fee,
                "fundedAt": milliseconds(event.at),
            }
            return (_trade_push(event.trade, "funding", payload),)
        case CrossOrderChanged():
            return (_order_push(event.order),)
        case CrossChanged():
            data = {
                "pair": _PAIR,
                "event": event.event,
                "position": _position_payload(event.position, exchange.last),
            }
            return (Push(topic=POSITION, data=data, account=event.position.account),)
        case FundingSettled():
            return (_funding_push(exchange, event.at),)


def market_pushes(exchange: Exchange, at: datetime) -> tuple[Push, ...]:
    """Return the market as it is: what is pushed at every change, and as a heartbeat."""
    time = milliseconds(at)
    last, index = number(exchange.last), number(exchange.index)
    ticker = {"time": time, "lastPrice": last, "index": index, "funding": _funding(exchange, at)}
    bucket = {
        "minSize": 1,
        "maxSize": MAX_QUANTITY,
        "askPrice": number(exchange.ask),
        "bidPrice": number(exchange.bid),
    }
    return (
        Push(topic=LAST_PRICE, data={"time": time, "lastPrice": last}),
        Push(topic=INDEX, data={"time": time, "index": index}),
        Push(topic=TICKER, data=ticker),
        Push(topic=BUCKETS, data={"time": time, "buckets": [bucket]}),
        *_candle_push(exchange),
    )


def _funding(exchange: Exchange, at: datetime) -> dict[str, object]:
    return {"rate": exchange.funding_rate, "time": milliseconds(next_funding_time(at))}


def _funding_push(exchange: Exchange, at: datetime) -> Push:
    return Push(topic=FUNDING, data={"pair": _PAIR, "current": _funding(exchange, at)})


def _trade_push(trade: Trade, event: str, payload: Mapping[str, object]) -> Push:
    identity = {"id": str(trade.id), "clientId": trade.client_id}
    data = {"pair": _PAIR, "event": event, "trade": identity | dict(payload)}
    return Push(topic=TRADES, data=data, account=trade.account)


def _order_push(order: CrossOrder) -> Push:
    payload: dict[str, object] = {
        "id": str(order.id),
        "side": type_of_side[order.side],
        "type": order.type,
        "quantity": order.quantity,
        "price": number(order.price),
        "clientId": order.client_id,
        "createdAt": milliseconds(order.created_at),
    }
    event = "new"
    if order.canceled_at is not None:
        event = "canceled"
        payload["canceledAt"] = milliseconds(order.canceled_at)
    else:
        payload["tradingFee"] = order.trading_fee
    if order.filled_at is not None:
        event = "new" if order.limit is None else "limit"
        payload["filledAt"] = milliseconds(order.filled_at)
    data = {"pair": _PAIR, "event": event, "order": payload}
    return Push(topic=ORDERS, data=data, account=order.account)


def _position_payload(position: CrossPosition, last: Price) -> dict[str, object]:
    """Return the position as REST does, but without its id and the time in milliseconds."""
    payload = cross_position_payload(position, last)
    del payload["id"]
    return payload | {"updatedAt": milliseconds(position.updated_at)}


def _candle_push(exchange: Exchange) -> Iterator[Push]:
    for candle in islice(exchange.market.candles.candles(MINUTE), 1):
        data = {
            "time": milliseconds(candle.time),
            "open": number(candle.open),
            "high": number(candle.high),
            "low": number(candle.low),
            "close": number(candle.close),
            "volume": 0,
        }
        yield Push(topic=MINUTE_CANDLE, data=data)


def _trade_payload(changed: TradeChanged) -> dict[str, object]:
    """Return the fields that the stream sends with this event; it never sends the whole trade."""
    trade = changed.trade
    if changed.event in {TradeEvent.OPEN, TradeEvent.FILLED}:
        return {
            "side": type_of_side[trade.side],
            "type": "market" if trade.limit is None else "limit",
            "quantity": trade.quantity,
            "margin": trade.margin,
            "leverage": number(trade.leverage),
            "price": number(trade.entry_price),
            "openingFee": trade.opening_fee,
            "createdAt": milliseconds(trade.created_at),
        }
    if trade.closing is None:  # canceled: it never ran
        return {"closedAt": milliseconds(changed.at)}
    ended: dict[str, object] = {
        "closedAt": milliseconds(trade.closing.at),
        "closingFee": trade.closing.fee,
        "exitPrice": number(trade.closing.price),
    }
    if changed.event is not TradeEvent.LIQUIDATION:
        ended["pl"] = trade.closing.pl
    return ended
