"""`marginguard status`: am I protected, by whom, and how close is it."""

import asyncio
import logging
import os
import shutil
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from marginguard import logs
from marginguard.app.control_client import ControlClient, Unanswered
from marginguard.app.notifications import routing_of
from marginguard.cli.common import ExitCode, config_option, json_option
from marginguard.cli.record import echo_json, opened, width
from marginguard.cli.status_findings import advice, of_config, problems, unneeded_guards
from marginguard.cli.status_screen import Answer, Status, screen
from marginguard.config import Config, load_config
from marginguard.diagnose.finding import Finding
from marginguard.domain.errors import DatabaseUnavailable, MarginguardError
from marginguard.storage.notification_reading import (
    ChannelRecord,
    channel_records,
    unreachable_users,
)
from marginguard.storage.reading import guards, newest_actions, positions

_ACTIONS_SHOWN: Final = 10
_STOP_LOSSES_SHOWN: Final = 3
_UNREACHABLE_FOR: Final = timedelta(days=7)
"""How far back a critical notice that reached nobody still counts."""

_DAEMON_PATIENCE_S: Final = 2.0

_EXIT: Final = {
    Answer.PROTECTED: ExitCode.FINE,
    Answer.NOTHING_TO_PROTECT: ExitCode.FINE,
    Answer.NOT_PROTECTED: ExitCode.PROBLEM,
    Answer.UNKNOWN: ExitCode.FAILED,
}


@click.command()
@config_option
@click.option("--watch", is_flag=True, help="Show it afresh until Ctrl-C.")
@click.option(
    "--every",
    "every_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0.5, max=3600),
    default=2.0,
    show_default=True,
    help="How often, with --watch.",
)
@json_option
def status(config_path: Path, *, watch: bool, every_s: float, as_json: bool) -> None:
    """Answer in the first line: am I protected? Then positions, guards, telling and actions.

    Reads the database alone, whether the daemon runs or not. Exits with 0 when every running
    position is guarded, with 1 when not, with 3 when the record cannot be read.
    """
    if watch and (as_json or not sys.stdout.isatty()):
        raise click.UsageError("--watch needs a terminal to draw on, and goes without --json")
    config = load_config(config_path, os.environ)
    logs.configure(environ=os.environ, secrets=config.secret_values(), level=logging.WARNING)
    if watch:
        asyncio.run(_watch(config, every_s))
    found = asyncio.run(_look(config))
    if as_json:
        echo_json({"protected": found.answer is Answer.PROTECTED, **_report(found)})
    else:
        # A pipe gets everything: there is no screen to fit into.
        height = shutil.get_terminal_size().lines - 1 if sys.stdout.isatty() else None
        console = Console(highlight=False, width=width())
        console.print(_drawn(found, height), soft_wrap=True)
    sys.exit(_EXIT[found.answer])


def _report(found: Status) -> dict[str, object]:
    report = asdict(found)
    for channel, row in zip(found.channels, report["channels"], strict=True):
        row["success_rate"] = channel.success_rate
    return report


async def _look(config: Config) -> Status:
    """Return what there is; where the database does not answer, that this is not known."""
    try:
        return await _read(config)
    except DatabaseUnavailable as error:
        return await _unknown(config, error)


async def _unknown(config: Config, error: MarginguardError) -> Status:
    """Say why the record cannot be read, and what the daemon says itself if it answers."""
    try:
        now = await ControlClient(config.daemon.state_dir, timeout_s=_DAEMON_PATIENCE_S).overview()
        said = f"the running daemon says: {now.protected}"
    except Unanswered as silence:
        said = str(silence)
    problem = Finding(issue=str(error), solution=said, action="check_database")
    return Status(answer=Answer.UNKNOWN, problems=(problem,))


async def _read(config: Config) -> Status:
    now = datetime.now(UTC)
    async with opened(config) as connection:
        running = of_config(config, await positions(connection))
        known = await guards(connection)
        actions = await newest_actions(connection, _ACTIONS_SHOWN, stop_losses=_STOP_LOSSES_SHOWN)
        used = await channel_records(connection)
        unreachable = await unreachable_users(connection, now - _UNREACHABLE_FOR)
    configured = {g.id for g in config.guards} | {g.id for g in config.refused_guards}
    shown = tuple(guard for guard in known if guard.guard_id in configured)
    users = {user.id for user in config.users}
    found = tuple(problems(config, running, shown, now))
    answer = Answer.PROTECTED if running else Answer.NOTHING_TO_PROTECT
    lost = [one for one in unreachable if one.user_id in users]
    mend = (*advice(config, used, lost), *unneeded_guards(config, running, shown, now))
    return Status(
        answer=Answer.NOT_PROTECTED if found else answer,
        problems=found,
        advice=mend,
        positions=running,
        guards=shown,
        channels=_channels(config, used),
        actions=actions,
    )


def _channels(config: Config, used: tuple[ChannelRecord, ...]) -> tuple[ChannelRecord, ...]:
    """Return the channels that somebody is told by, whether they were ever used or not."""
    routing = routing_of(config)
    reached = {name for user in config.users for name in routing.channels_of(user.id)}
    records = {one.channel: one for one in used}
    return tuple(records.get(name) or ChannelRecord.unused(name) for name in sorted(reached))


async def _watch(config: Config, every_s: float) -> None:
    """Show the status afresh until interrupted; while it cannot be read, say why.

    The record is opened anew each time: the embedded server's directory is not kept from a daemon
    that starts.
    """
    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        while True:
            at = f"{datetime.now(UTC):%H:%M:%S} UTC, again every {every_s:g} s; Ctrl-C ends it"
            try:
                found = await _read(config)
            except MarginguardError as error:
                found = await _unknown(config, error)
            height = shutil.get_terminal_size().lines - 1
            live.update(Group(_drawn(found, height), Text(at, style="dim")), refresh=True)
            await asyncio.sleep(every_s)


def _drawn(found: Status, height: int | None) -> Text:
    return Text("\n").join(screen(found, width=width(), height=height))
