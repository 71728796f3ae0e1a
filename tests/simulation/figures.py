"""The simulated exchange's own figures as the domain has them: what the wire would bring."""

from marginguard.domain.model import ClosedTrade, CrossOrder, MarginMode, OrderType, Position
from marginguard.domain.units import CROSS
from marginguard.simulator import orders
from marginguard.simulator.contract import MAX_PRICE
from marginguard.simulator.cross import CrossPosition
from marginguard.simulator.trades import Trade


def positions_of(exchange, account) -> tuple[Position, ...]:
    """Return every running position of an account as the exchange reports it."""
    trades = [_position(trade, exchange.last) for trade in exchange.running_trades(account)]
    cross = exchange.cross.position(account)
    return (*trades, *([_cross_position(cross, exchange.last)] if cross.quantity else []))


def _position(trade: Trade, last: float) -> Position:
    return Position(
        id=str(trade.id),
        mode=MarginMode.ISOLATED,
        side=trade.side,
        quantity=trade.quantity,
        entry_price=trade.entry_price,
        margin=trade.margin,
        maintenance_margin=trade.maintenance_margin,
        leverage=trade.leverage,
        pl=trade.pl_at(last),
        liquidation_price=_below_the_highest(trade.liquidation),
        stop_loss=trade.stop_loss,
        take_profit=trade.take_profit,
        entry_margin=trade.entry_margin,
        funding_paid=trade.funding_fees,
        cashed_in=trade.cashed_in_margin,
        client_id=trade.client_id,
        trailing_stop=trade.trailing_distance is not None,
    )


def _cross_position(cross: CrossPosition, last: float) -> Position:
    return Position(
        id=CROSS,
        mode=MarginMode.CROSS,
        side=cross.side,
        quantity=cross.size,
        entry_price=cross.entry_price,
        margin=cross.margin,
        maintenance_margin=cross.maintenance_margin,
        leverage=float(cross.leverage),
        pl=cross.pl_at(last),
        liquidation_price=_below_the_highest(cross.liquidation),
        stop_loss=None,
        take_profit=None,
        entry_margin=cross.running_margin,
        funding_paid=cross.funding_fees,
        cashed_in=0,
        client_id=None,
    )


def _below_the_highest(liquidation: float | None) -> float | None:
    return None if liquidation is None or liquidation >= MAX_PRICE else liquidation


def closed_trade(trade: Trade) -> ClosedTrade:
    """Return a trade that ended."""
    return ClosedTrade(
        id=str(trade.id),
        exit_price=trade.closing.price,
        pl=trade.closing.pl,
        closed_at=trade.closing.at,
        client_id=trade.client_id,
        margin=trade.margin,
    )


def cross_order(order: orders.CrossOrder) -> CrossOrder:
    """Return an order on the cross position."""
    return CrossOrder(
        id=str(order.id),
        type=OrderType(order.type.value),
        side=order.side,
        quantity=order.quantity,
        price=order.price,
        trading_fee=order.trading_fee,
        created_at=order.created_at,
        filled_at=order.filled_at,
        client_id=order.client_id,
    )
