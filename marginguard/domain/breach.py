"""Breaches: what is held against a threshold, how long a breach lasts, and when to act again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from marginguard.domain import margin
from marginguard.domain.memory import Episode, GuardMemory, Setback, open_episode
from marginguard.domain.model import ActionKind, Position, PriceQuote
from marginguard.domain.rules import Ladder, ProtectionMode, Rules, Rung
from marginguard.domain.units import Percent, PositionId

ALWAYS_ACT_LEVEL = Percent(95.0)
"""From this level on the cooldown no longer holds an action back."""

CLOSE_AGAIN_AFTER = timedelta(seconds=5)
"""A refused close is tried again sooner than the cooldown says: closing is never limited."""

WORSENED_BY = Percent(5.0)
"""Points above the last action's level that end its cooldown early."""


def covers(rules: Rules, memory: GuardMemory, position_id: PositionId) -> bool:
    """Return whether the guard looks after this position, or after the one it was before."""
    return rules.selects(memory.origin_of(position_id))


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How a position stands, in percent.

    `level` is what is held against the thresholds of the rungs: its own level, or the
    portfolio's; `own` what is held against the backstop, which is about the one trade in every
    mode. A breach lasts as long as `lasting` is high: a position that turns to profit for a moment
    does not end a breach of the portfolio.
    """

    level: Percent
    own: Percent
    lasting: Percent

    def against(self, rung: Rung, ladder: Ladder) -> Percent:
        """Return the level that counts at `rung` of `ladder`."""
        return self.own if rung.threshold == ladder.backstop else self.level

    def reached(self, ladder: Ladder) -> tuple[Rung, ...]:
        """Return the rungs of `ladder` that are reached, lowest first."""
        return tuple(r for r in ladder.all_rungs if self.against(r, ladder) >= r.threshold)

    def lasts(self, rung: Rung, ladder: Ladder, hysteresis: Percent) -> bool:
        """Return whether a breach of `rung` that is open goes on."""
        level = self.own if rung.threshold == ladder.backstop else self.lasting
        # A level of 0 ends it too: a threshold within the hysteresis has nothing below it.
        return level > 0 and level >= rung.threshold - hysteresis


def standings_of(
    positions: Sequence[Position], quote: PriceQuote, rules: Rules
) -> dict[PositionId, Standing]:
    """Return how each position stands, worked out over all that the guard covers.

    A position in profit is held against the rungs with its own level, 0, in every mode: acting
    on it would save nothing.
    """
    own = {p.id: margin.margin_level(p, quote.last) for p in positions}
    if rules.mode is ProtectionMode.UNITARIO:
        return {id_: Standing(level=one, own=one, lasting=one) for id_, one in own.items()}
    together = margin.portfolio_level(positions, quote.last)
    standings = {}
    for id_, one in own.items():
        high = together if rules.mode is ProtectionMode.TOTAL else max(one, together)
        standings[id_] = Standing(level=high if one > 0 else one, own=one, lasting=high)
    return standings


def levels_of(
    positions: Sequence[Position], quote: PriceQuote, rules: Rules
) -> dict[PositionId, Percent]:
    """Return what is held against the thresholds of the rungs: own levels, or the portfolio's."""
    return {id_: one.level for id_, one in standings_of(positions, quote, rules).items()}


def episodes_of(
    standings: Mapping[PositionId, Standing], rules: Rules, memory: GuardMemory, now: datetime
) -> dict[tuple[PositionId, Percent], Episode]:
    """Open an episode at each rung reached; end it below its threshold less the hysteresis."""
    known = {(e.position_id, e.threshold): e for e in memory.episodes}
    kept = {key: e for key, e in known.items() if key[0] not in standings}
    for position_id, standing in standings.items():
        ladder = rules.ladder_of(memory.origin_of(position_id))
        for rung in ladder.all_rungs:
            key = (position_id, rung.threshold)
            episode = known.get(key)
            if episode is None:
                if standing.against(rung, ladder) >= rung.threshold:
                    kept[key] = open_episode(rules.guard_id, *key, now)
            elif is_of_the_trade_before(episode, rung, standing, memory):
                kept[key] = open_episode(rules.guard_id, *key, now)
            elif standing.lasts(rung, ladder, rules.hysteresis):
                kept[key] = episode
    return kept


def is_of_the_trade_before(
    episode: Episode, rung: Rung, standing: Standing, memory: GuardMemory
) -> bool:
    """Return whether a breach is a new one, of a trade that a reduction opened again.

    The reduction answered the breach of the trade before. The new one began at level 0: where its
    own level has reached the rung, that is its own doing.
    """
    reopened = memory.lineage(episode.position_id) is not None
    reduced = episode.last_action_kind is ActionKind.REDUCE_POSITION
    return reopened and reduced and standing.own >= rung.threshold


def held_back(episode: Episode, level: Percent, cooldown: timedelta, now: datetime) -> str | None:
    """Return why the rung does not act again yet after an action that worked; None: it may."""
    at, last = episode.last_action_at, episode.last_action_level
    if at is None or last is None:
        return None
    if episode.last_action_kind is ActionKind.REDUCE_POSITION:
        # The level does not show that liquidation is farther away now.
        again = min(last + WORSENED_BY, (last + 100) / 2, 100)
        if level < again:
            return f"it was reduced at {margin.show_level(last)} %; again at {again:g} %"
        return None
    if level >= ALWAYS_ACT_LEVEL or level >= last + WORSENED_BY:
        return None
    # Either way: a wall clock set back must not hold the next action for longer.
    if abs(now - at) >= cooldown:
        return None
    return f"the cooldown of {cooldown.total_seconds():g} s since the last action runs"


def still_holds(setback: Setback, level: Percent, rules: Rules, now: datetime) -> bool:
    """Return whether a refusal is too fresh for the step to be tried again."""
    if level >= ALWAYS_ACT_LEVEL or level >= setback.level + WORSENED_BY:
        return False
    closes = setback.kind is ActionKind.CLOSE_POSITION
    wait = min(rules.cooldown, CLOSE_AGAIN_AFTER) if closes else rules.cooldown
    return abs(now - setback.at) < wait


def nothing_to_try(
    episode: Episode, rung: Rung, level: Percent, rules: Rules, now: datetime
) -> bool:
    """Return whether the rung is held back, or each of its steps was refused a moment ago."""
    if held_back(episode, level, rules.cooldown, now) is not None:
        return True
    refused = {s.kind for s in episode.setbacks if still_holds(s, level, rules, now)}
    return all(step.kind in refused for step in rung.steps)
