"""The exchange's state in the shapes of its REST answers.

Sats and USD are integers; a price is an integer where it is whole, as JavaScript prints it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats
from marginguard.simulator.accounts import Account
from marginguard.simulator.candles import Candle
from marginguard.simulator.cross import UNTOUCHED, CrossPosition
from marginguard.simulator.exchange import Exchange
from marginguard.simulator.funding import FundingFee, Settlement, next_funding_time
from marginguard.simulator.orders import CrossOrder, Transfer
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
    """Return `trade` as the REST calls give it; `pl` of a running one is at `last`.

    One that was never filled has paid no fee yet; canceled, it was closed when it was canceled.
    """
    closing = trade.closing
    closed_at = trade.canceled_at if closing is None else closing.at
    pl = trade.pl_at(last) if trade.is_running else Sats(0)
    return {
        "id": str(trade.id),
        "type": "market" if trade.limit is None else "limit",
        "side": type_of_side[trade.side],
        "quantity": trade.quantity,
        "margin": trade.margin,
        "leverage": number(trade.leverage),
        "price": number(trade.entry_price if trade.limit is None else trade.limit.price),
        "entryPrice": number(trade.entry_price),
        "entryMargin": trade.entry_margin,
        "exitPrice": None if closing is None else number(closing.price),
        "liquidation": number(trade.liquidation),
        "maintenanceMargin": trade.maintenance_margin,
        "stoploss": number(trade.stop_loss or 0.0),
        "stoplossTrailingDistance": number(float(trade.trailing_distance or 0)),
        "takeprofit": number(trade.take_profit or 0.0),
        "pl": pl if closing is None else closing.pl,
        "openingFee": 0 if trade.filled_at is None else trade.opening_fee,
        "closingFee": 0 if closing is None else closing.fee,
        "sumFundingFees": trade.funding_fees,
        "sumCashInPl": trade.cashed_in_pl,
        "sumCashInMargin": trade.cashed_in_margin,
        "open": trade.is_open,
        "running": trade.is_running,
        "canceled": trade.canceled_at is not None,
        "closed": closing is not None,
        "createdAt": timestamp(trade.created_at),
        "filledAt": _timestamp_or_none(trade.filled_at),
        "closedAt": _timestamp_or_none(closed_at),
        "clientId": trade.client_id,
    }


def cross_position_payload(position: CrossPosition, last: Price) -> dict[str, object]:
    """Return `position` as `GET /futures/cross/position` gives it.

    `totalPl` is its P&L at `last`, and `deltaPl` how much that changed since `updatedAt`.
    """
    pl = position.pl_at(last)
    return {
        "id": str(position.id),
        "quantity": position.quantity,
        "margin": position.margin,
        "leverage": position.leverage,
        "entryPrice": _number_or_none(position.entry_price),
        "liquidation": _number_or_none(position.liquidation),
        "initialMargin": position.running_margin,
        "maintenanceMargin": position.maintenance_margin,
        "runningMargin": position.running_margin,
        "totalPl": pl,
        "deltaPl": pl - position.pl_at(position.price_at_update or last),
        "fundingFees": position.funding_fees,
        "tradingFees": position.trading_fees,
        "updatedAt": timestamp(position.updated_at),
    }


def cross_order_payload(order: CrossOrder) -> dict[str, object]:
    """Return `order` as the cross calls give it."""
    return {
        "id": str(order.id),
        "type": order.type,
        "side": type_of_side[order.side],
        "quantity": order.quantity,
        "price": number(order.price),
        "tradingFee": order.trading_fee,
        "open": order.is_open,
        "filled": order.filled_at is not None,
        "canceled": order.canceled_at is not None,
        "createdAt": timestamp(order.created_at),
        "filledAt": _timestamp_or_none(order.filled_at),
        "canceledAt": _timestamp_or_none(order.canceled_at),
        "clientId": order.client_id,
    }


def transfer_payload(transfer: Transfer) -> dict[str, object]:
    """Return `transfer` as `GET /futures/cross/transfers` gives it."""
    return {
        "id": str(transfer.id),
        "amount": transfer.amount,
        "time": timestamp(transfer.time),
    }


def funding_fee_payload(paid: FundingFee) -> dict[str, object]:
    """Return `paid` as `GET /futures/cross/funding-fees` gives it."""
    return {
        "settlementId": str(paid.settlement_id),
        "fee": paid.fee,
        "time": timestamp(paid.time),
        "tradeId": None,
    }


def settlement_payload(settlement: Settlement) -> dict[str, object]:
    """Return `settlement` as `GET /futures/funding-settlements` gives it."""
    return {
        "id": str(settlement.id),
        "time": timestamp(settlement.time),
        "fundingRate": settlement.rate,
        "fixingPrice": number(settlement.price),
    }


def candle_payload(candle: Candle) -> dict[str, object]:
    """Return `candle` as `GET /futures/candles` gives it; the simulator counts no volume."""
    return {
        "time": timestamp(candle.time),
        "open": number(candle.open),
        "high": number(candle.high),
        "low": number(candle.low),
        "close": number(candle.close),
        "volume": 0,
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
    """Return the market as `GET /futures/ticker` gives it.

    `time` and `exchangesWeights` are not in the exchange's public description, and its official
    client does not do without them.
    """
    return {
        "time": timestamp(now),
        "exchangesWeights": {"bybit": 0.4, "binance": 0.4, "okx": 0.2},
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
    null if it has not ended) besides the exchange's own fields. A cross position has its
    account's key; those that nothing was ever done to are left out. See `equity`.
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
        "crossPositions": [
            cross_position_payload(position, exchange.last) | {"account": position.account}
            for position in exchange.cross.positions
            if position.updated_at != UNTOUCHED
        ],
    }


def equity(exchange: Exchange, account: Account) -> Sats:
    """Return what the account is worth now, in sats.

    That is its balance, margin and P&L of what runs, and what canceling open trades gives back.
    """
    running = exchange.running_trades(account)
    position = exchange.cross.position(account)
    return Sats(
        account.balance
        + sum(trade.margin + trade.pl_at(exchange.last) for trade in running)
        + sum(trade.cost for trade in exchange.open_trades(account))
        + position.margin
        + position.pl_at(exchange.last)
    )


def _timestamp_or_none(at: datetime | None) -> str | None:
    return None if at is None else timestamp(at)


def _number_or_none(value: float | None) -> float | int | None:
    return None if value is None else number(value)
