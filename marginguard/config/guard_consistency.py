"""Settings of a guard that are each allowed but contradict one another."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Final

from marginguard.config.fields import duration_text
from marginguard.config.guards import GuardSettings
from marginguard.config.ladders import LadderTables, RungTables, ladders_of, makes_sense
from marginguard.config.models import ActionsSettings
from marginguard.config.problems import Fault, Loc, key_text
from marginguard.domain.model import ActionKind
from marginguard.domain.rules import ProtectionMode
from marginguard.domain.units import CROSS

_SIZES: Final = {
    "reduce_percentage": ActionKind.REDUCE_POSITION,
    "add_margin_amount": ActionKind.ADD_MARGIN,
    "target_margin_level": ActionKind.ADD_MARGIN,
    "new_liquidation_distance": ActionKind.INCREASE_LIQUIDATION_DISTANCE,
}
"""The keys that size an action, each with the action."""


def guard_faults(
    guard: GuardSettings, actions: ActionsSettings, accounts: Collection[str]
) -> Iterator[Fault]:
    """Yield the contradictions within one guard, and with what it refers to.

    A contradiction in what several ladders share is yielded once for each.
    """
    if guard.account not in accounts:
        known = ", ".join(sorted(accounts)) or "none, add one under [[accounts]]"
        yield _fault("account", rule=f"must be the id of one of the accounts ({known})")
    if guard.cooldown < actions.settle_delay:
        yield _fault(
            "cooldown",
            rule=f"must be at least actions.settle_delay ({duration_text(actions.settle_delay)}),"
            " after which an action is proved",
        )
    yield from _individual_configs(guard)
    ladders = tuple(ladders_of(guard))
    rungs = [rung for ladder in ladders for rung in ladder.rungs]
    for ladder in ladders:
        yield from _not_rising(ladder)
    yield from _hysteresis(guard, rungs)
    for rung in rungs:
        yield from _fallback(rung)
        yield from _distance(rung)
    yield from _unused_sizes(rungs)
    yield from _amounts(rungs)
    yield from _targets(rungs)
    yield from _budget(guard, rungs)
    yield from _backstops(guard, ladders)


def _individual_configs(guard: GuardSettings) -> Iterator[Fault]:
    if guard.individual_configs and guard.protection_mode is ProtectionMode.TOTAL:
        yield _fault(
            "individual_configs",
            shown=False,
            rule='have no effect with protection_mode "total", which holds the thresholds against'
            ' all positions together: remove them, or use "unitario" or "both"',
        )
    for position_id in guard.individual_configs:
        if not position_id.strip() or position_id == "all":
            rule = "must be the id of one position"
        elif guard.selected_positions is not None and position_id not in guard.selected_positions:
            rule = "has no effect: add this position to selected_positions, or remove its table"
        else:
            continue
        yield _fault("individual_configs", position_id, shown=False, rule=rule)


def _not_rising(ladder: LadderTables) -> Iterator[Fault]:
    for lower, upper in pairwise(ladder.rungs):
        if upper.threshold > lower.threshold:
            continue
        below, above = lower.loc("margin_threshold"), upper.loc("margin_threshold")
        if below[0] == "individual_configs" and above[0] == "escalation":
            rule = (
                f"must be below {_threshold(upper)}, which holds for this position too; or give"
                " this table an escalation of its own, [] for none"
            )
            yield _fault(*below, rule=rule)
        else:
            rule = f"must be above {_threshold(lower)}: each rung's threshold is above the last"
            yield _fault(*above, rule=rule)


def _hysteresis(guard: GuardSettings, rungs: Sequence[RungTables]) -> Iterator[Fault]:
    lowest = min(rungs, key=_threshold_of)
    if guard.hysteresis >= lowest.threshold:
        yield _fault(
            "hysteresis", rule=f"must be below {_threshold(lowest)}, or a breach could never end"
        )


def _fallback(rung: RungTables) -> Iterator[Fault]:
    """Yield what makes no sense in a rung's fallbacks, at most one fault."""
    kinds = rung.kinds
    for place, kind in enumerate(kinds):
        before = kinds[:place]
        if makes_sense(kind, after=before):
            continue
        if kind in before:
            rule = f"repeats {kind}: a fallback is for when the actions before it cannot be done"
        else:
            rule = f"has {kind} after close_position: when closing is refused, so is reducing"
        yield _fault(*rung.loc("fallback"), rule=rule)
        return


