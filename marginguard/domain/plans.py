"""What a plan allows, and where a guard's rules go beyond it."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from marginguard.domain.model import ActionKind
from marginguard.domain.rules import Ladder, ProtectionMode, Rules
from marginguard.domain.units import Percent, PositionId

ALL_ACTIONS: Final = tuple(kind for kind in ActionKind if kind.protects)
ALL_MODES: Final = tuple(ProtectionMode)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanLimits:
    """What a plan allows each guard of its users.

    `max_positions` None is unlimited. `min_threshold` is the lowest margin level that may be
    asked for, in percent. Where time is short the guards of a larger `priority` go first.
    """

    name: str
    max_positions: int | None
    modes: tuple[ProtectionMode, ...]
    actions: tuple[ActionKind, ...]
    min_threshold: Percent
    priority: int


_UNITARIO = (ProtectionMode.UNITARIO,)
_CLOSE = (ActionKind.CLOSE_POSITION,)
_REDUCE = (*_CLOSE, ActionKind.REDUCE_POSITION)
_ADD = (*_REDUCE, ActionKind.ADD_MARGIN)

FREE: Final = PlanLimits(
    name="free",
    max_positions=2,
    modes=_UNITARIO,
    actions=_CLOSE,
    min_threshold=Percent(20.0),
    priority=1,
)
BASIC: Final = PlanLimits(
    name="basic",
    max_positions=5,
    modes=_UNITARIO,
    actions=_REDUCE,
    min_threshold=Percent(15.0),
    priority=2,
)
ADVANCED: Final = PlanLimits(
    name="advanced",
    max_positions=15,
    modes=ALL_MODES,
    actions=_ADD,
    min_threshold=Percent(10.0),
    priority=3,
)
PRO: Final = PlanLimits(
    name="pro",
    max_positions=None,
    modes=ALL_MODES,
    actions=ALL_ACTIONS,
    min_threshold=Percent(5.0),
    priority=4,
)
LIFETIME: Final = PlanLimits(
    name="lifetime",
    max_positions=None,
    modes=ALL_MODES,
    actions=ALL_ACTIONS,
    min_threshold=Percent(1.0),
    priority=5,
)
BUILT_IN: Final[Mapping[str, PlanLimits]] = MappingProxyType(
    {plan.name: plan for plan in (FREE, BASIC, ADVANCED, PRO, LIFETIME)}
)


class PlanProblemType(StrEnum):
    """Which limit of a plan is exceeded."""

    POSITION_COUNT = "position_count"
    ACTION_NOT_AVAILABLE = "action_not_available"
    PROTECTION_MODE_NOT_AVAILABLE = "protection_mode_not_available"
    THRESHOLD_TOO_LOW = "threshold_too_low"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where in a guard's rules something stands.

    `position_id` is that of an individual ladder, None for the guard's own; `rung` counts from
    the lowest and `step` from the rung's action, both from 0. None where it concerns no rung or
    no step.
    """

    position_id: PositionId | None = None
    rung: int | None = None
    step: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanProblem:
    """One thing that a plan does not allow.

    Of `limit` (how many positions), `available` (what there is instead) and `minimum` (percent)
    the one that fits the type is set. `upgrade` is the smallest plan that allows this one thing,
    None where no plan does.
    """

    type: PlanProblemType
    current: int | float | str
    message: str
    limit: int | None = None
    available: tuple[str, ...] | None = None
    minimum: Percent | None = None
    place: Place = Place()
    upgrade: str | None = None


def plan_problems(
    rules: Rules, plan: PlanLimits, plans: Collection[PlanLimits]
) -> tuple[PlanProblem, ...]:
    """Return everything in a guard's rules that its plan does not allow.

    Fallbacks, further rungs and the ladders of single positions count as well. `plans` are those
    that there are, to suggest one that allows more.
    """
    found = tuple(_problems(rules, plan))
    elsewhere = [(other.name, _keys(_problems(rules, other))) for other in _by_size(plans) if found]
    return tuple(
        replace(
            problem,
            upgrade=next((name for name, keys in elsewhere if _key(problem) not in keys), None),
        )
        for problem in found
    )


def suggested_upgrade(rules: Rules, plans: Collection[PlanLimits]) -> str | None:
    """Return the name of the smallest plan that allows all of a guard's rules, if any does."""
    allowing = (plan.name for plan in _by_size(plans) if not any(_problems(rules, plan)))
    return next(allowing, None)


def _by_size(plans: Collection[PlanLimits]) -> list[PlanLimits]:
    return sorted(plans, key=lambda plan: (plan.priority, _most_positions(plan), plan.name))


def _most_positions(plan: PlanLimits) -> float:
    return math.inf if plan.max_positions is None else plan.max_positions


def _key(problem: PlanProblem) -> tuple[PlanProblemType, Place]:
    return problem.type, problem.place


def _keys(problems: Iterator[PlanProblem]) -> frozenset[tuple[PlanProblemType, Place]]:
    return frozenset(map(_key, problems))


def _problems(rules: Rules, plan: PlanLimits) -> Iterator[PlanProblem]:
    yield from _positions(rules, plan)
    if rules.mode not in plan.modes:
        yield PlanProblem(
            type=PlanProblemType.PROTECTION_MODE_NOT_AVAILABLE,
            current=rules.mode.value,
            available=tuple(mode.value for mode in plan.modes),
            message=f'plan "{plan.name}" has {_list("protection mode", plan.modes)},'
            f" not {rules.mode}",
        )
    yield from _ladder(rules.ladder, plan, None)
    for position_id, ladder in rules.individual.items():
        yield from _ladder(ladder, plan, position_id)


def _positions(rules: Rules, plan: PlanLimits) -> Iterator[PlanProblem]:
    if rules.selected is None or plan.max_positions is None:
        return
    count = len(rules.selected)
    if count > plan.max_positions:
        positions = "1 position" if plan.max_positions == 1 else f"{plan.max_positions} positions"
        yield PlanProblem(
            type=PlanProblemType.POSITION_COUNT,
            current=count,
            limit=plan.max_positions,
            message=f'plan "{plan.name}" allows a guard {positions} at most, not {count}',
        )


def _ladder(
    ladder: Ladder, plan: PlanLimits, position_id: PositionId | None
) -> Iterator[PlanProblem]:
    for number, rung in enumerate(ladder.rungs):
        place = Place(position_id=position_id, rung=number)
        if rung.threshold < plan.min_threshold:
            yield PlanProblem(
                type=PlanProblemType.THRESHOLD_TOO_LOW,
                current=rung.threshold,
                minimum=plan.min_threshold,
                message=f'plan "{plan.name}" allows no threshold below {plan.min_threshold:g} %',
                place=place,
            )
        for step_number, step in enumerate(rung.steps):
            if step.kind in plan.actions:
                continue
            yield PlanProblem(
                type=PlanProblemType.ACTION_NOT_AVAILABLE,
                current=step.kind.value,
                available=tuple(kind.value for kind in plan.actions),
                message=f'plan "{plan.name}" has {_list("action", plan.actions)}, not {step.kind}',
                place=replace(place, step=step_number),
            )


def _list(noun: str, values: Sequence[StrEnum]) -> str:
    names = [value.value for value in values]
    if len(names) == 1:
        return f"the {noun} {names[0]} alone"
    return f"the {noun}s {', '.join(names[:-1])} and {names[-1]}"
