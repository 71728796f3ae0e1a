"""A guard's diagnosis: its configuration, its account asked live, and what the record says."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from marginguard.aio import SystemClock
from marginguard.app.asking import account_of, asked_live, where_is
from marginguard.app.guard_record import guard_record
from marginguard.config import Config, GuardSettings, RefusedGuard, rules_of
from marginguard.diagnose.account import Cause
from marginguard.diagnose.debug import Debugger, Limits
from marginguard.diagnose.debug_record import GuardRecord
from marginguard.diagnose.debug_steps import Diagnosis, Setup
from marginguard.diagnose.nearest import nearest
from marginguard.domain.errors import ConfigError
from marginguard.domain.units import AccountId


async def debug_guard(config: Config, guard_id: str) -> Diagnosis:
    """Take the six steps for a guard, on live data, changing nothing.

    Needs no database and starts none; one that can be reached says what the guard did before.
    """
    setup = setup_of(config, guard_id)
    record: GuardRecord | None = None
    causes: tuple[Cause, ...] = ()
    guard = next((one for one in config.guards if one.id == guard_id), None)
    if guard is not None:
        record, causes = await guard_record(config, guard.id)
    limits = Limits(
        stale_after=config.exchange.stale_after, verify_within=config.actions.verify_within
    )
    clock, account = SystemClock(), account_of(config, setup.account_id)
    if account is None:
        return await Debugger(setup, None, record, clock=clock, limits=limits, more=causes).run()
    async with asked_live(config, account) as live:
        return await Debugger(setup, live, record, clock=clock, limits=limits, more=causes).run()


async def debug_unreadable(path: Path, guard_id: str, error: ConfigError) -> Diagnosis:
    """Return the diagnosis of a guard in a configuration that is refused as a whole."""
    causes = tuple(_refusal(line, path, "fix_config") for line in error.problems)
    setup = Setup(guard_id=guard_id, causes=causes)
    unused = Limits(stale_after=timedelta(), verify_within=timedelta())
    return await Debugger(setup, None, None, clock=SystemClock(), limits=unused).run()


def setup_of(config: Config, guard_id: str) -> Setup:
    """Return what the configuration says of the guard of this id, also where there is none."""
    for guard in config.guards:
        if guard.id == guard_id:
            return _of_guard(config, guard)
    for refused in config.refused_guards:
        if refused.id == guard_id:
            return Setup(
                guard_id=guard_id,
                account_id=refused.account,
                where=_where(config, refused.account),
                summary=f"{config.path}: {refused.where} is refused ({refused.code})",
                causes=tuple(_causes_of_refused(config, refused)),
            )
    names = [guard.id for guard in config.guards]
    names += [guard.id for guard in config.refused_guards]
    unknown = Cause(
        issue=f'{config.path}: there is no guard "{guard_id}"',
        solution=nearest(guard_id, names)
        or ("name one of those in it" if names else "add a [[guards]] table: there is none"),
        action="name_guard",
    )
    return Setup(guard_id=guard_id, causes=(unknown,))


def _of_guard(config: Config, guard: GuardSettings) -> Setup:
    plan = config.plan_of(guard.account)
    rungs = [(guard.margin_threshold, guard.action)]
    rungs += [(one.margin_threshold, one.action or guard.action) for one in guard.escalation]
    acts = ", ".join(f"{threshold:g} %: {action}" for threshold, action in rungs)
    selected = guard.selected_positions
    which = "all positions" if selected is None else f"{len(selected)} named"
    return Setup(
        guard_id=guard.id,
        account_id=guard.account,
        where=_where(config, guard.account),
        summary=f'account {guard.account}, plan "{plan.name}", {which}, at {acts}',
        rules=rules_of(guard, config.actions, plan),
        dry_run=guard.dry_run,
        causes=tuple(_switches(guard)),
    )


def _switches(guard: GuardSettings) -> Iterator[Cause]:
    """Yield why a guard whose configuration is valid does not act."""
    if not guard.enabled:
        yield Cause(
            issue="the guard is switched off (enabled = false): the daemon does not run it",
            solution="set enabled = true and reload: systemctl reload marginguard",
            action="enable_guard",
        )
    if guard.dry_run:
        yield Cause(
            issue="the guard is a dry run (dry_run = true): it decides, records and sends nothing",
            solution="set dry_run = false and reload: systemctl reload marginguard",
            action="disable_dry_run",
        )
    if not guard.auto_execution:
        yield Cause(
            issue="the guard only tells and never acts (auto_execution = false)",
            solution="set auto_execution = true and reload: systemctl reload marginguard",
            action="enable_execution",
        )


def _causes_of_refused(config: Config, refused: RefusedGuard) -> Iterator[Cause]:
    beyond = {one.line: one.problem for one in refused.beyond_plan}
    for line in refused.problems:
        if line not in beyond:
            yield _refusal(line, config.path, "fix_guard_config")
            continue
        fix = "run `marginguard check --fix`, which prints the guard brought within its plan"
        upgrade = beyond[line].upgrade
        if upgrade is None:
            yield Cause(issue=line, solution=fix, action="fix_for_plan")
        else:
            move = f'move its user to plan "{upgrade}", or {fix}'
            yield Cause(issue=line, solution=move, action="upgrade_plan")


def _refusal(line: str, path: Path, action: str) -> Cause:
    solution = f"change {path} accordingly and run `marginguard check`"
    return Cause(issue=line, solution=solution, action=action)


def _where(config: Config, account_id: AccountId | None) -> str:
    account = account_of(config, account_id)
    return "" if account is None else where_is(account)
