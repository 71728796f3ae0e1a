"""What of a guard its user's plan does not allow, found again in the guard's tables."""

from collections.abc import Collection

from marginguard.config.guards import GuardSettings
from marginguard.config.ladders import RungTables, ladders_of, rules_of
from marginguard.config.models import ActionsSettings
from marginguard.config.problems import Fault, Loc
from marginguard.domain.plans import PlanLimits, PlanProblem, PlanProblemType, plan_problems

_OF_THE_GUARD = {
    PlanProblemType.POSITION_COUNT: "selected_positions",
    PlanProblemType.PROTECTION_MODE_NOT_AVAILABLE: "protection_mode",
}


def plan_faults(
    guard: GuardSettings,
    actions: ActionsSettings,
    plan: PlanLimits,
    plans: Collection[PlanLimits],
) -> dict[Fault, PlanProblem]:
    """Return what the plan does not allow of the guard, by the place in its tables.

    What several rungs share is a fault once.
    """
    rungs = {
        (ladder.position_id, number): rung
        for ladder in ladders_of(guard)
        for number, rung in enumerate(ladder.rungs)
    }
    faults: dict[Fault, PlanProblem] = {}
    for problem in plan_problems(rules_of(guard, actions, plan), plan, plans):
        place = problem.place
        if place.rung is None:
            way: Loc = (_OF_THE_GUARD[problem.type],)
        else:
            way = _way(problem, rungs[place.position_id, place.rung])
        # The count says what a list of ids, which may be long, would hide.
        shown = problem.type is not PlanProblemType.POSITION_COUNT
        faults.setdefault(Fault(loc=way, rule=_rule(problem), shown=shown), problem)
    return faults


def _way(problem: PlanProblem, rung: RungTables) -> Loc:
    if problem.type is PlanProblemType.THRESHOLD_TOO_LOW:
        return rung.loc("margin_threshold")
    return rung.loc("fallback" if problem.place.step else "action")


def _rule(problem: PlanProblem) -> str:
    if problem.upgrade is None:
        return f"{problem.message}; no plan allows it"
    return f'{problem.message}; the smallest plan that allows it is "{problem.upgrade}"'
