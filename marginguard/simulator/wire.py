"""The exchange's state in the shapes of its REST answers.

Sats and USD are integers; a price is an integer where it is whole, as JavaScript prints it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats
from marginguard.simulator.accounts import Account
from marginguard.simulator.exchange import Exchange, next_funding_time
from marginguard.simulator.trades import MAX_QUANTITY, Trade

type_of_side: Mapping[Side, str] = {Side.LONG: "buy", Side.SHORT: "sell"}
side_of_type: Mapping[str, Side] = {"buy": Side.LONG, "sell": Side.SHORT}


def timestamp(at: datetime) -> str:
    """Return `at` as the exchange writes it: ISO 8601, UTC, milliseconds, Z."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def number(value: float) -> float | int:
    """Return `value` as an int where it is whole."""
    return int(value) if value.is_integer() else value


def trade_payload(trade: Trade, last: Price) -> dict[str, object]:
    """Return `trade` as the REST calls give it; `pl` of a running one is at `last`."""
    closing = trade.closing
    return {
        "id": str(trade.id),
        "type": "market",
        "side": type_of_side[trade.side],
        "quantity": trade.quantity,
        "margin": trade.margin,
        "leverage": number(trade.leverage),
        "price": number(trade.entry_price),
        "entryPrice": number(trade.entry_price),
        "entryMargin": trade.entry_margin,
        "exitPrice": None if closing is None else number(closing.price),
        "liquidation": number(trade.liquidation),
        "maintenanceMargin": trade.maintenance_margin,
        "stoploss": number(trade.stop_loss or 0.0),
        "stoplossTrailingDistance": 0,
        "takeprofit": number(trade.take_profit or 0.0),
        "pl": trade.pl_at(last) if closing is None else closing.pl,
        "openingFee": trade.opening_fee,
        "closingFee": 0 if closing is None else closing.fee,
        "sumFundingFees": trade.funding_fees,
        "sumCashInPl": trade.cashed_in_pl,
        "sumCashInMargin": trade.cashed_in_margin,
        "open": False,
        "running": closing is None,
        "canceled": False,
        "closed": closing is not None,
        "createdAt": timestamp(trade.created_at),
        "filledAt": timestamp(trade.created_at),
        "closedAt": None if closing is None else timestamp(closing.at),
        "clientId": trade.client_id,
    }


def account_payload(account: Account) -> dict[str, object]:
    """Return `account` as `GET /account` gives it."""
    return {
        "id": str(account.id),
        "username": account.key,
        "balance": account.balance,
        "syntheticUsdBalance": 0,
        "feeTier": account.fee_tier,
        "email": None,
    }


def ticker_payload(exchange: Exchange, now: datetime) -> dict[str, object]:
    """Return the market as `GET /futures/ticker` gives it."""
    return {
        "index": number(exchange.index),
        "lastPrice": number(exchange.last),
        "fundingRate": exchange.funding_rate,
        "fundingTime": timestamp(next_funding_time(now)),
        "prices": [
            {
                "minSize": 1,
                "maxSize": MAX_QUANTITY,
                "askPrice": number(exchange.ask),
                "bidPrice": number(exchange.bid),
            }
        ],
    }


def state_payload(exchange: Exchange) -> dict[str, object]:
    """Return everything there is, for `GET /simulator/state`; no secrets.

    A trade has its account's key and `ending` (close, stoploss, takeprofit, liquidation, or
    null while it runs) besides the exchange's own fields. An account's `equity` is its balance
    and, of its running trades, margin and P&L.
    """
    return {
        "price": number(exchange.last),
        "index": number(exchange.index),
        "bid": number(exchange.bid),
        "ask": number(exchange.ask),
        "accounts": [
            account_payload(account) | {"key": account.key, "equity": equity(exchange, account)}
            for account in exchange.accounts
        ],
        "trades": [
            trade_payload(trade, exchange.last)
            | {
                "account": trade.account,
                "ending": None if trade.closing is None else trade.closing.ending,
            }
            for trade in exchange.all_trades
        ],
        "crossPositions": [],
    }


def equity(exchange: Exchange, account: Account) -> Sats:
    """Return what the account is worth now: balance plus margin plus P&L, in sats."""
    running = exchange.running_trades(account)
    return Sats(account.balance + sum(t.margin + t.pl_at(exchange.last) for t in running))
