"""What to do: positions, a price, rules and memory in; decisions out. No clock, no I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from marginguard.domain import margin
from marginguard.domain.budget import Budget, allowance
from marginguard.domain.memory import Episode, GuardMemory, Spend
from marginguard.domain.model import ActionKind, Assessment, Position, PriceQuote
from marginguard.domain.units import GuardId, Percent, PositionId, Sats

ALWAYS_ACT_LEVEL = Percent(95.0)
"""From this level on the cooldown no longer holds an action back."""

WORSENED_BY = Percent(5.0)
"""Points above the last action's level that end its cooldown early."""


_NOT_YET_AN_ACTION = UUID(int=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """One threshold with its action.

    `add_margin` adds the fixed `add_margin_amount`, or without one what brings the level down
    to `target_margin_level`.
    """

    threshold: Percent
    action: ActionKind
    add_margin_amount: Sats | None = None
    target_margin_level: Percent = Percent(50.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """A guard's configuration, as far as decisions go.

    `selected` None means every position of the account.
    """

    guard_id: GuardId
    rung: Rung
    selected: frozenset[PositionId] | None = None
    auto_execution: bool = True
    hysteresis: Percent = Percent(5.0)
    cooldown: timedelta = timedelta(seconds=60)
    budget: Budget = Budget()

    def covers(self, position_id: PositionId) -> bool:
        """Whether the guard looks after this position."""
        return self.selected is None or position_id in self.selected


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What was read: every figure from this execution, nothing older.

    `balance` None means that it is not known, so nothing may be spent. `unsettled` names, for a
    position, why an earlier spending action of it is not settled yet; `frozen` likewise for one
    that never can be. `in_flight` are the positions that an action is being carried out on at this
    moment. `spending_barred` says why nothing may be spent at all for now, or is None.
    """

    positions: tuple[Position, ...]
    quote: PriceQuote
    balance: Sats | None
    unsettled: Mapping[PositionId, str]
    frozen: Mapping[PositionId, str]
    in_flight: frozenset[PositionId] = frozenset()
    spending_barred: str | None = None


class Verdict(StrEnum):
    """What a decision comes to."""

    SAFE = "safe"
    ACT = "act"
    COOLDOWN = "cooldown"
    SETTLING = "settling"
    ALERT = "alert"
    UNPROTECTED = "unprotected"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A protective step to take now. `amount` is 0 for a step that spends nothing."""

    kind: ActionKind
    amount: Sats
    capped: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to do about one position, and why, in plain English.

    `plan` is set exactly when the verdict is ACT; `episode` whenever one is open.
    """

    assessment: Assessment
    threshold: Percent
    verdict: Verdict
    reason: str
    episode: Episode | None = None
    plan: Plan | None = None

    @property
    def position(self) -> Position:
        """The position decided on."""
        return self.assessment.position


@dataclass(frozen=True, kw_only=True, slots=True)
class Decisions:
    """One decision for each covered position, the worst level first, and the new memory."""

    items: tuple[Decision, ...]
    memory: GuardMemory


def decide(view: View, rules: Rules, memory: GuardMemory, now: datetime) -> Decisions:
    """Return what to do about every position that the guard covers.

    Sats planned for one position are no longer there for the next one.
    """
    memory = memory.observed(
        now=now, balance=view.balance, running=(position.id for position in view.positions)
    )
    assessments = sorted(
        (
            margin.assess(position, view.quote.last, rules.rung.threshold)
            for position in view.positions
            if rules.covers(position.id)
        ),
        key=lambda assessment: (-assessment.level, assessment.position.id),
    )
    decisions = []
    planned: tuple[Spend, ...] = ()
    for assessment in assessments:
        episode, memory = _episode(assessment, rules, memory, now)
        decision = _decide_one(assessment, episode, view, rules, _with(memory, planned), now)
        if decision.plan is not None and decision.plan.kind.spends:
            planned = (*planned, _planned_spend(decision, now))
        decisions.append(decision)
    return Decisions(items=tuple(decisions), memory=memory)


def calls_for_a_look(
    positions: Iterable[Position],
    quote: PriceQuote,
    rules: Rules,
    memory: GuardMemory,
    now: datetime,
) -> bool:
    """Return whether a covered position is breached at `quote` and may be acted on now.

    Cheap, for every tick of the price: it says that `decide` is worth a fresh read.
    """
    threshold = rules.rung.threshold
    for position in positions:
        if not rules.covers(position.id):
            continue
        level = margin.margin_level(position, quote.last)
        if level < threshold:
            continue
        episode = memory.episode(position.id, threshold)
        if episode is None or not _cooling_down(episode, level, rules.cooldown, now):
            return True
    return False


def _planned_spend(decision: Decision, now: datetime) -> Spend:
    amount = decision.plan.amount if decision.plan is not None else Sats(0)
    return Spend(
        action_id=_NOT_YET_AN_ACTION, position_id=decision.position.id, amount=amount, at=now
    )


def _with(memory: GuardMemory, planned: tuple[Spend, ...]) -> GuardMemory:
    for spend in planned:
        memory = memory.intending(spend)
    return memory


def _episode(
    assessment: Assessment, rules: Rules, memory: GuardMemory, now: datetime
) -> tuple[Episode | None, GuardMemory]:
    """Open an episode at the threshold, end it below the threshold less the hysteresis."""
    threshold = rules.rung.threshold
    position_id = assessment.position.id
    episode = memory.episode(position_id, threshold)
    if episode is None and assessment.level >= threshold:
        memory = memory.opened(rules.guard_id, position_id, threshold, now)
        return memory.episode(position_id, threshold), memory
    if episode is None:
        return None, memory
    # A level of 0 ends it too: a threshold within the hysteresis leaves nothing below it.
    if assessment.level <= 0 or assessment.level < threshold - rules.hysteresis:
        return None, memory.closed(episode)
    return episode, memory


def _decide_one(
    assessment: Assessment,
    episode: Episode | None,
    view: View,
    rules: Rules,
    memory: GuardMemory,
    now: datetime,
) -> Decision:
    def decision(verdict: Verdict, reason: str, plan: Plan | None = None) -> Decision:
        return Decision(
            assessment=assessment,
            threshold=rules.rung.threshold,
            verdict=verdict,
            reason=reason,
            episode=episode,
            plan=plan,
        )

    level, threshold = assessment.level, rules.rung.threshold
    shown = margin.show_level(level, threshold)
    if episode is None or level < threshold:
        return decision(Verdict.SAFE, f"level {shown} % is below the threshold {threshold:g} %")
    breach = f"level {shown} % has reached the threshold {threshold:g} %"
    if not rules.auto_execution:
        return decision(Verdict.ALERT, f"{breach}; auto_execution is off, so nothing is done")
    if assessment.position.id in view.in_flight:
        return decision(Verdict.SETTLING, f"{breach}; an action on it is under way")
    if _cooling_down(episode, level, rules.cooldown, now):
        if episode.refusal is not None:
            return decision(Verdict.UNPROTECTED, f"{breach}; {episode.refusal}")
        wait = f"the cooldown of {rules.cooldown.total_seconds():g} s since the last action runs"
        return decision(Verdict.COOLDOWN, f"{breach}; {wait}")
    if rules.rung.action is ActionKind.CLOSE_POSITION:
        return decision(Verdict.ACT, breach, Plan(kind=rules.rung.action, amount=Sats(0)))
    verdict, plan, detail = _plan_spending(assessment, view, rules, memory, now)
    return decision(verdict, f"{breach}{detail}", plan)


def _cooling_down(episode: Episode, level: Percent, cooldown: timedelta, now: datetime) -> bool:
    if episode.last_action_at is None or episode.last_action_level is None:
        return False
    if level >= ALWAYS_ACT_LEVEL or level >= episode.last_action_level + WORSENED_BY:
        return False
    # Either way: a wall clock set back must not hold the next action for longer.
    return abs(now - episode.last_action_at) < cooldown


def _plan_spending(
    assessment: Assessment, view: View, rules: Rules, memory: GuardMemory, now: datetime
) -> tuple[Verdict, Plan | None, str]:
    """Plan an addition of margin, or say in words why there can be none."""
    position = assessment.position
    if (why := view.frozen.get(position.id)) is not None:
        return Verdict.UNPROTECTED, None, f"; spending on it is frozen: {why}"
    if (why := view.unsettled.get(position.id)) is not None:
        return Verdict.SETTLING, None, f"; {why}"
    if (why := _unable_to_spend(view)) is not None:
        return Verdict.UNPROTECTED, None, f"; {why}"
    remedy = _remedy(assessment, rules.rung)
    if remedy.amount == 0:
        return Verdict.UNPROTECTED, None, f"; {_no_remedy(remedy, rules.rung)}"
    assert view.balance is not None  # noqa: S101 - _unable_to_spend has ruled it out
    planned = sum(s.amount for s in memory.spends if s.action_id == _NOT_YET_AN_ACTION)
    allowed = allowance(rules.budget, memory, position, Sats(view.balance - planned), now)
    if remedy.amount <= allowed.amount:
        plan = Plan(kind=rules.rung.action, amount=remedy.amount, capped=remedy.capped)
        return Verdict.ACT, plan, ""
    needed = f"{remedy.amount:,} sats are needed and {allowed.amount:,} may be spent"
    return Verdict.UNPROTECTED, None, f"; {needed}: {allowed.limit}"


def _no_remedy(remedy: margin.Remedy, rung: Rung) -> str:
    if remedy.capped:
        return "no margin can be added: leverage would fall below 1"
    return f"the level is within target_margin_level {rung.target_margin_level:g} %: lower that"


def _unable_to_spend(view: View) -> str | None:
    if view.balance is None:
        return "the account's balance is not known, so nothing is spent"
    if not view.quote.confirmed:
        return "the price jumped and nothing confirms it yet, so nothing is spent"
    return view.spending_barred


def _remedy(assessment: Assessment, rung: Rung) -> margin.Remedy:
    position = assessment.position
    if rung.add_margin_amount is None:
        return margin.margin_to_reach_level(position, assessment.price, rung.target_margin_level)
    room = margin.room_to_add(position)
    if room is None or rung.add_margin_amount <= room:
        return margin.Remedy(amount=rung.add_margin_amount, capped=False)
    return margin.Remedy(amount=room, capped=True)
