"""`marginguard check`: what is wrong with a configuration, and where; needs no network."""

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from marginguard import logs
from marginguard.app.venues import validate_online
from marginguard.cli import corrections, guard_words
from marginguard.cli.common import ExitCode, config_option, json_option, paragraph
from marginguard.cli.corrections import Fix
from marginguard.cli.findings import Finding, refusal, refused, untellable, warning, warnings
from marginguard.config import Config, load_config
from marginguard.domain.errors import ConfigError
from marginguard.lnmarkets.validation import AccountValidation, Verdict


@click.command()
@config_option
@click.option("--online", is_flag=True, help="Ask the exchange about the accounts too.")
@click.option("--fix", is_flag=True, help="Print refused guards brought within their plan.")
@json_option
@click.pass_context
def check(ctx: click.Context, config_path: Path, *, online: bool, fix: bool, as_json: bool) -> None:
    """Say what is wrong with a configuration, and where.

    Reads the file and the secrets that it refers to; needs no database, and no network but with
    --online. With --fix it prints what a guard that its user's plan does not allow could be
    instead, and writes nothing.

    Exits with 0 when it can be run as it is, with 2 when anything in it is refused, and with 1
    when the exchange speaks against an account.
    """
    config: Config | None = None
    try:
        config = load_config(config_path, os.environ)
        findings = [*refused(config), *untellable(config), *warnings(config)]
    except ConfigError as error:
        findings = [refusal(line, config_path, "fix_config") for line in error.problems]
    faulty = any(finding.severity == "error" for finding in findings)
    accounts: tuple[AccountValidation, ...] = ()
    if online and config is not None and not faulty:
        logs.configure(environ=os.environ, secrets=config.secret_values(), level=logging.CRITICAL)
        accounts = asyncio.run(validate_online(config)).accounts
        findings += [finding for account in accounts for finding in _of_account(account)]
    fixes = corrections.of(config) if fix and config is not None else []
    if as_json:
        report = _report(config_path, config, findings, valid=not faulty)
        report["accounts"] = [_account(account) for account in accounts]
        if fix:
            report["fixes"] = [one.as_json() for one in fixes]
        click.echo(json.dumps(report))
    else:
        _print(config, findings, faulty=faulty)
        for account in accounts:
            click.echo(f"  {_account_in_words(account)}")
        if fix and config is not None:
            _print_fixes(fixes)
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
        yield warning(f"account {account.account_id}: {found.issue}", found.solution, found.action)


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


def _report(
    path: Path, config: Config | None, findings: list[Finding], *, valid: bool
) -> dict[str, object]:
    guards: list[dict[str, object]] = []
    refused_guards: list[str] = []
    beyond_plan: list[dict[str, object]] = []
    if config is not None:
        guards = [guard_words.as_json(guard, config) for guard in config.guards]
        refused_guards = [guard.id for guard in config.refused_guards]
        beyond_plan = [
            corrections.beyond_plan(guard) for guard in config.refused_guards if guard.beyond_plan
        ]
    return {
        "config": str(path),
        "valid": valid,
        "findings": [asdict(finding) for finding in findings],
        "guards": guards,
        "refused_guards": refused_guards,
        "beyond_plan": beyond_plan,
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
    for guard in config.guards:
        for start, text in guard_words.in_words(guard, config):
            click.echo(paragraph(start, text))
    for refused_guard in config.refused_guards:
        advice = "; --fix shows it within its plan" if refused_guard.beyond_plan else ""
        click.echo(f"  {refused_guard.id}: REFUSED, it guards nothing{advice}")


def _print_fixes(fixes: list[Fix]) -> None:
    if not fixes:
        click.echo("No guard is refused for its plan: there is nothing to fix.")
    for one in fixes:
        click.echo()
        for start, text in one.in_words():
            click.echo(paragraph(start, text, every="# "))
        click.echo(one.toml, nl=False)
