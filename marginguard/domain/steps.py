"""Sizing one step of a rung: what to do exactly, or why it is impossible."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from marginguard.domain import margin
from marginguard.domain.budget import BudgetLimit, allowance
from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import ActionKind, Assessment, Position
from marginguard.domain.records import Reopening
from marginguard.domain.reduction import Impossible, plan_reduction
from marginguard.domain.rules import Rules, Step
from marginguard.domain.units import Percent, Price, Sats, Usd


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A protective step to take now.

    `amount` is what it spends, `quantity` what it cuts; `reopening` is set where an isolated
    trade is reduced. `capped` says that leverage 1 did not allow all that was asked.
    """

    kind: ActionKind
    amount: Sats = Sats(0)
    quantity: Usd = Usd(0)
    reopening: Reopening | None = None
    capped: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class OverBudget(Impossible):
    """A step that needs more than the `allowed` sats, and the limit that decides it."""

    kind: ActionKind
    needed: Sats
    allowed: Sats
    decided_by: BudgetLimit


@dataclass(frozen=True, kw_only=True, slots=True)
class Purse:
    """What may be spent: `balance` is what is left of it by now, None if it is not known.

    `barred` says why nothing may be spent at all, or is None. `planned` counts the spending
    actions of this run.
    """

    balance: Sats | None
    barred: str | None
    planned: int = 0
    planned_sats: Sats = Sats(0)

    def after(self, plan: Plan) -> "Purse":
        """Return the purse once `plan` is being carried out."""
        if not plan.kind.spends or self.balance is None:
            return self
        return Purse(
            balance=Sats(self.balance - plan.amount),
            barred=self.barred,
            planned=self.planned + 1,
            planned_sats=Sats(self.planned_sats + plan.amount),
        )


def plan_step(
    step: Step,
    assessment: Assessment,
    rules: Rules,
    purse: Purse,
    memory: GuardMemory,
    now: datetime,
) -> Plan | Impossible:
    """Return what `step` comes to for this position at its price, or why it cannot be taken."""
    position = assessment.position
    if step.kind is ActionKind.CLOSE_POSITION:
        return Plan(kind=step.kind)
    if step.kind is ActionKind.REDUCE_POSITION:
        reduction = plan_reduction(
            position,
            assessment.price,
            step.reduce_percentage,
            slippage=rules.reopen_slippage,
            min_improvement=rules.min_improvement,
        )
        if isinstance(reduction, Impossible):
            return reduction
        return Plan(kind=step.kind, quantity=reduction.quantity, reopening=reduction.reopening)
    if purse.balance is None:
        return Impossible(reason="the account's balance is not known, so nothing is spent")
    if purse.barred is not None:
        return Impossible(reason=purse.barred)
    remedy = remedy_of(step, assessment)
    if remedy.amount == 0:
        return Impossible(reason=_needless(step, remedy))
    allowed = allowance(
        rules.budget,
        memory,
        position,
        purse.balance,
        now,
        planned=purse.planned,
        planned_sats=purse.planned_sats,
    )
    if remedy.amount > allowed.amount:
        needed = f"{remedy.amount:,} sats are needed and {allowed.amount:,} may be spent"
        return OverBudget(
            reason=f"{needed}: {allowed.limit}",
            kind=step.kind,
            needed=remedy.amount,
            allowed=allowed.amount,
            decided_by=allowed.decided_by,
        )
    return Plan(kind=step.kind, amount=remedy.amount, capped=remedy.capped)


def projected(position: Position, plan: Plan) -> Position | None:
    """Return what the position will count for in a portfolio once `plan` has worked.

    None: nothing, since it is closed, or opened again without a loss. Cutting the cross position
    is taken to change nothing, since the exchange may carry the loss in its entry price.
    """
    if plan.kind is ActionKind.CLOSE_POSITION or plan.reopening is not None:
        return None
    return replace(position, margin=Sats(position.margin + plan.amount))


class Portfolio:
    """The positions taken together, as they will be once what is planned has worked."""

    def __init__(self, positions: Iterable[Position], price: Price) -> None:
        self._positions = {position.id: position for position in positions}
        self._price = price
        self._level: Percent | None = None

    def expect(self, position: Position, plan: Plan) -> None:
        """Count on `plan` to work."""
        after = projected(position, plan)
        if after is None:
            self._positions.pop(position.id, None)
        else:
            self._positions[position.id] = after
        self._level = None

    @property
    def level(self) -> Percent:
        """The level of what is left."""
        if self._level is None:
            self._level = margin.portfolio_level(self._positions.values(), self._price)
        return self._level


def _needless(step: Step, remedy: margin.Remedy) -> str:
    if remedy.capped:
        return "no margin can be added: leverage would fall below 1"
    if step.kind is ActionKind.INCREASE_LIQUIDATION_DISTANCE:
        return (
            "liquidation is new_liquidation_distance"
            f" {step.new_liquidation_distance:g} % away already: raise that"
        )
    return f"the level is within target_margin_level {step.target_margin_level:g} %: lower that"


def remedy_of(step: Step, assessment: Assessment) -> margin.Remedy:
    """Return how much a spending step would add to the position at its price."""
    position, price = assessment.position, assessment.price
    if step.kind is ActionKind.INCREASE_LIQUIDATION_DISTANCE:
        if step.new_liquidation_distance is None:
            raise ValueError("increase_liquidation_distance needs new_liquidation_distance")
        return margin.margin_to_reach_distance(position, price, step.new_liquidation_distance)
    if step.add_margin_amount is None:
        return margin.margin_to_reach_level(position, price, step.target_margin_level)
    room = margin.room_to_add(position)
    if room is None or step.add_margin_amount <= room:
        return margin.Remedy(amount=step.add_margin_amount, capped=False)
    return margin.Remedy(amount=room, capped=True)
