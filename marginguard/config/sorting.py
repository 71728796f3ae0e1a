"""Sorting the guards of a file into those that can guard and those that are refused."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from marginguard.config.clashes import clash_faults
from marginguard.config.guard_consistency import guard_faults
from marginguard.config.guards import GuardSettings
from marginguard.config.ladders import rules_of
from marginguard.config.models import ActionsSettings
from marginguard.config.plan_faults import plan_faults
from marginguard.config.problems import Document, Fault, faults_of, label
from marginguard.domain.errors import ErrorCode
from marginguard.domain.plans import PlanLimits, PlanProblem, suggested_upgrade
from marginguard.domain.units import AccountId, GuardId


@dataclass(frozen=True, kw_only=True, slots=True)
class BeyondPlan:
    """Something that the plan of a guard's user does not allow; `line` tells it."""

    line: str
    problem: PlanProblem


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedGuard:
    """A guard that does not guard because of its own configuration.

    `id` is the guard's own, or its place (`guards[2]`) where it has none that is its alone;
    `where` is its place and name in the file. Each of `problems` is one line; those that are a
    matter of the plan are in `beyond_plan` too. The code is PLAN_LIMITATIONS_EXCEEDED where all
    of them are. `upgrade` is the smallest plan, if there is one, that allows all that the guard
    asks for. `table` is what the file says, as written.
    """

    id: GuardId
    where: str
    account: AccountId | None
    problems: tuple[str, ...]
    code: ErrorCode
    beyond_plan: tuple[BeyondPlan, ...] = ()
    upgrade: str | None = None
    table: object = field(default=None, repr=False)  # it may hold a secret put in the wrong place


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What else in the file a guard is held against. `account_plans` has every account's plan."""

    actions: ActionsSettings
    account_plans: Mapping[AccountId, PlanLimits]
    plans: Mapping[str, PlanLimits]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A guard's table as it was understood; `guard` is None where it was not.

    A guard is held against its plan even where it contradicts itself, so that all is told at
    once. `upgrade` is the smallest plan that would allow what this one does not.
    """

    guard: GuardSettings | None
    faults: tuple[Fault, ...]
    beyond_plan: Mapping[Fault, PlanProblem] = field(default_factory=dict)
    upgrade: str | None = None


def read_guard(table: object, terms: Terms) -> Reading:
    """Return what one table comes to, regardless of the other guards."""
    try:
        guard = GuardSettings.model_validate(table)
    except ValidationError as error:
        return Reading(guard=None, faults=faults_of(error, GuardSettings))
    faults = tuple(dict.fromkeys(guard_faults(guard, terms.actions, terms.account_plans)))
    plan = terms.account_plans.get(guard.account)
    if plan is None:
        return Reading(guard=guard, faults=faults)
    plans = terms.plans.values()
    beyond = plan_faults(guard, terms.actions, plan, plans)
    upgrade = suggested_upgrade(rules_of(guard, terms.actions), plans) if beyond else None
    return Reading(guard=guard, faults=faults, beyond_plan=beyond, upgrade=upgrade)


def sort_guards(
    path: Path, tables: Sequence[object], terms: Terms
) -> tuple[tuple[GuardSettings, ...], tuple[RefusedGuard, ...]]:
    """Return the guards that can guard, and those that are refused.

    Of several with one id the first that is valid guards: refusing it too would leave its
    positions alone because of a slip in another guard, and two under one id would share their
    memory of what was done. Of several whose actions clash the first guards as well.
    """
    good: dict[str, GuardSettings] = {}
    of_account: dict[str, list[GuardSettings]] = defaultdict(list)
    refused: list[RefusedGuard] = []
    for index, table in enumerate(tables):
        reading = read_guard(table, terms)
        guard, faults = reading.guard, reading.faults
        if guard is not None and guard.id in good:
            rule = "is used by a guard above, which goes on: each guard needs its own id"
            faults = (*faults, Fault(loc=("id",), rule=rule, shown=True))
        elif guard is not None:
            faults = (*faults, *clash_faults(guard, of_account[guard.account], terms.actions))
        if guard is not None and not faults and not reading.beyond_plan:
            good[guard.id] = guard
            of_account[guard.account].append(guard)
        else:
            refused.append(_refused(path, tables, index, replace(reading, faults=faults)))
    return tuple(good.values()), tuple(refused)


def _refused(path: Path, tables: Sequence[object], index: int, reading: Reading) -> RefusedGuard:
    table, faults, beyond = tables[index], reading.faults, reading.beyond_plan
    where = f"guards{label(index, table)}"
    document = Document(path=path, data=table, model=reading.guard, prefix=where)
    account = _text_at(table, "account")
    return RefusedGuard(
        id=_id_of_refused(index, tables),
        where=where,
        account=None if account is None else AccountId(account),
        problems=tuple(map(document.line, (*faults, *beyond))),
        code=ErrorCode.INVALID_CONFIG_SCHEMA if faults else ErrorCode.PLAN_LIMITATIONS_EXCEEDED,
        beyond_plan=tuple(
            BeyondPlan(line=document.line(fault), problem=problem)
            for fault, problem in beyond.items()
        ),
        upgrade=reading.upgrade,
        table=table,
    )


def _id_of_refused(index: int, tables: Sequence[object]) -> GuardId:
    ids = [_text_at(table, "id") for table in tables]
    own = ids[index]
    if own is None or ids.count(own) > 1:
        return GuardId(f"guards[{index + 1}]")
    return GuardId(own)


def _text_at(table: object, key: str) -> str | None:
    value = table.get(key) if isinstance(table, dict) else None
    return value if isinstance(value, str) else None
