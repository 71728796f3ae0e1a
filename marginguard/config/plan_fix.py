"""A guard brought within its user's plan, as far as that can be done for its owner."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from marginguard.config.guard_consistency import unused_sizes
from marginguard.config.guards import GuardSettings
from marginguard.config.ladders import ladders_of
from marginguard.config.problems import Loc, key_text
from marginguard.config.sorting import RefusedGuard, Terms, read_guard
from marginguard.domain.model import ActionKind
from marginguard.domain.plans import PlanLimits, PlanProblemType

_AS_MILD: Final = {ActionKind.INCREASE_LIQUIDATION_DISTANCE: ActionKind.ADD_MARGIN}
"""What may stand in for an action unasked. Nothing does for a reduction: closing costs more of
the position, and adding margin costs sats that nobody meant to spend."""

_HARSHER: Final = {
    ActionKind.ADD_MARGIN: (ActionKind.REDUCE_POSITION, ActionKind.CLOSE_POSITION),
    ActionKind.INCREASE_LIQUIDATION_DISTANCE: (
        ActionKind.REDUCE_POSITION,
        ActionKind.CLOSE_POSITION,
    ),
    ActionKind.REDUCE_POSITION: (ActionKind.CLOSE_POSITION,),
}
"""What would answer a breach too, and takes more of the position: the owner's to choose."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Correction:
    """A guard's table brought within a plan.

    `changes` and what is `left` to the owner are in words; `within_plan` says that the plan allows
    the table as it is now.
    """

    plan: str
    table: dict[str, Any] = field(repr=False)
    changes: tuple[str, ...]
    left: tuple[str, ...]
    within_plan: bool


def corrected(refused: RefusedGuard, terms: Terms) -> Correction | None:
    """Return a guard that its plan refuses with all that can be put right.

    None where nothing is a matter of the plan. Nothing more destructive, and nothing that spends
    in place of what does not, is ever put in.
    """
    before = read_guard(refused.table, terms).guard
    if before is None or not refused.beyond_plan or not isinstance(refused.table, dict):
        return None
    plan = terms.account_plans[before.account]
    table: dict[str, Any] = copy.deepcopy(refused.table)
    changes = [
        *_positions(table, plan),
        *_mode(table, plan),
        *_thresholds(table, plan),
        *_actions(table, plan),
        *_unused(table),
    ]
    after = read_guard(table, terms)
    left = [f"{key_text(fault.loc)}: {fault.rule}" for fault in after.faults]
    for fault, problem in after.beyond_plan.items():
        words = f"{key_text(fault.loc)}: {fault.rule}"
        if problem.type is PlanProblemType.ACTION_NOT_AVAILABLE:
            words += _choices(ActionKind(str(problem.current)), plan)
        left.append(words)
    return Correction(
        plan=plan.name,
        table=table,
        changes=tuple(changes),
        left=tuple(left),
        within_plan=not after.beyond_plan,
    )


def _positions(table: dict[str, Any], plan: PlanLimits) -> Iterator[str]:
    selected = table.get("selected_positions")
    if not isinstance(selected, list) or plan.max_positions is None:
        return
    ids = list(dict.fromkeys(selected))
    kept, dropped = ids[: plan.max_positions], ids[plan.max_positions :]
    if not dropped:
        return
    table["selected_positions"] = kept
    yield (
        f"selected_positions: the first {len(kept)} are kept; NO LONGER GUARDED:"
        f" {', '.join(dropped)}"
    )
    individual = table.get("individual_configs", {})
    for position_id in dropped:
        if individual.pop(position_id, None) is not None:
            yield f"{key_text(('individual_configs', position_id))}: removed with its position"
    if not individual:
        table.pop("individual_configs", None)


def _mode(table: dict[str, Any], plan: PlanLimits) -> Iterator[str]:
    mode = table.get("protection_mode", plan.modes[0])
    if mode not in plan.modes:
        table["protection_mode"] = plan.modes[0].value
        yield f'protection_mode: "{mode}" becomes "{plan.modes[0]}"'


def _thresholds(table: dict[str, Any], plan: PlanLimits) -> Iterator[str]:
    lowest = plan.min_threshold
    for way, inner in _tables(table):
        threshold = inner.get("margin_threshold", lowest)
        if threshold < lowest:
            inner["margin_threshold"] = int(lowest) if lowest.is_integer() else lowest
            name = key_text((*way, "margin_threshold"))
            yield f"{name}: {threshold:g} becomes {lowest:g}, so that the guard acts later"


def _actions(table: dict[str, Any], plan: PlanLimits) -> Iterator[str]:
    for way, inner in _tables(table):
        if "action" in inner:
            yield from _action(way, inner, plan)
        if "fallback" in inner:
            yield from _fallback(way, inner, plan)


def _action(way: Loc, inner: dict[str, Any], plan: PlanLimits) -> Iterator[str]:
    action = ActionKind(inner["action"])
    other = _stand_in(action, plan)
    if other is not None and other is not action:
        inner["action"] = other.value
        yield f"{key_text((*way, 'action'))}: {action} becomes {other}"


def _fallback(way: Loc, inner: dict[str, Any], plan: PlanLimits) -> Iterator[str]:
    kept: list[str] = []
    for kind in inner["fallback"]:
        other = _stand_in(ActionKind(kind), plan)
        if other is not None and other.value not in {inner.get("action"), *kept}:
            kept.append(other.value)
    if kept != inner["fallback"]:
        old = inner["fallback"]
        inner["fallback"] = kept
        yield f"{key_text((*way, 'fallback'))}: {json.dumps(old)} becomes {json.dumps(kept)}"


def _stand_in(kind: ActionKind, plan: PlanLimits) -> ActionKind | None:
    """Return what to do for `kind` on the plan, None if there is nothing as mild."""
    if kind in plan.actions:
        return kind
    other = _AS_MILD.get(kind)
    return other if other in plan.actions else None


def _unused(table: dict[str, Any]) -> Iterator[str]:
    """Take out the sizes of actions that are no longer there."""
    guard = GuardSettings.model_validate(table)
    rungs = [rung for ladder in ladders_of(guard) for rung in ladder.rungs]
    for way, _ in list(unused_sizes(rungs)):
        inner: Any = table
        for part in way[:-1]:
            inner = inner[part]
        del inner[way[-1]]
        yield f"{key_text(way)}: removed, since no action uses it any more"


def _tables(table: dict[str, Any]) -> Iterator[tuple[Loc, dict[str, Any]]]:
    """Yield the guard's table, and every table in it that a rung's keys may stand in."""
    yield from _with_escalation((), table)
    for position_id, individual in table.get("individual_configs", {}).items():
        yield from _with_escalation(("individual_configs", position_id), individual)


def _with_escalation(way: Loc, table: dict[str, Any]) -> Iterator[tuple[Loc, dict[str, Any]]]:
    yield way, table
    for index, rung in enumerate(table.get("escalation", ())):
        yield (*way, "escalation", index), rung


def _choices(kind: ActionKind, plan: PlanLimits) -> str:
    harsher = [other.value for other in _HARSHER[kind] if other in plan.actions]
    return f"; or write {' or '.join(harsher)} there yourself, which takes more of the position"
