"""`marginguard status`: what runs, who guards it, and how close it is."""

import asyncio
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from marginguard import logs
from marginguard.cli.common import ExitCode, config_option, json_option
from marginguard.cli.record import opened, stale
from marginguard.config import Config, load_config
from marginguard.diagnose.story import asked
from marginguard.domain.errors import MarginguardError
from marginguard.domain.margin import show_level
from marginguard.domain.model import MarginMode
from marginguard.domain.records import ActionRecord, ArmedState
from marginguard.storage.reading import (
    GuardView,
    PositionView,
    guards,
    newest_actions,
    positions,
)

_ACTIONS_SHOWN = 10
_STOP_LOSSES_SHOWN = 3
_RISK_STYLES = {"low": "yellow", "medium": "yellow", "high": "red", "critical": "bold red"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something that keeps positions from being guarded, and what to do about it."""

    issue: str
    solution: str
    action: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """The record as it is now; `problems` is empty exactly when everything is guarded."""

    problems: Sequence[Problem]
    positions: Sequence[PositionView]
    guards: Sequence[GuardView]
    actions: Sequence[ActionRecord]


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
    """Show positions with their levels, the guards, and what they did last.

    Reads the database alone, whether the daemon runs or not. Exits with 0 when every running
    position is guarded, with 1 when not.
    """
    if watch and (as_json or not sys.stdout.isatty()):
        raise click.UsageError("--watch needs a terminal to draw on, and goes without --json")
    config = load_config(config_path, os.environ)
    logs.configure(environ=os.environ, secrets=config.secret_values(), level=logging.WARNING)
    if watch:
        asyncio.run(_watch(config, every_s))
    found = asyncio.run(_read(config))
    if as_json:
        report = {"protected": not found.problems, **asdict(found)}
        # The driver's UUIDs are of a class of its own.
        click.echo(orjson.dumps(report, default=str))
    else:
        Console(highlight=False).print(_rendered(found))
    sys.exit(ExitCode.PROBLEM if found.problems else ExitCode.FINE)


async def _read(config: Config) -> Status:
    async with opened(config) as connection:
        running = await positions(connection)
        known = await guards(connection)
        actions = await newest_actions(connection, _ACTIONS_SHOWN, stop_losses=_STOP_LOSSES_SHOWN)
    configured = {g.id for g in config.guards} | {g.id for g in config.refused_guards}
    shown = tuple(guard for guard in known if guard.guard_id in configured)
    problems = tuple(_problems(config, running, shown, datetime.now(UTC)))
    return Status(problems=problems, positions=running, guards=shown, actions=actions)


async def _watch(config: Config, every_s: float) -> None:
    """Show the status afresh until interrupted; while it cannot be read, say why.

    The record is opened anew each time: the embedded server's directory is not kept from a daemon
    that starts.
    """
    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        while True:
            at = f"{datetime.now(UTC):%H:%M:%S} UTC, again every {every_s:g} s; Ctrl-C ends it"
            try:
                shown = _rendered(await _read(config))
            except MarginguardError as error:
                headline = Text("UNKNOWN: the record cannot be read", style="bold white on red")
                shown = Group(headline, Text(str(error)))
            live.update(Group(shown, Text(at, style="dim")), refresh=True)
            await asyncio.sleep(every_s)


def _problems(
    config: Config, positions: Sequence[PositionView], guards: Sequence[GuardView], now: datetime
) -> Iterator[Problem]:
    looked = max((at for guard in guards if (at := _looked(guard))), default=None)
    seen = max((position.seen_at for position in positions), default=None)
    newest = max((at for at in (looked, seen) if at), default=None)
    if (words := stale(config, newest, now)) is not None:
        yield Problem(
            issue=words,
            solution="see whether it runs: systemctl status marginguard, and its log",
            action="start_daemon",
        )
    for guard in guards:
        if guard.armed is not ArmedState.ARMED:
            yield Problem(
                issue=f"guard {guard.guard_id} is {guard.armed.value}: {guard.reason}",
                solution="change what the reason names; marginguard check helps",
                action="arm_guard",
            )
    recorded = {guard.guard_id for guard in guards}
    for configured in config.guards:
        if configured.id not in recorded:
            yield Problem(
                issue=f"guard {configured.id} is in the configuration and has never run",
                solution="restart the daemon, which reads the configuration at its start",
                action="restart_daemon",
            )
    for position in positions:
        if position.guard_id is None:
            yield Problem(
                issue=f"position {position.position_id} of account {position.account_id} is not"
                f" covered by an armed guard (level {show_level(position.level)} %)",
                solution="add a [[guards]] table for it, or arm the guard that should",
                action="add_guard",
            )


def _rendered(found: Status) -> Group:
    return Group(*_parts(found))


def _parts(found: Status) -> Iterator[RenderableType]:
    if found.problems:
        yield Text("NOT PROTECTED", style="bold white on red")
        for problem in found.problems:
            yield Text(f"- {problem.issue}\n  {problem.solution}")
    elif found.positions:
        yield Text(f"PROTECTED: {len(found.positions)} position(s), each with an armed guard")
    else:
        yield Text("Nothing to protect: no position runs, and the guards are armed")
    if found.positions:
        yield _positions_table(found.positions)
        if any(position.mode is MarginMode.CROSS for position in found.positions):
            yield Text(
                "The cross position has no backstop: the exchange keeps no stop-loss for the"
                " cross position, so nothing protects it while the daemon does not run."
            )
    yield _guards_table(found.guards)
    if found.actions:
        yield _actions_table(found.actions)


def _positions_table(positions: Sequence[PositionView]) -> Table:
    table = Table(title="Positions", show_lines=True)
    table.add_column("position", overflow="fold", ratio=1)
    for name in ("level", "price\ntrigger", "liquidation\nstop-loss"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("guard, seen", overflow="fold")
    for row in positions:
        guard = Text(row.guard_id) if row.guard_id else Text("NONE", style="bold red")
        table.add_row(
            f"{row.position_id}\n{row.account_id}, {row.side.value} {row.quantity:,} USD"
            + _margin_left(row),
            Text.assemble(
                f"{show_level(row.level)} %\n",
                (row.risk.value, _RISK_STYLES.get(row.risk, "")),
            ),
            f"{_price(row.price)}\n{_price(row.trigger_price)}",
            f"{_price(row.liquidation_price)}\n{_stop_loss(row)}",
            Text.assemble(guard, f"\n{_ago(row.seen_at)}"),
        )
    return table


def _margin_left(row: PositionView) -> str:
    """Say what a trade that a reduction reopened has left of the margin that it began with."""
    if row.original_margin is None:
        return ""
    return f"\nmargin {row.margin:,} of {row.original_margin:,} sats"


def _stop_loss(row: PositionView) -> str:
    if row.mode is MarginMode.CROSS:
        return "no backstop"
    if row.backstop is not None:
        return f"backstop {_price(row.backstop)}"
    if row.stop_loss is not None:
        return f"stop-loss {_price(row.stop_loss)}"
    return "no stop-loss"


def _guards_table(guards: Sequence[GuardView]) -> Table:
    table = Table(title="Guards")
    for name in ("guard", "account", "state", "since", "last look", "last execution"):
        table.add_column(name, overflow="fold")
    for row in guards:
        execution = "none on record"
        if row.last_execution_at is not None:
            execution = f"{row.last_execution_status}, {_ago(row.last_execution_at)}"
            if row.last_execution_error:
                execution += f": {row.last_execution_error}"
        table.add_row(
            row.guard_id,
            row.account_id,
            Text(row.armed.value, style="" if row.armed is ArmedState.ARMED else "bold red"),
            _ago(row.since),
            "never" if (looked := _looked(row)) is None else _ago(looked),
            execution,
        )
    return table


def _actions_table(actions: Sequence[ActionRecord]) -> Table:
    table = Table(title="Newest actions", show_lines=True)
    table.add_column("when, guard", overflow="fold")
    table.add_column("position", overflow="fold", max_width=20)
    table.add_column("action, status", overflow="fold")
    table.add_column("proof or reason", overflow="fold", ratio=1)
    for row in actions:
        successor = f"\nnow {row.successor}" if row.successor is not None else ""
        table.add_row(
            f"{_ago(row.intended_at)}\n{row.guard_id}",
            f"{row.position_id}{successor}",
            f"{asked(row)}\n{'dry run' if row.dry_run else row.status.value}",
            row.proof or row.error or row.reason,
        )
    return table


def _looked(guard: GuardView) -> datetime | None:
    """Return when the guard looked last, whether it found something to do or not."""
    return max((at for at in (guard.last_checked_at, guard.last_execution_at) if at), default=None)


def _price(price: float | None) -> str:
    return "none" if price is None else f"{price:,.1f}"


def _ago(at: datetime) -> str:
    age = max(timedelta(0), datetime.now(UTC) - at)
    if age < timedelta(minutes=2):
        return f"{age.seconds} s ago"
    if age < timedelta(hours=2):
        return f"{age.seconds // 60} min ago"
    return f"{at:%Y-%m-%d %H:%M} UTC"
