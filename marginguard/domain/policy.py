"""What to do: positions, a price, rules and memory in; decisions out. No clock, no I/O."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from marginguard.domain import margin
from marginguard.domain.breach import (
    Standing,
    episodes_of,
    held_back,
    is_of_the_trade_before,
    nothing_to_try,
    standings_of,
    still_holds,
)
from marginguard.domain.coverage import covered_by
from marginguard.domain.decision import Decision, Decisions, Pending, Verdict, View
from marginguard.domain.memory import Episode, GuardMemory
from marginguard.domain.model import ActionKind, Assessment, MarginMode, Position, PriceQuote
from marginguard.domain.rules import Ladder, ProtectionMode, Rules, Rung, Step
from marginguard.domain.steps import OverBudget, Plan, Portfolio, Purse, plan_step
from marginguard.domain.units import Percent, PositionId

ALONE_AT_RISK = Percent(90.0)
"""The level at which a position is spoken of though only the portfolio's level is acted on."""


def decide(view: View, rules: Rules, memory: GuardMemory, now: datetime) -> Decisions:
    """Return what to do about every position that the guard covers.

    Sats planned for one position are no longer there for the next one, and where the portfolio's
    level is what counts, no more positions are acted on than it takes.
    """
    memory = memory.observed(now=now, balance=view.balance, running=_alive(view))
    assessments = _by_risk(view, rules, memory)
    covered = [a.position for a in assessments]
    standings = standings_of(covered, view.quote, rules)
    episodes = episodes_of(standings, rules, memory, now)
    memory = replace(memory, episodes=tuple(episodes.values()))
    purse = Purse(balance=view.balance, barred=_barred(view))
    portfolio = Portfolio(covered, view.quote.last)
    decisions = []
    for assessment in assessments:
        position = assessment.position
        one = _Question(
            assessment=assessment,
            standing=standings[position.id],
            ladder=rules.ladder_of(memory.origin_of(position.id)),
            episodes=episodes,
            view=view,
            rules=rules,
            now=now,
        )
        decision = _decide_one(one, portfolio, purse, memory)
        if decision.plan is not None:
            purse = purse.after(decision.plan)
            portfolio.expect(position, decision.plan)
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
    covered = covered_by(rules, memory, tuple(positions), quote.last)
    episodes = {(e.position_id, e.threshold): e for e in memory.episodes}
    for position_id, standing in standings_of(covered, quote, rules).items():
        ladder = rules.ladder_of(memory.origin_of(position_id))
        reached = standing.reached(ladder)
        if not reached:
            continue
        rung = reached[-1]
        level = standing.against(rung, ladder)
        episode = episodes.get((position_id, rung.threshold))
        if episode is None or is_of_the_trade_before(episode, rung, standing, memory):
            return True
        if not nothing_to_try(episode, rung, level, rules, now):
            return True
    return False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    """One position to decide on, and everything that bears on it."""

    assessment: Assessment
    standing: Standing
    ladder: Ladder
    episodes: Mapping[tuple[PositionId, Percent], Episode]
    view: View
    rules: Rules
    now: datetime

    @property
    def position(self) -> Position:
        return self.assessment.position

    def level_at(self, rung: Rung) -> Percent:
        """Return what is held against the threshold of `rung`."""
        return self.standing.against(rung, self.ladder)

    def is_about_the_portfolio(self, rung: Rung) -> bool:
        """Return whether it is the portfolio's level that has reached `rung`, not its own."""
        if self.rules.mode is ProtectionMode.TOTAL:
            return rung.threshold != self.ladder.backstop
        return self.assessment.level < rung.threshold

    @property
    def pending(self) -> tuple[Pending, ...]:
        return tuple(p for p in self.view.pending if p.position_id == self.position.id)

    def answer(
        self,
        verdict: Verdict,
        reason: str,
        *,
        rung: Rung | None = None,
        plan: Plan | None = None,
    ) -> Decision:
        threshold = self.ladder.lowest if rung is None else rung.threshold
        return Decision(
            assessment=self.assessment,
            level=self.standing.level if rung is None else self.level_at(rung),
            threshold=threshold,
            verdict=verdict,
            reason=reason,
            episode=self.episodes.get((self.position.id, threshold)),
            plan=plan,
        )


def _by_risk(view: View, rules: Rules, memory: GuardMemory) -> list[Assessment]:
    found = []
    for position in covered_by(rules, memory, view.positions, view.quote.last):
        lowest = rules.ladder_of(memory.origin_of(position.id)).lowest
        found.append(margin.assess(position, view.quote.last, lowest))
    return sorted(found, key=lambda one: (-one.level, one.position.id))


def _barred(view: View) -> str | None:
    if not view.quote.confirmed:
        return "the price jumped and nothing confirms it yet, so nothing is spent"
    return view.spending_barred


def _alive(view: View) -> frozenset[PositionId]:
    """Return the positions that run, and those that an action may open again."""
    running = frozenset(position.id for position in view.positions)
    return running | view.in_flight | {pending.position_id for pending in view.pending}


