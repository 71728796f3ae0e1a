"""The backstop: a stop-loss that stays on the exchange for when nobody here can act."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from marginguard.domain import margin
from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import MarginMode, Position, Side
from marginguard.domain.rules import Rules
from marginguard.domain.units import PRICE_STEP, Percent, Price


@dataclass(frozen=True, kw_only=True, slots=True)
class StopLossChange:
    """A stop-loss to set (`price` None: to remove), and why, in plain English."""

    position: Position
    price: Price | None
    reason: str


def backstop_price(position: Position, level: Percent) -> Price | None:
    """Return the price step at or just before which the level reaches `level`.

    A long's is rounded up, a short's down: towards the market, so that it closes no later. None
    for a short that never gets there.
    """
    exact = margin.trigger_price(position, level)
    if exact is None:
        return None
    steps = Fraction(exact) / Fraction(PRICE_STEP)
    whole = math.ceil(steps) if position.side is Side.LONG else math.floor(steps)
    return Price(whole * PRICE_STEP)


def stands(position: Position, level: Percent) -> bool:
    """Return whether a stop-loss on the exchange closes the position at `level` or before."""
    wanted = backstop_price(position, level)
    found = position.stop_loss
    sign = position.side.sign
    return wanted is not None and found is not None and sign * found >= sign * wanted


def stop_loss_changes(
    positions: Iterable[Position], price: Price, rules: Rules, memory: GuardMemory
) -> tuple[StopLossChange, ...]:
    """Return what to change about the stop-losses of the isolated trades that the guard covers.

    A trailing stop and a stop-loss of the user's own that is tighter are left alone, and one that
    was set by the guard is moved, or removed where no backstop is wanted any more.
    """
    if not rules.auto_execution:
        return ()
    changes = []
    for position in positions:
        origin = memory.origin_of(position.id)
        if position.mode is MarginMode.CROSS or position.trailing_stop:
            continue
        if rules.selects(origin):
            level = rules.ladder_of(origin).backstop
            changes.append(_change(position, price, level, memory))
    return tuple(change for change in changes if change is not None)


def _change(
    position: Position, price: Price, level: Percent | None, memory: GuardMemory
) -> StopLossChange | None:
    found = position.stop_loss
    ours = found is not None and found in memory.stop_losses_of(position.id)
    if level is None:
        if not ours:
            return None
        reason = "no backstop_threshold is wanted any more, and the guard had set this stop-loss"
        return StopLossChange(position=position, price=None, reason=reason)
    wanted = backstop_price(position, level)
    if wanted is None or wanted == found or not _allowed(position, wanted, price):
        return None
    sign = position.side.sign
    if found is not None and not ours and sign * found > sign * wanted:
        return None
    at = f"the level reaches backstop_threshold {level:g} % at {wanted:,.1f}"
    if found is None:
        reason = f"{at}, and there is no stop-loss"
    elif ours:
        reason = f"{at}, and the stop-loss stands at {found:,.1f}"
    else:
        reason = f"{at}, and the owner's stop-loss at {found:,.1f} is farther away"
    return StopLossChange(position=position, price=wanted, reason=reason)


def _allowed(position: Position, stop: Price, price: Price) -> bool:
    """Return whether the exchange takes it: between liquidation (allowed) and the market."""
    sign = position.side.sign
    liquidation = position.liquidation_price
    if liquidation is not None and sign * stop < sign * liquidation:
        return False
    return sign * stop < sign * price
