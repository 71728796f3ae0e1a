"""What `credentials` and `account` share: which accounts are meant, and asking the exchange."""

import asyncio
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from marginguard import logs
from marginguard.app.asking import ask_accounts
from marginguard.cli import causes
from marginguard.cli.common import ExitCode
from marginguard.config import AccountSettings, Config, load_config
from marginguard.diagnose.account import AccountFacts, Cause, causes_of
from marginguard.diagnose.nearest import nearest
from marginguard.domain.errors import ConfigError, ErrorCode

Words = Callable[[Config, AccountFacts], Iterator[str]]
Figures = Callable[[Config, AccountFacts], dict[str, object]]


def tell(
    name: str | None, path: Path, words: Words, figures: Figures, *, as_json: bool
) -> ExitCode:
    """Ask about the account of this name, or about all; print it; return how to exit.

    Raises `ConfigError` for a configuration that is refused and a name that is not there.
    """
    config = load_config(path, os.environ)
    logs.configure(environ=os.environ, secrets=config.secret_values(), level=logging.CRITICAL)
    chosen = _chosen(config, name)
    facts = asyncio.run(ask_accounts(config, chosen))
    missing = [] if chosen else [_no_accounts(config)]
    found = {one.account_id: causes_of(one) for one in facts}
    if as_json:
        accounts = [
            {
                "id": one.account_id,
                "network": one.where,
                "status": one.status,
                "code": one.code,
                "checked_at": one.checked_at.isoformat(),
                **figures(config, one),
                "findings": [causes.as_json(cause) for cause in found[one.account_id]],
            }
            for one in facts
        ]
        report: dict[str, object] = {"accounts": accounts}
        report["findings"] = [causes.as_json(cause) for cause in missing]
        report["code"] = ErrorCode.NO_EXCHANGE_ACCOUNTS if missing else None
        click.echo(json.dumps(report))
    else:
        for one in facts:
            for line in words(config, one):
                click.echo(line)
            for line in causes.in_words(found[one.account_id]):
                click.echo(line)
        for line in causes.in_words(missing):
            click.echo(line)
    well = all(cause.warning for one in found.values() for cause in one)
    return ExitCode.FINE if well and not missing else ExitCode.PROBLEM


def _chosen(config: Config, name: str | None) -> Sequence[AccountSettings]:
    if name is None:
        return config.accounts
    chosen = [account for account in config.accounts if account.id == name]
    if not chosen:
        offer = nearest(name, (account.id for account in config.accounts))
        words = f'{config.path}: there is no account "{name}"'
        raise ConfigError(f"{words}; {offer}" if offer else words)
    return chosen


def _no_accounts(config: Config) -> Cause:
    return Cause(
        issue=f"{config.path}: there is no account",
        solution="add an [[accounts]] table with its network, key, secret and passphrase",
        action="add_account",
    )
