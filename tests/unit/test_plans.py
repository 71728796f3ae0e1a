"""What each plan allows, and what is told of rules that go beyond it."""

from dataclasses import replace

import pytest

from marginguard.domain.model import ActionKind
from marginguard.domain.plans import (
    ADVANCED,
    BASIC,
    BUILT_IN,
    FREE,
    LIFETIME,
    PRO,
    Place,
    PlanLimits,
    PlanProblem,
    PlanProblemType,
    plan_problems,
    suggested_upgrade,
)
from marginguard.domain.rules import Ladder, ProtectionMode, Rules, Rung, Step

CLOSE = ActionKind.CLOSE_POSITION
REDUCE = ActionKind.REDUCE_POSITION
ADD = ActionKind.ADD_MARGIN
INCREASE = ActionKind.INCREASE_LIQUIDATION_DISTANCE
PLANS = BUILT_IN.values()


def a_rung(threshold: float = 80, *kinds: ActionKind) -> Rung:
    return Rung(threshold=threshold, steps=tuple(Step(kind=kind) for kind in kinds or (CLOSE,)))


def rules(*rungs: Rung, **changes: object) -> Rules:
    plain = Rules(guard_id="g", ladder=Ladder(rungs=rungs or (a_rung(),)))
    return replace(plain, **changes)


def ids(count: int) -> frozenset[str]:
    return frozenset(f"p{number}" for number in range(count))


def test_there_are_five_plans_from_the_smallest_to_the_largest() -> None:
    assert list(BUILT_IN) == ["free", "basic", "advanced", "pro", "lifetime"]
    assert [plan.priority for plan in PLANS] == [1, 2, 3, 4, 5]
    assert [plan.max_positions for plan in PLANS] == [2, 5, 15, None, None]
    assert [plan.min_threshold for plan in PLANS] == [20, 15, 10, 5, 1]
    assert [len(plan.modes) for plan in PLANS] == [1, 1, 3, 3, 3]
    assert [plan.actions for plan in PLANS] == [
        (CLOSE,),
        (CLOSE, REDUCE),
        (CLOSE, REDUCE, ADD),
        (CLOSE, REDUCE, ADD, INCREASE),
        (CLOSE, REDUCE, ADD, INCREASE),
    ]


@pytest.mark.parametrize("plan", PLANS)
def test_what_is_just_within_a_plan_is_no_problem(plan: PlanLimits) -> None:
    rung = a_rung(plan.min_threshold, *plan.actions)
    inside = rules(rung, selected=ids(plan.max_positions or 1000), mode=plan.modes[-1])
    assert plan_problems(inside, plan, PLANS) == ()


def test_too_many_positions_are_counted_and_the_smallest_plan_for_them_is_named() -> None:
    assert plan_problems(rules(selected=ids(3)), FREE, PLANS) == (
        PlanProblem(
            type=PlanProblemType.POSITION_COUNT,
            current=3,
            limit=2,
            message='plan "free" allows a guard 2 positions at most, not 3',
            upgrade="basic",
        ),
    )
    (problem,) = plan_problems(rules(selected=ids(16)), BASIC, PLANS)
    assert problem.upgrade == "pro"


def test_all_positions_are_within_every_plan() -> None:
    """Those beyond the number are not covered, which is said where they are seen."""
    assert plan_problems(rules(selected=None), FREE, PLANS) == ()


def test_a_mode_that_the_plan_lacks_is_told_with_those_it_has() -> None:
    assert plan_problems(rules(mode=ProtectionMode.TOTAL), BASIC, PLANS) == (
        PlanProblem(
            type=PlanProblemType.PROTECTION_MODE_NOT_AVAILABLE,
            current="total",
            available=("unitario",),
            message='plan "basic" has the protection mode unitario alone, not total',
            upgrade="advanced",
        ),
    )


def test_a_threshold_below_the_lowest_is_told_with_the_lowest() -> None:
    assert plan_problems(rules(a_rung(9.5)), ADVANCED, PLANS) == (
        PlanProblem(
            type=PlanProblemType.THRESHOLD_TOO_LOW,
            current=9.5,
            minimum=10,
            message='plan "advanced" allows no threshold below 10 %',
            place=Place(rung=0),
            upgrade="pro",
        ),
    )
    (problem,) = plan_problems(rules(a_rung(0.5)), LIFETIME, PLANS)
    assert problem.upgrade is None


def test_an_action_that_the_plan_lacks_is_told_with_those_it_has() -> None:
    assert plan_problems(rules(a_rung(80, ADD)), BASIC, PLANS) == (
        PlanProblem(
            type=PlanProblemType.ACTION_NOT_AVAILABLE,
            current="add_margin",
            available=("close_position", "reduce_position"),
            message='plan "basic" has the actions close_position and reduce_position,'
            " not add_margin",
            place=Place(rung=0, step=0),
            upgrade="advanced",
        ),
    )


def test_fallbacks_further_rungs_and_single_positions_count_and_all_is_told_at_once() -> None:
    guard = rules(
        a_rung(10, CLOSE, ADD),
        a_rung(90, INCREASE),
        individual={"x": Ladder(rungs=(a_rung(15, REDUCE),))},
        selected=ids(3),
        mode=ProtectionMode.BOTH,
    )
    found = plan_problems(guard, FREE, PLANS)
    assert [(problem.type.value, problem.place, problem.upgrade) for problem in found] == [
        ("position_count", Place(), "basic"),
        ("protection_mode_not_available", Place(), "advanced"),
        ("threshold_too_low", Place(rung=0), "advanced"),
        ("action_not_available", Place(rung=0, step=1), "advanced"),
        ("action_not_available", Place(rung=1, step=0), "pro"),
        ("threshold_too_low", Place(position_id="x", rung=0), "basic"),
        ("action_not_available", Place(position_id="x", rung=0, step=0), "basic"),
    ]
    assert suggested_upgrade(guard, PLANS) == "pro"


def test_an_upgrade_allows_everything_or_is_not_suggested() -> None:
    assert suggested_upgrade(rules(), PLANS) == "free"
    assert suggested_upgrade(rules(a_rung(0.5)), PLANS) is None
    assert suggested_upgrade(rules(a_rung(3, REDUCE)), PLANS) == "lifetime"


def test_the_smallest_plan_is_the_one_of_the_least_priority_then_positions() -> None:
    """Whatever order the plans come in: those of the file stand behind the built-in ones."""
    roomy = replace(FREE, name="roomy", max_positions=50)
    snug = replace(FREE, name="snug", max_positions=9)
    endless = replace(FREE, name="endless", max_positions=None)
    asked = rules(selected=ids(7))
    assert suggested_upgrade(asked, [*PLANS, endless, roomy, snug]) == "snug"
    (problem,) = plan_problems(asked, FREE, [*PLANS, endless, roomy, snug])
    assert problem.upgrade == "snug"


def test_pro_is_all_but_the_lowest_thresholds_of_lifetime() -> None:
    assert replace(PRO, name="lifetime", min_threshold=1.0, priority=5) == LIFETIME
