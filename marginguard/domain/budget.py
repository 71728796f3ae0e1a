"""How much a guard may still spend on a position: the tightest of its limits."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import Position
from marginguard.domain.units import Sats

_HOUR = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Bounds on spending, in sats.

    `max_per_position` None means 3 times the position's entry margin, or the margin that it had
    before it was first reduced where that is less; `max_per_day` None means
    half the balance that the account opened the day (UTC) with; `max_per_action` None means no
    bound of its own.
    """

    max_per_action: Sats | None = None
    max_per_position: Sats | None = None
    max_per_day: Sats | None = None
    reserve_balance: Sats = Sats(0)
    max_spending_actions_per_hour: int = 6


class BudgetLimit(StrEnum):
    """Which of the limits on spending decides, by its key in `[guards.budget]`.

    `reserve_balance` is what the account has: its balance less the reserve.
    """

    MAX_PER_ACTION = "max_per_action"
    MAX_PER_POSITION = "max_per_position"
    MAX_PER_DAY = "max_per_day"
    MAX_SPENDING_ACTIONS_PER_HOUR = "max_spending_actions_per_hour"
    RESERVE_BALANCE = "reserve_balance"


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """The sats that may be spent now, and the limit that decides it, `limit` being in words."""

    amount: Sats
    limit: str
    decided_by: BudgetLimit


def allowance(
    budget: Budget,
    memory: GuardMemory,
    position: Position,
    balance: Sats,
    now: datetime,
    *,
    planned: int = 0,
    planned_sats: Sats = Sats(0),
) -> Allowance:
    """Return what may be spent on `position` at `now`, never below 0.

    Spending whose outcome is still unknown counts as spent, and so do the `planned` actions of
    this run on other positions, of `planned_sats` in all, which `balance` is less already.
    """
    last_hour = planned + sum(1 for spend in memory.spends if now - spend.at < _HOUR)
    if last_hour >= budget.max_spending_actions_per_hour:
        return Allowance(
            amount=Sats(0),
            limit=(
                f"{last_hour} spending actions in the last hour reach"
                f" max_spending_actions_per_hour {budget.max_spending_actions_per_hour}"
            ),
            decided_by=BudgetLimit.MAX_SPENDING_ACTIONS_PER_HOUR,
        )
    amount, limit, decided_by = min(_limits(budget, memory, position, balance, now, planned_sats))
    return Allowance(amount=Sats(max(0, amount)), limit=limit, decided_by=decided_by)


def _limits(
    budget: Budget,
    memory: GuardMemory,
    position: Position,
    balance: Sats,
    now: datetime,
    planned_sats: Sats,
) -> list[tuple[int, str, BudgetLimit]]:
    on_position = sum(s.amount for s in memory.spends if s.position_id == position.id)
    today = planned_sats + sum(s.amount for s in memory.spends if s.at.date() == now.date())
    per_position = budget.max_per_position
    if per_position is None:
        # Opening a trade again with what was added to it does not raise its limit.
        lineage = memory.lineage(position.id)
        first = position.entry_margin if lineage is None else lineage.original_margin
        per_position = Sats(3 * min(position.entry_margin, first))
    per_day = budget.max_per_day
    if per_day is None:
        per_day = Sats((memory.opening.balance if memory.opening else balance) // 2)
    limits = [
        (
            balance - budget.reserve_balance,
            f"the balance of {balance:,} sats less reserve_balance {budget.reserve_balance:,}",
            BudgetLimit.RESERVE_BALANCE,
        ),
        (
            per_position - on_position,
            f"max_per_position {per_position:,} sats for the position",
            BudgetLimit.MAX_PER_POSITION,
        ),
        (per_day - today, f"max_per_day {per_day:,} sats", BudgetLimit.MAX_PER_DAY),
    ]
    if (most := budget.max_per_action) is not None:
        limits.append((most, f"max_per_action {most:,} sats", BudgetLimit.MAX_PER_ACTION))
    return limits
