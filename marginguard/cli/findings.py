"""What `marginguard check` says of a configuration beyond what it refuses."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from marginguard.app.notifications import routing_of, setup_problems
from marginguard.cli.status_findings import ways_missing
from marginguard.config import Config, GuardSettings
from marginguard.config.clashes import share_positions
from marginguard.config.ladders import ladders_of
from marginguard.config.problems import key_text
from marginguard.domain.plans import PlanProblem
from marginguard.domain.rules import ProtectionMode
from marginguard.domain.units import CROSS

_LATE_THRESHOLD = 95


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing to look at. `action` is a stable name for what `solution` says in words."""

    severity: str
    issue: str
    solution: str
    action: str


def refusal(line: str, path: Path, action: str) -> Finding:
    """Return what is told of one fault for which the configuration, or a guard, is refused."""
    return Finding(
        severity="error",
        issue=line,
        solution=f"change {path} accordingly and run `marginguard check` again",
        action=action,
    )


def warning(issue: str, solution: str, action: str) -> Finding:
    """Return what is told of something that is allowed."""
    return Finding(severity="warning", issue=issue, solution=solution, action=action)


def refused(config: Config) -> Iterator[Finding]:
    """Yield the faults of the guards that are refused."""
    for guard in config.refused_guards:
        beyond = {one.line: one.problem for one in guard.beyond_plan}
        for line in guard.problems:
            if line in beyond:
                yield _beyond_plan(line, beyond[line])
            else:
                yield refusal(line, config.path, "fix_guard_config")


def _beyond_plan(line: str, problem: PlanProblem) -> Finding:
    solution = "run `marginguard check --fix`, which prints the guard brought within its plan"
    action = "fix_for_plan"
    if problem.upgrade is not None:
        solution = f'move its user to plan "{problem.upgrade}", or {solution}'
        action = "upgrade_plan"
    return Finding(severity="error", issue=line, solution=solution, action=action)


def untellable(config: Config) -> Iterator[Finding]:
    """Yield the faults of channels and templates."""
    for line in setup_problems(config):
        yield refusal(line, config.path, "fix_notifications")


def warnings(config: Config) -> Iterator[Finding]:
    """Yield what is allowed, but perhaps not meant."""
    for words in config.warnings:
        yield warning(words, "run chmod 600 on the file", "protect_secret_file")
    if not config.guards:
        yield warning(
            f"{config.path}: no guard guards anything", "add a [[guards]] table", "add_guard"
        )
    guarded = {guard.account for guard in config.guards if guard.enabled}
    for account in config.accounts:
        if account.id not in guarded:
            yield warning(
                f'account "{account.id}": no enabled guard covers its positions',
                f'add a [[guards]] table with account = "{account.id}"',
                "add_guard",
            )
    for guard in config.guards:
        yield from _of_guard(guard, config)
    yield from _overlaps(config)
    routing = routing_of(config)
    for user in config.users:
        if not routing.channels_of(user.id):
            yield warning(
                f'user "{user.id}": is told of nothing, since no channel reaches them',
                "set url under [notifications.webhook], or set up another channel and give the"
                " user's address there; then try: marginguard notify test",
                "set_webhook",
            )
        for way in ways_missing(config, user):
            yield warning(way.issue, way.solution, way.action)


def _of_guard(guard: GuardSettings, config: Config) -> Iterator[Finding]:
    name = f'guard "{guard.id}"'
    if not guard.enabled:
        yield warning(f"{name}: is switched off", "set enabled = true", "enable_guard")
    if not guard.auto_execution:
        yield warning(
            f"{name}: only tells and never acts", "set auto_execution = true", "enable_execution"
        )
    if guard.dry_run:
        yield warning(
            f"{name}: is a dry run and sends nothing", "set dry_run = false", "disable_dry_run"
        )
    plan = config.plan_of(guard.account)
    if guard.selected_positions is None and plan.max_positions is not None:
        yield warning(
            f'{name}: on plan "{plan.name}" it covers {plan.max_positions} positions at a time,'
            " the riskiest; any more are NOT guarded",
            "name the positions that matter in selected_positions, or move its user to a larger"
            " plan",
            "upgrade_plan",
        )
    yield from _late_thresholds(guard, name)
    if guard.protection_mode is ProtectionMode.TOTAL:
        yield warning(
            f'{name}: with protection_mode "total" an isolated position can be liquidated while'
            " others win: their profit does not save it",
            'set protection_mode = "both" to hold each position\'s own level too',
            "set_protection_mode",
        )
    yield from _backstops(guard, name)


def _late_thresholds(guard: GuardSettings, name: str) -> Iterator[Finding]:
    late = {
        rung.loc("margin_threshold"): rung.threshold
        for ladder in ladders_of(guard)
        for rung in ladder.rungs
        if rung.threshold > _LATE_THRESHOLD
    }
    for way, threshold in late.items():
        yield warning(
            f"{name}: {key_text(way)} {threshold:g} leaves little time: 100 is liquidation",
            f"set it to {_LATE_THRESHOLD} or less",
            "lower_threshold",
        )


def _backstops(guard: GuardSettings, name: str) -> Iterator[Finding]:
    if all(ladder.backstop is None for ladder in ladders_of(guard)):
        return
    if not guard.auto_execution:
        yield warning(
            f"{name}: no stop-loss is kept at backstop_threshold while auto_execution is false",
            "set auto_execution = true, or remove backstop_threshold",
            "enable_execution",
        )
    selected = guard.selected_positions
    if guard.backstop_threshold is not None and (selected is None or CROSS in selected):
        yield warning(
            f"{name}: backstop_threshold does nothing for the cross position, for which the"
            " exchange keeps no stop-loss: it is guarded only while this daemon runs",
            "trade on isolated margin what must survive this machine, or name only isolated"
            " trades in selected_positions",
            "select_isolated_positions",
        )


def _overlaps(config: Config) -> Iterator[Finding]:
    """Two guards over one position each answer its breach, with no regard for the other."""
    guards = [guard for guard in config.guards if guard.enabled]
    for index, first in enumerate(guards):
        for second in guards[index + 1 :]:
            if share_positions(first, second):
                yield warning(
                    f'guards "{first.id}" and "{second.id}" cover the same positions:'
                    " each goes by its own rungs",
                    "give them different selected_positions, or remove one",
                    "separate_guards",
                )
