"""`marginguard notify test`: whether users are reached, before it matters."""

import asyncio
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from marginguard import logs
from marginguard.app.notifications import channels_of, routing_of
from marginguard.cli.common import ExitCode, config_option, json_option
from marginguard.config import Config, load_config
from marginguard.config.notifications import CHANNELS
from marginguard.domain.errors import ConfigError
from marginguard.notify.channel import Action, Channel
from marginguard.notify.rendering import check_templates
from marginguard.notify.routing import Routing
from marginguard.notify.trial import Finding, missing_recipient, try_channel

_SETUP = {
    "telegram": (Action.VERIFY_TELEGRAM_TOKEN, "token"),
    "email": (Action.VERIFY_SMTP_CONFIG, "host and sender"),
    "webhook": (Action.SETUP_WEBHOOK_URL, "url"),
    "sms": (Action.VERIFY_SMS_CONFIG, "provider"),
}


@click.group()
def notify() -> None:
    """Try the ways in which users are told."""


@notify.command()
@config_option
@click.option("--channel", type=click.Choice(CHANNELS), help="Only this channel.")
@click.option("--user", "user_id", metavar="ID", help="Only this user.")
@json_option
@click.pass_context
def test(
    ctx: click.Context,
    config_path: Path,
    *,
    channel: str | None,
    user_id: str | None,
    as_json: bool,
) -> None:
    """Send a test message to each user on each channel, and say what came of it.

    Needs no database and no running daemon. Exits with 0 when every message was taken, with 1
    when one was not or nobody can be told.
    """
    config = load_config(config_path, os.environ)
    logs.configure(environ=os.environ, secrets=config.secret_values(), level=logging.CRITICAL)
    check_templates(config.notifications.templates)
    users = [user.id for user in config.users]
    if user_id is not None and user_id not in users:
        raise ConfigError(f'there is no user "{user_id}" in {config_path}: {", ".join(users)}')
    findings = asyncio.run(_try(config, channel, [user_id] if user_id is not None else users))
    works = all(finding.works for finding in findings)
    if as_json:
        report = {"works": works, "findings": [asdict(finding) for finding in findings]}
        click.echo(json.dumps(report))
    else:
        for finding in findings:
            mark = "ok" if finding.works else "FAILED"
            click.echo(f"{mark}: {finding.user_id} by {finding.channel}: {finding.issue}")
            click.echo(f"  {finding.solution}")
    ctx.exit(ExitCode.FINE if works else ExitCode.PROBLEM)


async def _try(config: Config, only: str | None, users: Sequence[str]) -> list[Finding]:
    channels = channels_of(config.notifications)
    routing = routing_of(config)
    by_name = {channel.name: channel for channel in channels}
    try:
        findings = []
        for user_id in users:
            names = [only] if only is not None else list(routing.channels_of(user_id))
            findings += [await _try_one(by_name, routing, name, user_id) for name in names]
            if not names:
                findings.append(_nowhere(user_id))
        return findings
    finally:
        for channel in channels:
            await channel.aclose()


async def _try_one(
    channels: dict[str, Channel], routing: Routing, name: str, user_id: str
) -> Finding:
    channel = channels.get(name)
    if channel is None:
        return _not_set_up(name, user_id)
    recipient = routing.recipient(user_id, name)
    if recipient is None:
        return missing_recipient(name, user_id)
    return await try_channel(channel, recipient, at=datetime.now(UTC))


def _not_set_up(name: str, user_id: str) -> Finding:
    action, keys = _SETUP[name]
    return Finding(
        channel=name,
        user_id=user_id,
        works=False,
        issue=f"The channel {name} is not set up.",
        solution=f"Set {keys} under [notifications.{name}].",
        action=action,
    )


def _nowhere(user_id: str) -> Finding:
    return Finding(
        channel="none",
        user_id=user_id,
        works=False,
        issue=f"User {user_id} is reached by no channel: nobody is told of anything but the log.",
        solution="Set up a channel, such as [notifications.email], and give the user's address"
        " there in [[users]].",
        action=Action.SETUP_EMAIL_ADDRESS,
    )
