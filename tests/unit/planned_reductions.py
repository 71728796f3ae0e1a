"""Reductions of one long and one short trade, planned, half done and finished."""

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from uuid import UUID

from marginguard.domain import margin
from marginguard.domain.model import ActionKind, ClosedTrade, Side
from marginguard.domain.records import ActionStatus, PositionState
from marginguard.domain.reduction import (
    Reduction,
    begin_reopening,
    finish_reopening,
    plan_reduction,
)
from marginguard.domain.units import Percent, Price, Sats
from marginguard.simulator.trades import Order, open_trade
from tests.unit.strategies import NOON, a_position, an_action

SLIPPAGE = Percent(0.5)
LONG = a_position(maintenance_margin=Sats(2_100))
SHORT = a_position(side=Side.SHORT, maintenance_margin=Sats(1_900))
FEE_TIERS = [Fraction(tier, 10_000) for tier in (0, 6, 7, 8, 10)]
SECOND = timedelta(seconds=1)


def planned(position, price, percentage=50.0, *, slippage=SLIPPAGE, min_improvement=10.0):
    return plan_reduction(
        position,
        Price(price),
        Percent(percentage),
        slippage=Percent(slippage),
        min_improvement=Percent(min_improvement),
    )


def reducing(position, price, reopening, **changes):
    """Return the record of a reduction whose close was just asked for."""
    return an_action(
        ActionKind.REDUCE_POSITION,
        position=position,
        before=PositionState.of(position, Price(price)),
        reopening=reopening,
        status=ActionStatus.SENT,
        **changes,
    )


def half_done(position=LONG, price=92_500.0, *, percentage=50.0, pl=None, **changes):
    """Return the record of a reduction whose trade is closed at `price`."""
    reduction = planned(position, price, percentage)
    assert isinstance(reduction, Reduction), reduction
    record = reducing(position, price, replace(reduction.reopening, **changes))
    if pl is None:
        pl = margin.profit_and_loss(position, Price(price))
    return after_close(record, price, pl)


def after_close(record, price, pl):
    ended = ClosedTrade(id=record.position_id, exit_price=Price(price), pl=pl, closed_at=NOON)
    return replace(record, reopening=begin_reopening(record, ended, NOON + SECOND))


def finished(record, price=92_500.0, *, after=2 * SECOND, slippage=SLIPPAGE):
    return finish_reopening(record, Price(price), NOON + after, slippage=slippage)


def order_for(plan):
    """Return the order as the exchange reads it off the wire."""
    return Order(
        side=plan.side,
        quantity=plan.quantity,
        leverage=Fraction(str(plan.leverage)),
        stop_loss=plan.stop_loss,
        take_profit=plan.take_profit,
    )


def trade_from(plan, fill, tier):
    return open_trade(
        order_for(plan),
        trade_id=UUID(int=2),
        account="one",
        fill=fill,
        limit=None,
        fee_rate=tier,
        now=NOON,
    )
