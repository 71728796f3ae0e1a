"""`marginguard check`: what is wrong with a configuration, and where; needs no network."""

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from marginguard import logs
from marginguard.app.venues import validate_online
from marginguard.cli.common import ExitCode, config_option, json_option
from marginguard.config import Config, GuardSettings, load_config
from marginguard.domain.errors import ConfigError
from marginguard.domain.model import ActionKind
from marginguard.lnmarkets.validation import AccountValidation, Verdict

_LATE_THRESHOLD = 95


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing to look at. `action` is a stable name for what `solution` says in words."""

    severity: str
    issue: str
    solution: str
    action: str


@click.command()
@config_option
@click.option("--online", is_flag=True, help="Ask the exchange about the accounts too.")
@json_option
@click.pass_context
def check(ctx: click.Context, config_path: Path, *, online: bool, as_json: bool) -> None:
    """Say what is wrong with a configuration, and where.

    Reads the file and the secrets that it refers to; needs no database, and no network but with
    --online. Exits with 0 when it can be run as it is, with 2 when anything in it is refused, and
    with 1 when the exchange speaks against an account.
    """
    config: Config | None = None
    try:
        config = load_config(config_path, os.environ)
        findings = [*_refused(config), *_warnings(config)]
    except ConfigError as error:
        findings = [_refusal(line, config_path, "fix_config") for line in error.problems]
    faulty = any(finding.severity == "error" for finding in findings)
    accounts: tuple[AccountValidation, ...] = ()
    if online and config is not None and not faulty:
        logs.configure(environ=os.environ, secrets=config.secret_values(), level=logging.CRITICAL)
        accounts = asyncio.run(validate_online(config)).accounts
        findings += [finding for account in accounts for finding in _of_account(account)]
    if as_json:
        report = _report(config_path, config, findings, valid=not faulty)
        click.echo(json.dumps({**report, "accounts": [_account(a) for a in accounts]}))
    else:
        _print(config, findings, faulty=faulty)
        for account in accounts:
            click.echo(f"  {_account_in_words(account)}")
    spoken_against = any(finding.severity == "problem" for finding in findings)
    code = ExitCode.PROBLEM if spoken_against else ExitCode.FINE
    ctx.exit(ExitCode.CONFIG if faulty else code)


def _of_account(account: AccountValidation) -> Iterator[Finding]:
    if account.verdict is not Verdict.VALID:
        yield Finding(
            severity="problem",
            issue=f"account {account.account_id}: {account.reason} ({account.code})",
            solution=account.advice or "",
            action="update_api_key" if account.verdict is Verdict.INVALID else "check_connection",
        )
    for found in account.findings:
        yield _warning(f"account {account.account_id}: {found.issue}", found.solution, found.action)


def _account(account: AccountValidation) -> dict[str, object]:
    return {
        "id": account.account_id,
        "verdict": account.verdict.value,
        "code": account.code,
        "last_validated": account.last_validated.isoformat(),
        "balance_sats": None if account.balance is None else account.balance.available,
        "permissions": None if account.permissions is None else sorted(account.permissions),
    }


def _account_in_words(account: AccountValidation) -> str:
    words = f"account {account.account_id}: {account.verdict.value}"
    if account.balance is not None:
        words += f", {account.balance.available:,} sats to spend"
    if account.permissions is not None:
        words += f", key may {', '.join(sorted(account.permissions))}"
    return words


def _refusal(line: str, path: Path, action: str) -> Finding:
    return Finding(
        severity="error",
        issue=line,
        solution=f"change {path} accordingly and run `marginguard check` again",
        action=action,
    )


def _refused(config: Config) -> Iterator[Finding]:
    for guard in config.refused_guards:
        for line in guard.problems:
            yield _refusal(line, config.path, "fix_guard_config")


def _warnings(config: Config) -> Iterator[Finding]:
    for words in config.warnings:
        yield _warning(words, "run chmod 600 on the file", "protect_secret_file")
    if not config.guards:
        yield _warning(
            f"{config.path}: no guard guards anything", "add a [[guards]] table", "add_guard"
        )
    guarded = {guard.account for guard in config.guards if guard.enabled}
    for account in config.accounts:
        if account.id not in guarded:
            yield _warning(
                f'account "{account.id}": no enabled guard covers its positions',
                f'add a [[guards]] table with account = "{account.id}"',
                "add_guard",
            )
    for guard in config.guards:
        yield from _guard_warnings(guard)
    yield from _overlaps(config)
    if config.notifications.webhook.url is None:
        yield _warning(
            "nobody is told of actions and failures",
            "set url under [notifications.webhook]",
            "set_webhook",
        )


def _guard_warnings(guard: GuardSettings) -> Iterator[Finding]:
    name = f'guard "{guard.id}"'
    if not guard.enabled:
        yield _warning(f"{name}: is switched off", "set enabled = true", "enable_guard")
    if not guard.auto_execution:
        yield _warning(
            f"{name}: only tells and never acts", "set auto_execution = true", "enable_execution"
        )
    if guard.dry_run:
        yield _warning(
            f"{name}: is a dry run and sends nothing", "set dry_run = false", "disable_dry_run"
        )
    if guard.margin_threshold > _LATE_THRESHOLD:
        yield _warning(
            f"{name}: margin_threshold {guard.margin_threshold:g} leaves little time:"
            " 100 is liquidation",
            f"set it to {_LATE_THRESHOLD} or less",
            "lower_threshold",
        )
    if guard.add_margin_amount is not None and guard.action is not ActionKind.ADD_MARGIN:
        yield _warning(
            f"{name}: add_margin_amount has no effect with action {guard.action}",
            'remove it, or set action = "add_margin"',
            "remove_key",
        )


def _overlaps(config: Config) -> Iterator[Finding]:
    """Two guards over one position each act on its breach, with no regard for the other."""
    guards = [guard for guard in config.guards if guard.enabled]
    for index, first in enumerate(guards):
        for second in guards[index + 1 :]:
            if first.account == second.account and _share_positions(first, second):
                yield _warning(
                    f'guards "{first.id}" and "{second.id}" cover the same positions:'
                    " each acts on its own",
                    "give them different selected_positions, or remove one",
                    "separate_guards",
                )


def _share_positions(first: GuardSettings, second: GuardSettings) -> bool:
    if first.selected_positions is None or second.selected_positions is None:
        return True
    return not first.selected_positions.isdisjoint(second.selected_positions)


def _warning(issue: str, solution: str, action: str) -> Finding:
    return Finding(severity="warning", issue=issue, solution=solution, action=action)


def _report(
    path: Path, config: Config | None, findings: list[Finding], *, valid: bool
) -> dict[str, object]:
    return {
        "config": str(path),
        "valid": valid,
        "findings": [asdict(finding) for finding in findings],
        "guards": [] if config is None else [_summary(guard) for guard in config.guards],
        "refused_guards": [] if config is None else [guard.id for guard in config.refused_guards],
    }


def _summary(guard: GuardSettings) -> dict[str, object]:
    selected = guard.selected_positions
    return {
        "id": guard.id,
        "account": guard.account,
        "enabled": guard.enabled,
        "auto_execution": guard.auto_execution,
        "dry_run": guard.dry_run,
        "margin_threshold": guard.margin_threshold,
        "action": guard.action.value,
        "selected_positions": "all" if selected is None else sorted(selected),
    }


def _print(config: Config | None, findings: list[Finding], *, faulty: bool) -> None:
    for finding in findings:
        # An error's line says what is allowed already.
        advice = "" if finding.severity == "error" else f"; {finding.solution}"
        click.echo(f"{finding.severity}: {finding.issue}{advice}", err=True)
    if config is None:
        return
    if not faulty:
        click.echo(f"{config.path} can be run.")
    networks = {account.id: account.network or account.rest_url for account in config.accounts}
    for guard in config.guards:
        click.echo(f"  {_in_words(guard, networks[guard.account], config)}")
    for refused in config.refused_guards:
        click.echo(f"  {refused.id}: REFUSED, it guards nothing")


def _in_words(guard: GuardSettings, network: str, config: Config) -> str:
    if not guard.enabled:
        return f"{guard.id}: off"
    does = guard.action.value if guard.auto_execution else "only tells"
    selected = guard.selected_positions
    which = "every position" if selected is None else f"{len(selected)} selected position(s)"
    every = f"{config.daemon.interval.total_seconds():g} s"
    return (
        f"{guard.id}: {does} when {guard.margin_threshold:g} % of the margin is used up, on"
        f" {which} of account {guard.account} ({network}), looking every {every}"
        f"{', as a dry run' if guard.dry_run else ''}"
    )
