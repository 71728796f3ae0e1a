"""Reducing a position: how much to cut, and on an isolated trade what to open again.

The exchange cannot close part of an isolated trade. It is closed whole, and a smaller one of the
same side is opened with what the close brought: never with money from the wallet. So fees are
counted at their highest rate, and the price may slip between the two steps. Figures are those of
LN Markets' inverse contract.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final

from marginguard.domain import margin
from marginguard.domain.contracts import INVERSE
from marginguard.domain.model import ClosedTrade, MarginMode, Position, Side
from marginguard.domain.records import ActionRecord, PositionState, Reopening
from marginguard.domain.units import Percent, Price, Sats, Usd

HIGHEST_FEE: Final = Fraction(1, 1000)
"""The fee of the exchange's first tier, a share of what is traded; the other tiers pay less."""

MAX_LEVERAGE: Final = 100

REOPEN_WITHIN: Final = timedelta(seconds=60)
"""How long after the plan was made the rest of a closed trade may still be opened."""

_LEVERAGE_STEPS: Final = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Impossible:
    """Why something cannot be done, in plain English."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reduction:
    """What to cut, in USD; `reopening` is set for an isolated trade."""

    quantity: Usd
    reopening: Reopening | None


def plan_reduction(
    position: Position,
    price: Price,
    percentage: Percent,
    *,
    slippage: Percent,
    min_improvement: Percent,
) -> Reduction | Impossible:
    """Return how to cut `percentage` % of the quantity (rounded up to whole USD), or why not.

    An isolated trade is not reduced where opening the rest again would not put liquidation
    farther from `price` by `min_improvement` % of the present distance.
    """
    cut = Usd(math.ceil(position.quantity * Fraction(str(percentage)) / 100))
    if cut >= position.quantity:
        return Impossible(
            reason=f"{percentage:g} % of {position.quantity:,} USD is all of it: close it instead"
        )
    if position.mode is MarginMode.CROSS:
        return Reduction(quantity=cut, reopening=None)
    plan = Reopening(
        side=position.side,
        quantity=Usd(position.quantity - cut),
        stop_loss=position.stop_loss,
        take_profit=position.take_profit,
    )
    brought = _proceeds(
        PositionState.of(position, price),
        position.side,
        margin.profit_and_loss(position, price),
        price,
    )
    sized = _sized(plan, _less_cost(plan, brought, price, slippage), price)
    if isinstance(sized, Impossible):
        return sized
    now_away = margin.liquidation_distance(position, price)
    then_away = margin.liquidation_distance(_reopened(position, sized, price), price)
    if now_away is None:
        return Impossible(reason="it cannot be liquidated, so that reducing it protects nothing")
    if then_away is not None and then_away < now_away * (1 + min_improvement / 100):
        return Impossible(
            reason=f"liquidation would be {then_away:.2f} % away instead of {now_away:.2f} %,"
            f" which is not min_improvement {min_improvement:g} % better"
        )
    return Reduction(quantity=cut, reopening=plan)


def begin_reopening(record: ActionRecord, closed: ClosedTrade, now: datetime) -> Reopening:
    """Return the second step of `record`, now that `closed` proves the first.

    `margin` is what the close brought, by the exchange's own figures.
    """
    plan = record.reopening
    if plan is None:
        raise ValueError("only reducing an isolated trade has a second step")
    before = record.before
    price = closed.exit_price or before.price or before.entry_price
    pl = closed.pl
    if pl is None:
        pl = Sats(
            INVERSE.profit_and_loss(
                side=plan.side, quantity=before.quantity, entry=before.entry_price, price=price
            )
        )
    if closed.margin is not None:  # funding and its owner may have changed it since the plan
        before = replace(before, margin=closed.margin)
    brought = _proceeds(before, plan.side, pl, price)
    return replace(plan, closed_price=price, closed_at=now, margin=brought)


def finish_reopening(
    record: ActionRecord,
    price: Price,
    now: datetime,
    *,
    slippage: Percent,
) -> Reopening | Impossible:
    """Return the second step with its leverage at `price`, or why the rest stays closed.

    It stays closed when the price has moved more than `slippage` % since the close, when the plan
    is older than 60 s, and when what is left does not carry it.
    """
    plan = record.reopening
    if plan is None or plan.closed_price is None or plan.margin is None:
        raise ValueError("the trade is not closed yet")
    if abs(now - record.intended_at) > REOPEN_WITHIN:
        return Impossible(reason="more than 60 s have passed since it was planned")
    moved = abs(Fraction(price) - Fraction(plan.closed_price)) * 100 / Fraction(plan.closed_price)
    if moved > Fraction(slippage):
        return Impossible(
            reason=f"the price moved {float(moved):.2f} % since the close, more than"
            f" reopen_slippage {slippage:g} %"
        )
    sats = _less_cost(plan, plan.margin, price, slippage)
    sized = _sized(plan, sats, price)
    if isinstance(sized, Impossible):
        return sized
    liquidation = INVERSE.price_at_loss(
        side=sized.side,
        quantity=sized.quantity,
        entry=price,
        loss=Fraction(sized.margin or 0),
    )
    sign = sized.side.sign
    stop, profit = sized.stop_loss, sized.take_profit
    if stop is not None and not (
        sign * stop < sign * price and (liquidation is None or sign * stop >= sign * liquidation)
    ):
        stop = None
    if profit is not None and not sign * profit > sign * price:
        profit = None
    return replace(sized, stop_loss=stop, take_profit=profit, margin=plan.margin)


def _reopened(position: Position, plan: Reopening, price: Price) -> Position:
    return replace(
        position, quantity=plan.quantity, entry_price=price, margin=plan.margin or Sats(0)
    )


def _proceeds(state: PositionState, side: Side, pl: Sats, price: Price) -> Sats:
    """Return what a close gives back at least: margin and P&L, less what the fee reserve lacks.

    The closing fee comes out of a reserve that was taken at the opening, sized for the
    liquidation price of then; at a price below that it is larger than the reserve.
    """
    lacking = max(0, _fee(state.quantity, Fraction(price)) - _fee_reserve(state, side))
    return Sats(state.margin + pl - lacking)


def _fee_reserve(state: PositionState, side: Side) -> int:
    """Return how much of the maintenance margin is kept for the closing fee, at least.

    The rest of it was the opening fee, at a tier that may have been another one. A long's
    liquidation price is below its entry, and so its closing fee the larger one.
    """
    if side is Side.LONG:
        return state.maintenance_margin // 2
    opening = _fee(state.quantity, Fraction(state.entry_price))
    return max(0, state.maintenance_margin - opening)


def _less_cost(plan: Reopening, brought: Sats, price: Price, slippage: Percent) -> Sats:
    """Return the margin that a new trade may have, its fees and the price's slipping set aside."""
    kept = 1 - Fraction(slippage) / 100
    worst = Price(float(Fraction(price) * kept))  # the lower the price, the more sats a quantity is
    opening = _fee(plan.quantity, Fraction(worst))
    ending = Fraction(worst)
    if plan.side is Side.LONG:
        # With all of it as margin liquidation is lowest, and its fee highest.
        lowest = INVERSE.price_at_loss(
            side=plan.side, quantity=plan.quantity, entry=worst, loss=Fraction(max(0, brought))
        )
        ending = ending if lowest is None else lowest
    return Sats(math.floor((brought - opening - _fee(plan.quantity, ending)) * kept))


def _sized(plan: Reopening, sats: Sats, price: Price) -> Reopening | Impossible:
    """Return the plan with a leverage that uses at most `sats` of margin at `price`."""
    if sats <= 0:
        return Impossible(reason="what the close brings does not pay for opening the rest")
    notional = INVERSE.notional(quantity=plan.quantity, entry=price)
    leverage = Fraction(math.ceil(notional * _LEVERAGE_STEPS / sats), _LEVERAGE_STEPS)
    if leverage > MAX_LEVERAGE:
        return Impossible(
            reason=f"opening {plan.quantity:,} USD again with {sats:,} sats would take a leverage"
            f" of {float(leverage):.2f}, above {MAX_LEVERAGE}"
        )
    leverage = max(Fraction(1), leverage)
    held = Sats(math.floor(notional / leverage))
    if held < 1:
        return Impossible(reason=f"{plan.quantity:,} USD are worth less than 1 sat of margin")
    return replace(plan, leverage=float(leverage), margin=held)


def _fee(quantity: Usd, price: Fraction) -> int:
    return math.ceil(HIGHEST_FEE * quantity * 100_000_000 / price)
