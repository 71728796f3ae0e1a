"""Whether the balance pays for what a guard would spend next."""

from collections.abc import Iterable
from dataclasses import dataclass

from marginguard.domain import margin
from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import ActionKind, Position
from marginguard.domain.rules import Ladder, ProtectionMode, Rules, Rung, Step
from marginguard.domain.steps import remedy_of
from marginguard.domain.units import Price, Sats


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What the first spending step over a position takes from the balance, in sats.

    `trigger_price` is where its rung is reached, or None where the portfolio's level decides.
    """

    position: Position
    rung: Rung
    kind: ActionKind
    amount: Sats
    trigger_price: Price | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortfall:
    """A need that is more than the `free` sats: the balance less the reserve, 0 at least."""

    need: Need
    balance: Sats
    free: Sats


def shortfall(
    positions: Iterable[Position], balance: Sats, rules: Rules, memory: GuardMemory
) -> Shortfall | None:
    """Return the largest need of these positions if the balance does not pay for it."""
    needs = [_need(p, rules.ladder_of(memory.origin_of(p.id)), rules) for p in positions]
    largest = max((n for n in needs if n is not None), key=lambda one: one.amount, default=None)
    free = Sats(max(0, balance - rules.budget.reserve_balance))
    if largest is None or largest.amount <= free:
        return None
    return Shortfall(need=largest, balance=balance, free=free)


def _need(position: Position, ladder: Ladder, rules: Rules) -> Need | None:
    """Return what the lowest rung with a spending step needs; None where that cannot be told."""
    rung, step = _first_spending(ladder)
    if rung is None or step is None:
        return None
    trigger = None
    if rules.mode is not ProtectionMode.TOTAL:
        trigger = margin.trigger_price(position, rung.threshold)
    if trigger is not None:
        amount = remedy_of(step, margin.assess(position, trigger, rung.threshold)).amount
    elif rules.mode is ProtectionMode.TOTAL and step.add_margin_amount is not None:
        amount = step.add_margin_amount
    else:
        return None
    return Need(position=position, rung=rung, kind=step.kind, amount=amount, trigger_price=trigger)


def _first_spending(ladder: Ladder) -> tuple[Rung, Step] | tuple[None, None]:
    for rung in ladder.rungs:
        for step in rung.steps:
            if step.kind.spends:
                return rung, step
    return None, None
