"""What a decision is made of, and what it comes to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from marginguard.domain.memory import Episode, GuardMemory
from marginguard.domain.model import ActionKind, Assessment, Position, PriceQuote
from marginguard.domain.steps import OverBudget, Plan
from marginguard.domain.units import Percent, PositionId, Sats


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """An earlier action that is not settled yet.

    `overdue`: it should have been proved by now. `frozen`: it never can be. `repeatable`: asking
    for it again does no harm, as with a close.
    """

    position_id: PositionId
    kind: ActionKind
    threshold: Percent
    reason: str
    overdue: bool
    frozen: bool
    repeatable: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What was read: every figure from this execution, nothing older.

    `balance` None means that it is not known, so nothing may be spent. `in_flight` are the
    positions that an action is being carried out on at this moment. `spending_barred` says why
    nothing may be spent at all for now, or is None. `paused` says why nothing may be done but to
    alert, or is None. `refused` are the steps that were refused in
    this very execution: it is the fallback's turn.
    """

    positions: tuple[Position, ...]
    quote: PriceQuote
    balance: Sats | None
    pending: tuple[Pending, ...] = ()
    in_flight: frozenset[PositionId] = frozenset()
    spending_barred: str | None = None
    paused: str | None = None
    refused: Mapping[PositionId, frozenset[ActionKind]] = field(default_factory=dict)


class Verdict(StrEnum):
    """What a decision comes to."""

    SAFE = "safe"
    ACT = "act"
    COOLDOWN = "cooldown"
    SETTLING = "settling"
    ALERT = "alert"
    UNPROTECTED = "unprotected"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to do about one position, and why, in plain English.

    `level` is what was held against the `threshold`: the position's own, or the portfolio's.
    `plan` is set exactly when the verdict is ACT; `episode` whenever one is open there.
    `over_budget` are the steps that were passed over because they cost more than may be spent.
    """

    assessment: Assessment
    level: Percent
    threshold: Percent
    verdict: Verdict
    reason: str
    episode: Episode | None = None
    plan: Plan | None = None
    over_budget: tuple[OverBudget, ...] = ()

    @property
    def position(self) -> Position:
        """The position decided on."""
        return self.assessment.position


@dataclass(frozen=True, kw_only=True, slots=True)
class Decisions:
    """One decision for each covered position, the worst level first, and the new memory."""

    items: tuple[Decision, ...]
    memory: GuardMemory
