"""Why a guard does or does not act on a position: the daemon's own decision, with its figures."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from marginguard.diagnose.account import Cause
from marginguard.diagnose.debug_record import GuardRecord, pending_of
from marginguard.domain import margin
from marginguard.domain.budget import allowance
from marginguard.domain.decision import Decision, Decisions, Pending, Verdict, View
from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import ActionKind, MarginMode, Position, PriceQuote, RiskLevel, Side
from marginguard.domain.policy import decide
from marginguard.domain.rules import Ladder, ProtectionMode, Rules
from marginguard.domain.steps import Plan
from marginguard.domain.units import Percent, PositionId, Price, Sats


@dataclass(frozen=True, kw_only=True, slots=True)
class Why:
    """One position as the guard judges it.

    `level` is held against `threshold` (percent; the portfolio's where the guard's mode asks for
    that). `next_threshold` is the lowest that is not reached yet by the position's own level, and
    `trigger_price` where it will be; `move_usd` and `move_percent` are how far the price still
    has to go there. `cooldown_left_s` is set while one holds the guard back. `may_spend` are the
    sats that its budget allows now (None: it never spends, or the balance is not known), and
    `spending_limit` says which limit that is.
    """

    position_id: PositionId
    mode: MarginMode
    side: Side
    verdict: Verdict
    reason: str
    level: Percent
    threshold: Percent
    risk: RiskLevel
    price: Price
    next_threshold: Percent | None
    trigger_price: Price | None
    move_usd: float | None
    move_percent: Percent | None
    liquidation_price: Price | None
    liquidation_distance: Percent | None
    action: ActionKind | None = None
    amount: Sats | None = None
    quantity: int | None = None
    cooldown_left_s: float | None = None
    may_spend: Sats | None = None
    spending_limit: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a guard decides on; `record` None: what it did before is not known."""

    rules: Rules
    positions: tuple[Position, ...]
    quote: PriceQuote
    balance: Sats | None
    record: GuardRecord | None
    now: datetime
    verify_within: timedelta

    @property
    def memory(self) -> GuardMemory:
        """What the guard remembers, as far as is known."""
        return GuardMemory() if self.record is None else self.record.memory

    def answer(self) -> Decisions:
        """Return what the daemon would decide."""
        pending: tuple[Pending, ...] = ()
        balance = self.balance
        if self.record is not None:
            pending = pending_of(self.record, now=self.now, verify_within=self.verify_within)
        if self.record is not None and balance is not None:
            owed = sum(a.amount for a in self.record.unsettled if a.kind.spends and not a.frozen)
            balance = Sats(max(0, balance - owed))
        view = View(positions=self.positions, quote=self.quote, balance=balance, pending=pending)
        return decide(view, self.rules, self.memory, self.now)


def whys_of(question: Question, decided: Decisions) -> tuple[Why, ...]:
    """Return the figures behind each decision, the worst level first."""
    return tuple(_why(question, decided.memory, decision) for decision in decided.items)


def causes_of_decisions(rules: Rules, decided: Decisions) -> Iterator[Cause]:
    """Yield why breached positions are left without an action."""
    for decision in decided.items:
        where = f"position {decision.position.id}: {decision.reason}"
        if decision.verdict is Verdict.UNPROTECTED:
            yield Cause(issue=where, solution=_remedy(rules, decision), action="unblock_action")
        elif decision.verdict is Verdict.ALERT and not rules.auto_execution:
            yield Cause(
                issue=where,
                solution="set auto_execution = true, or act on the exchange yourself now",
                action="enable_execution",
            )
        elif decision.verdict is Verdict.ALERT:
            yield Cause(
                issue=where,
                solution='set protection_mode = "both", so that its own level counts too',
                action="set_protection_mode",
                warning=True,
            )


def _remedy(rules: Rules, decision: Decision) -> str:
    ladder = rules.ladder_of(decision.position.id)
    kinds = {step.kind for rung in ladder.rungs for step in rung.steps}
    if ActionKind.CLOSE_POSITION in kinds:
        return "act on the exchange yourself now; then change what the reason names"
    return (
        "act on the exchange yourself now; for the next time give the guard what the reason says"
        ' is short, or a way out that needs none: fallback = ["close_position"]'
    )


def _why(question: Question, memory: GuardMemory, decision: Decision) -> Why:
    position, price = decision.position, question.quote.last
    ladder = question.rules.ladder_of(memory.origin_of(position.id))
    ahead = _next_threshold(ladder, decision, question.rules)
    trigger = None if ahead is None else margin.trigger_price(position, ahead)
    move = None if trigger is None else trigger - price
    plan = decision.plan
    may_spend, limit = _spending(question, memory, position, ladder)
    return Why(
        position_id=position.id,
        mode=position.mode,
        side=position.side,
        verdict=decision.verdict,
        reason=decision.reason,
        level=decision.level,
        threshold=decision.threshold,
        risk=decision.assessment.risk,
        price=price,
        next_threshold=ahead,
        trigger_price=trigger,
        move_usd=move,
        move_percent=None if move is None else Percent(100 * move / price),
        liquidation_price=decision.assessment.liquidation_price,
        liquidation_distance=decision.assessment.liquidation_distance,
        action=None if plan is None else plan.kind,
        amount=plan.amount if plan is not None and plan.kind.spends else None,
        quantity=_quantity(plan),
        cooldown_left_s=_cooldown_left_s(question, decision),
        may_spend=may_spend,
        spending_limit=limit,
    )


def _quantity(plan: Plan | None) -> int | None:
    reduces = plan is not None and plan.kind is ActionKind.REDUCE_POSITION
    return plan.quantity if plan is not None and reduces else None


def _next_threshold(ladder: Ladder, decision: Decision, rules: Rules) -> Percent | None:
    """Return the lowest threshold that the position's own level has not reached."""
    if rules.mode is ProtectionMode.TOTAL:
        return ladder.backstop  # the others are held against the portfolio's level alone
    level = decision.assessment.level
    ahead = (rung.threshold for rung in ladder.all_rungs if rung.threshold > level)
    return next(ahead, None)


def _cooldown_left_s(question: Question, decision: Decision) -> float | None:
    episode = decision.episode
    if decision.verdict is not Verdict.COOLDOWN or episode is None:
        return None
    if episode.last_action_at is None or episode.last_action_kind is ActionKind.REDUCE_POSITION:
        return None  # what holds it back is not time
    left = episode.last_action_at + question.rules.cooldown - question.now
    return max(0.0, left.total_seconds())


def _spending(
    question: Question, memory: GuardMemory, position: Position, ladder: Ladder
) -> tuple[Sats | None, str | None]:
    spends = any(step.kind.spends for rung in ladder.rungs for step in rung.steps)
    if not spends or question.balance is None:
        return None, None
    allowed = allowance(question.rules.budget, memory, position, question.balance, question.now)
    return allowed.amount, allowed.limit
