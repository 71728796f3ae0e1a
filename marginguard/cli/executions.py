"""`marginguard executions`: what the guards did, newest first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from marginguard.cli.common import config_option, json_option
from marginguard.cli.record import check_guard, echo_json, read, say, since_option, when, width
from marginguard.config import Config
from marginguard.diagnose.figures import success_rate
from marginguard.domain.records import ExecutionRecord, ExecutionStatus
from marginguard.domain.units import GuardId
from marginguard.storage.database import Connection
from marginguard.storage.reading import guards
from marginguard.storage.reading_executions import count_by_status
from marginguard.storage.reading_executions import executions as select

_STYLES = {
    ExecutionStatus.COMPLETED: "green",
    ExecutionStatus.PARTIAL: "yellow",
    ExecutionStatus.FAILED: "bold red",
    ExecutionStatus.SKIPPED: "",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """The executions of some time: all of them by status, and the newest of those asked for."""

    since: datetime
    counts: Mapping[ExecutionStatus, int]
    checks: int
    executions: Sequence[ExecutionRecord]


@click.command()
@config_option
@click.option("--guard", "guard_id", metavar="GUARD", help="Only those of one guard.")
@since_option("24h")
@click.option(
    "--status",
    type=click.Choice([status.value for status in ExecutionStatus]),
    help="Only those that ended so.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="How many to list at most.",
)
@json_option
def executions(
    config_path: Path,
    *,
    guard_id: GuardId | None,
    since: datetime,
    status: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List the executions: the runs of guards that had something to do, or failed.

    A look at which there was nothing to do is counted, and not listed. Reads the database alone,
    whether the daemon runs or not.
    """
    wanted = ExecutionStatus(status) if status is not None else None

    async def query(connection: Connection, config: Config) -> _Found:
        known = await guards(connection)
        check_guard(config, guard_id, (one.guard_id for one in known))
        return _Found(
            since=since,
            counts=await count_by_status(connection, since=since, guard_id=guard_id),
            checks=sum(one.checks for one in known if guard_id in {None, one.guard_id}),
            executions=await select(
                connection, since=since, guard_id=guard_id, status=wanted, limit=limit
            ),
        )

    found = read(config_path, query)
    if as_json:
        echo_json(asdict(found))
        return
    say(_answer(found))
    if found.executions:
        _print_rows(found.executions)
        matching = found.counts[wanted] if wanted is not None else sum(found.counts.values())
        if matching > len(found.executions):
            say(f"{matching - len(found.executions)} older ones are not shown: see --limit.")
        say("What happened in one: marginguard explain ID (its beginning is enough)")


def _answer(found: _Found) -> str:
    total = sum(found.counts.values())
    if not total:
        return (
            f"No executions since {when(found.since)} UTC: the guards had nothing to do, and no run"
            f" failed ({found.checks:,} looks on record in all)"
        )
    counts = ", ".join(f"{n} {status.value}" for status, n in found.counts.items() if n)
    unmet = found.counts[ExecutionStatus.PARTIAL] + found.counts[ExecutionStatus.FAILED]
    rate = success_rate(found.counts[ExecutionStatus.COMPLETED], unmet)
    share = "" if rate is None else f"; {rate:.0%} succeeded"
    plural = "s" if total > 1 else ""
    return f"{total} execution{plural} since {when(found.since)} UTC: {counts}{share}"


def _print_rows(rows: Sequence[ExecutionRecord]) -> None:
    console = Console(width=width(), highlight=False)
    for row in rows:
        source = f"{row.source.value}, dry run" if row.dry_run else row.source.value
        console.print(f"\n{row.id}", markup=False)
        console.print(
            Text.assemble(
                "  ",
                (row.status.value, _STYLES[row.status]),
                f" {when(row.started_at)}",
            )
        )
        say(f"{row.guard_id}, {source}, {row.duration_s:.2f} s", "  ")
        for line in _done(row):
            say(line, "  ")
    console.print()


def _done(row: ExecutionRecord) -> list[str]:
    """Say what a run did: its error, or a line for each position."""
    lines = [f"{position}: {result}" for position, result in row.results.items()]
    if row.error is not None:
        lines.insert(0, f"{row.error_code.value if row.error_code else 'error'}: {row.error}")
    return lines