def _distance(rung: RungTables) -> Iterator[Fault]:
    kind = ActionKind.INCREASE_LIQUIDATION_DISTANCE
    if kind in rung.kinds and rung.value("new_liquidation_distance") is None:
        way = rung.loc("action" if rung.kinds[0] is kind else "fallback")
        yield _fault(
            *way[:-1],
            "new_liquidation_distance",
            shown=False,
            rule=f"is missing: {kind} needs it, a number above 0 and below 100 (percent of the"
            " price)",
        )


def unused_sizes(rungs: Sequence[RungTables]) -> Iterator[tuple[Loc, ActionKind]]:
    """Yield the way to every size that no action uses, with the action that would."""
    used: dict[Loc, set[ActionKind]] = defaultdict(set)
    for rung in rungs:
        for way, _ in rung.tables:
            used[way].update(rung.kinds)
    for way, table in _tables(rungs).items():
        for key, kind in _SIZES.items():
            if key in table and kind not in used[way]:
                yield (*way, key), kind


def _unused_sizes(rungs: Sequence[RungTables]) -> Iterator[Fault]:
    for way, kind in unused_sizes(rungs):
        yield _fault(
            *way,
            rule=f"has no effect, since no action here is {kind}: remove it, or name"
            f" {kind} as action or fallback",
        )


def _amounts(rungs: Sequence[RungTables]) -> Iterator[Fault]:
    for way, table in _tables(rungs).items():
        if {"add_margin_amount", "target_margin_level"} <= table:
            yield _fault(
                *way,
                "add_margin_amount",
                rule="give either this or target_margin_level, not both",
            )


def _tables(rungs: Sequence[RungTables]) -> dict[Loc, frozenset[str]]:
    """Return the keys that each table gives."""
    return {way: frozenset(table.model_fields_set) for rung in rungs for way, table in rung.tables}


def _targets(rungs: Sequence[RungTables]) -> Iterator[Fault]:
    lowest: dict[Loc, RungTables] = {}
    for rung in sorted(rungs, key=_threshold_of):
        if ActionKind.ADD_MARGIN in rung.kinds and rung.add_margin_amount is None:
            lowest.setdefault(rung.loc("target_margin_level"), rung)
    for way, rung in lowest.items():
        if rung.value("target_margin_level") >= rung.threshold:
            yield _fault(
                *way,
                rule=f"must be below {_threshold(rung)}, or adding margin would not end the breach",
            )


def _budget(guard: GuardSettings, rungs: Sequence[RungTables]) -> Iterator[Fault]:
    fixed = [
        (amount, key_text(rung.loc("add_margin_amount")))
        for rung in rungs
        if ActionKind.ADD_MARGIN in rung.kinds and (amount := rung.add_margin_amount) is not None
    ]
    if not fixed:
        return
    amount, name = max(fixed)
    for key in ("max_per_action", "max_per_position", "max_per_day"):
        limit: int | None = getattr(guard.budget, key)
        if limit is not None and limit < amount:
            rule = f"must be at least {name} ({amount}), or it is never added"
            yield _fault("budget", key, rule=rule)


def _backstops(guard: GuardSettings, ladders: Sequence[LadderTables]) -> Iterator[Fault]:
    none_kept = "has no effect: the exchange keeps no stop-loss for the cross position; remove it"
    if guard.backstop_threshold is not None and guard.selected_positions == frozenset({CROSS}):
        yield _fault("backstop_threshold", rule=none_kept)
    for ladder in ladders:
        way = ladder.rungs[0].loc("backstop_threshold")
        if ladder.position_id == CROSS and way[0] == "individual_configs":
            yield _fault(*way, rule=none_kept)
        highest = max(ladder.rungs, key=_threshold_of)
        if ladder.backstop is not None and ladder.backstop <= highest.threshold:
            yield _fault(
                *way,
                rule=f"must be above the highest rung, {_threshold(highest)}, and below 100:"
                " it is the last line",
            )


def _threshold(rung: RungTables) -> str:
    return f"{key_text(rung.loc('margin_threshold'))} ({rung.threshold:g})"


def _threshold_of(rung: RungTables) -> float:
    return rung.threshold


def _fault(*loc: int | str, rule: str, shown: bool = True) -> Fault:
    way: Loc = loc
    return Fault(loc=way, rule=rule, shown=shown)
