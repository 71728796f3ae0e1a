"""Breaches: what is held against a threshold, how long a breach lasts, and when to act again."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from marginguard.domain import margin
from marginguard.domain.memory import Episode, GuardMemory, Setback, open_episode
from marginguard.domain.model import ActionKind, Position, PriceQuote
from marginguard.domain.rules import ProtectionMode, Rules, Rung
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


def levels_of(
    positions: Sequence[Position], quote: PriceQuote, rules: Rules
) -> dict[PositionId, Percent]:
    """Return what is held against the thresholds: own levels, or the portfolio's.

    A position in profit has its own level, 0, in every mode: acting on it would save nothing.
    """
    own = {p.id: margin.margin_level(p, quote.last) for p in positions}
    if rules.mode is ProtectionMode.UNITARIO:
        return own
    together = margin.portfolio_level(positions, quote.last)
    if rules.mode is ProtectionMode.TOTAL:
        return {id_: together if level > 0 else level for id_, level in own.items()}
    return {id_: max(level, together) if level > 0 else level for id_, level in own.items()}


def episodes_of(
    levels: Mapping[PositionId, Percent], rules: Rules, memory: GuardMemory, now: datetime
) -> dict[tuple[PositionId, Percent], Episode]:
    """Open an episode at each rung reached; end it below its threshold less the hysteresis."""
    known = {(e.position_id, e.threshold): e for e in memory.episodes}
    kept = {key: e for key, e in known.items() if key[0] not in levels}
    for position_id, level in levels.items():
        for rung in rules.ladder_of(memory.origin_of(position_id)).all_rungs:
            key = (position_id, rung.threshold)
            episode = known.get(key)
            if episode is None:
                if level >= rung.threshold:
                    kept[key] = open_episode(rules.guard_id, *key, now)
            # A level of 0 ends it too: a threshold within the hysteresis has nothing below it.
            elif level > 0 and level >= rung.threshold - rules.hysteresis:
                kept[key] = episode
    return kept


def held_back(episode: Episode, level: Percent, cooldown: timedelta, now: datetime) -> str | None:
    """Return why the rung does not act again yet after an action that worked; None: it may."""
    at, last = episode.last_action_at, episode.last_action_level
    if at is None or last is None:
        return None
    if episode.last_action_kind is ActionKind.REDUCE_POSITION:
        # The level does not show that liquidation is farther away now.
        again = last + min(WORSENED_BY, (100 - last) / 2)
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
