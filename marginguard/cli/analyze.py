"""`marginguard analyze`: how executions and notifications went over some time."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from marginguard.cli.common import config_option, json_option
from marginguard.cli.record import (
    check_guard,
    echo_json,
    end_with,
    print_findings,
    read,
    say,
    since_option,
    when,
)
from marginguard.config import Config
from marginguard.diagnose import executions, notifications
from marginguard.diagnose.executions import ExecutionAnalysis
from marginguard.diagnose.figures import CommonError, Slice, Timing, sparkline
from marginguard.diagnose.notifications import NotificationAnalysis
from marginguard.domain.units import GuardId
from marginguard.storage.database import Connection
from marginguard.storage.reading import guards
from marginguard.storage.reading_executions import deliveries, runs

MOST_ROWS: Final = 100_000
"""How many rows are analyzed at most: more would need more memory than a small server has."""


@click.group()
def analyze() -> None:
    """Say how executions or notifications went over some time, and what to do about it."""


@analyze.command("executions")
@config_option
@click.option("--guard", "guard_id", metavar="GUARD", help="Only those of one guard.")
@since_option("24h")
@json_option
def analyze_executions(
    config_path: Path, *, guard_id: GuardId | None, since: datetime, as_json: bool
) -> None:
    """Say how the executions went: success rate, durations, errors, and when.

    Exits with 1 when there is something to do about it.
    """

    async def query(connection: Connection, config: Config) -> tuple[ExecutionAnalysis, bool]:
        check_guard(config, guard_id, (one.guard_id for one in await guards(connection)))
        rows = await runs(connection, since=since, guard_id=guard_id, limit=MOST_ROWS)
        found = executions.analyze(
            rows,
            since=_since(since, [row.started_at for row in rows]),
            until=datetime.now(UTC),
            timeout_s=config.daemon.timeout.total_seconds(),
        )
        return found, len(rows) == MOST_ROWS

    found, cut = read(config_path, query)
    _warn_if_cut(cut=cut)
    if as_json:
        echo_json(asdict(found))
    else:
        _print_executions(found)
    end_with(found.recommendations)


@analyze.command("notifications")
@config_option
@since_option("24h")
@json_option
def analyze_notifications(config_path: Path, *, since: datetime, as_json: bool) -> None:
    """Say how the notifications were delivered, channel by channel.

    Exits with 1 when there is something to do about it.
    """

    async def query(connection: Connection, _: Config) -> tuple[NotificationAnalysis, bool]:
        rows = await deliveries(connection, since=since, limit=MOST_ROWS)
        found = notifications.analyze(
            rows,
            since=_since(since, [row.created_at for row in rows]),
            until=datetime.now(UTC),
        )
        return found, len(rows) == MOST_ROWS

    found, cut = read(config_path, query)
    _warn_if_cut(cut=cut)
    if as_json:
        echo_json(asdict(found))
    else:
        _print_notifications(found)
    end_with(found.recommendations)


def _since(asked: datetime, newest_first: Sequence[datetime]) -> datetime:
    """Return from when on the rows are complete."""
    return newest_first[-1] if len(newest_first) == MOST_ROWS else asked


def _warn_if_cut(*, cut: bool) -> None:
    if cut:
        click.echo(f"note: only the newest {MOST_ROWS:,} are analyzed; see --since", err=True)


def _print_executions(found: ExecutionAnalysis) -> None:
    if not found.total:
        say(
            f"No executions since {when(found.since)} UTC: the guards had nothing to do, and no"
            " run failed"
        )
        return
    counts = (
        f"{found.completed} completed, {found.partial} partial, {found.failed} failed,"
        f" {found.skipped} skipped"
    )
    if found.success_rate is None:
        say(f"No execution since {when(found.since)} UTC could succeed or fail: {counts}")
    else:
        share = f"{found.success_rate:.0%}"
        say(f"{share} of the executions since {when(found.since)} UTC succeeded: {counts}")
    if found.duration is not None:
        say(f"Duration of the completed: {_timing(found.duration)}")
    _print_pattern(found.pattern)
    _print_errors(found.common_errors)
    print_findings(found.recommendations, "What to do")


def _print_notifications(found: NotificationAnalysis) -> None:
    if not found.total:
        say(f"No notifications since {when(found.since)} UTC: there was nothing to tell")
        return
    counts = f"{found.delivered} delivered, {found.failed} failed, {found.pending} pending"
    if found.success_rate is None:
        say(f"No notification since {when(found.since)} UTC has arrived or failed yet: {counts}")
    else:
        share = f"{found.success_rate:.0%}"
        say(f"{share} of the notifications since {when(found.since)} UTC arrived: {counts}")
    for name, figures in found.channels.items():
        share = "" if figures.success_rate is None else f"{figures.success_rate:.0%} arrived, "
        failing = f" ({figures.failing} of them failing)" if figures.failing else ""
        say(
            f"{name}: {share}{figures.delivered} delivered, {figures.failed} failed,"
            f" {figures.pending} pending{failing}",
            "  ",
        )
    if found.delay is not None:
        say(f"Until delivered: {_timing(found.delay)}")
    _print_pattern(found.pattern)
    _print_errors(found.common_errors)
    print_findings(found.recommendations, "What to do")


def _timing(taken: Timing) -> str:
    return (
        f"average {taken.average_s:.2f} s, fastest {taken.fastest_s:.2f} s,"
        f" slowest {taken.slowest_s:.2f} s, p99 {taken.p99_s:.2f} s"
    )


def _print_pattern(slices: Sequence[Slice]) -> None:
    """Print what succeeded and what failed over time, one character a part of it."""
    hours = (slices[1].start - slices[0].start).total_seconds() / 3600
    click.echo(f"\nOver time, {hours:.3g} h a character")
    for name, counts in (
        ("succeeded", [one.succeeded for one in slices]),
        ("failed", [one.failed for one in slices]),
    ):
        click.echo(f"  {name:<9} {sparkline(counts)}")


def _print_errors(errors: Sequence[CommonError]) -> None:
    if errors:
        click.echo("\nCommon errors")
        for one in errors:
            say(one.error, f"{one.count:>5} x ")