def _decide_one(
    one: _Question, portfolio: Portfolio, purse: Purse, memory: GuardMemory
) -> Decision:
    reached = one.standing.reached(one.ladder)
    if not reached:
        return _below(one)
    rung = reached[-1]
    breach = _breach(one, rung)
    withheld = one.view.paused or (None if one.rules.auto_execution else "auto_execution is off")
    if withheld is not None:
        return one.answer(Verdict.ALERT, f"{breach}; {withheld}, so nothing is done", rung=rung)
    if one.is_about_the_portfolio(rung) and portfolio.level < rung.threshold:
        return _spared(one, rung, f"{breach}; acting on the others brings it below")
    if one.position.id in one.view.in_flight:
        return one.answer(Verdict.SETTLING, f"{breach}; an action on it is under way", rung=rung)
    episode = one.episodes[one.position.id, rung.threshold]
    why = held_back(episode, one.level_at(rung), one.rules.cooldown, one.now)
    if why is not None:
        return one.answer(Verdict.COOLDOWN, f"{breach}; {why}", rung=rung)
    awaited = [p for p in one.pending if p.threshold == rung.threshold and not p.repeatable]
    if any(not p.overdue for p in awaited):
        return one.answer(Verdict.SETTLING, f"{breach}; {awaited[0].reason}", rung=rung)
    steps = list(rung.steps)
    if awaited:
        # Carried out, as far as is known, and not proved in time: on to what stands above.
        higher = (r for r in one.ladder.all_rungs if r.threshold > rung.threshold)
        steps += [step for above in higher for step in above.steps]
    return _climb(one, rung, steps, breach, purse, memory)


def _climb(
    one: _Question,
    rung: Rung,
    steps: Sequence[Step],
    breach: str,
    purse: Purse,
    memory: GuardMemory,
) -> Decision:
    """Take the first step that can be taken; say of the others why not."""
    notes: list[str] = []
    over_budget: list[OverBudget] = []
    waits = False
    episode = one.episodes[one.position.id, rung.threshold]
    for step in steps:
        obstacle = _obstacle(one, rung, episode, step)
        if obstacle is not None:
            notes.append(f"{step.kind.value}: {obstacle.reason}")
            waits = waits or obstacle.passes
            continue
        plan = plan_step(step, one.assessment, one.rules, purse, memory, one.now)
        if isinstance(plan, Plan):
            taken = [step.kind.value] if notes else []
            reason = "; ".join([breach, *notes, *taken, *_caveats(one.position, plan)])
            decision = one.answer(Verdict.ACT, reason, rung=rung, plan=plan)
            return replace(decision, over_budget=tuple(over_budget))
        if isinstance(plan, OverBudget):
            over_budget.append(plan)
        notes.append(f"{step.kind.value}: {plan.reason}")
    reason = "; ".join([breach, *dict.fromkeys(notes)])
    verdict = Verdict.SETTLING if waits else Verdict.UNPROTECTED
    return replace(one.answer(verdict, reason, rung=rung), over_budget=tuple(over_budget))


def _caveats(position: Position, plan: Plan) -> list[str]:
    """Return what the owner would not expect of a step."""
    if plan.reopening is None or plan.reopening.stop_loss is None or not position.trailing_stop:
        return []
    # How far it trailed cannot be given with a new order.
    return ["its trailing stop becomes a fixed one; set it to trail again on the exchange"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Obstacle:
    """Why a step is not for now; `passes` says that an earlier action will soon be settled."""

    reason: str
    passes: bool = False


def _obstacle(one: _Question, rung: Rung, episode: Episode, step: Step) -> _Obstacle | None:
    if step.kind in one.view.refused.get(one.position.id, frozenset()):
        return _Obstacle(reason="it was refused just now")
    level = one.level_at(rung)
    for setback in episode.setbacks:
        if setback.kind is step.kind and still_holds(setback, level, one.rules, one.now):
            return _Obstacle(reason=setback.reason)
    for pending in one.pending:
        if not _clash(step.kind, pending, one.position.mode):
            continue
        return _Obstacle(reason=pending.reason, passes=not (pending.overdue or pending.frozen))
    return None


def _clash(kind: ActionKind, pending: Pending, mode: MarginMode) -> bool:
    """Return whether a step must wait for an earlier one that may still be carried out.

    A close never waits. Sats whose fate is not known count as spent, and an order is not sent
    twice.
    """
    if kind.spends:
        return pending.kind.spends
    reduces = kind is ActionKind.REDUCE_POSITION and mode is MarginMode.CROSS
    return reduces and pending.kind is ActionKind.REDUCE_POSITION


def _below(one: _Question) -> Decision:
    """Decide on a position that has reached no rung."""
    if one.rules.mode is not ProtectionMode.TOTAL:
        shown = margin.show_level(one.standing.level, one.ladder.lowest)
        below = f"level {shown} % is below the threshold {one.ladder.lowest:g} %"
        return one.answer(Verdict.SAFE, below)
    together, lowest = one.standing.lasting, one.ladder.lowest
    portfolio = f"the portfolio's level {margin.show_level(together, lowest)} %"
    if together >= lowest:
        reason = f"{portfolio} has reached the threshold {lowest:g} %; this position loses nothing"
        return one.answer(Verdict.SAFE, reason)
    return _spared(one, None, f"{portfolio} is below the threshold {lowest:g} %")


def _spared(one: _Question, rung: Rung | None, reason: str) -> Decision:
    """Leave alone a position that the portfolio's level does not call for acting on."""
    own = one.assessment.level
    if one.rules.mode is not ProtectionMode.TOTAL or own < ALONE_AT_RISK:
        return one.answer(Verdict.SAFE, reason, rung=rung)
    alone = f"its own level is {margin.show_level(own)} % and {reason}"
    return one.answer(Verdict.ALERT, f"{alone}: what the others earn does not save it", rung=rung)


def _breach(one: _Question, rung: Rung) -> str:
    level = one.level_at(rung)
    shown = margin.show_level(level, rung.threshold)
    whose = "level" if level == one.assessment.level else "the portfolio's level"
    return f"{whose} {shown} % has reached the threshold {rung.threshold:g} %"
