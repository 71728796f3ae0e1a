"""`marginguard profile`: where the time of the executions goes, and the daemon's memory."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click

from marginguard.app.control_client import ControlClient
from marginguard.cli.common import config_option, json_option
from marginguard.cli.record import (
    check_guard,
    daemon_pid,
    echo_json,
    end_with,
    print_findings,
    read,
    say,
    width,
)
from marginguard.config import Config
from marginguard.diagnose.figures import Timing
from marginguard.diagnose.finding import Finding
from marginguard.diagnose.memory import Memory, findings, memory_of
from marginguard.diagnose.profile import Profile
from marginguard.diagnose.profile import profile as profile_of
from marginguard.domain.units import GuardId
from marginguard.storage.database import Connection
from marginguard.storage.reading import guards
from marginguard.storage.reading_executions import profiled_runs
from marginguard.telemetry.heap import HeapRow

_TYPES_SHOWN: Final = 15
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """The profile, and the daemon's memory where it runs on this machine.

    `heap` is by type, the largest first; None where it was not asked for.
    """

    profile: Profile
    memory: Memory | None
    memory_issues: Sequence[Finding]
    heap: Sequence[HeapRow] | None


@click.command()
@click.argument("guard_id", metavar="[GUARD]", required=False)
@config_option
@click.option(
    "--runs",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="How many of the newest executions to look at.",
)
@click.option(
    "--heap",
    "with_heap",
    is_flag=True,
    help="Ask the running daemon which types of objects fill its memory.",
)
@json_option
def profile(
    config_path: Path, *, guard_id: GuardId | None, runs: int, with_heap: bool, as_json: bool
) -> None:
    """Say where the time of the newest executions went, phase by phase, and what to change.

    Also says how much memory the daemon takes, when it runs on this machine. Exits with 1 when
    there is something to change.
    """

    async def query(connection: Connection, config: Config) -> _Found:
        check_guard(config, guard_id, (one.guard_id for one in await guards(connection)))
        rows = await profiled_runs(connection, guard_id=guard_id, limit=runs)
        memory = _memory(config)
        control = ControlClient(config.daemon.state_dir)
        return _Found(
            profile=profile_of(rows, timeout_s=config.daemon.timeout.total_seconds()),
            memory=memory,
            memory_issues=findings(memory) if memory is not None else (),
            heap=await control.heap(_TYPES_SHOWN) if with_heap else None,
        )

    found = read(config_path, query)
    if as_json:
        share = None if found.memory is None else found.memory.share
        echo_json({**asdict(found), "memory_share": share})
    else:
        _print(found)
    end_with((*found.profile.bottlenecks, *found.memory_issues))


def _memory(config: Config) -> Memory | None:
    """Return the memory of the daemon that works in the state directory, if one does."""
    pid = daemon_pid(config)
    return None if pid is None else memory_of(pid)


def _print(found: _Found) -> None:
    shown = found.profile
    if shown.every is None:
        say("No executions on record yet: the guards had nothing to do, and no run failed")
    else:
        typical = shown.completed or shown.every
        which = "completed" if shown.completed else "none completed; looked at"
        say(
            f"{typical.average_s:.2f} s on average, {typical.slowest_s:.2f} s at most, of the"
            f" {shown.timeout_s:g} s that an execution may take ({which}: {typical.count})"
        )
        _print_phases(shown)
    if found.memory is None:
        say("Memory: unknown, since no daemon runs here with this state directory")
    else:
        say(_memory_words(found.memory))
    if found.heap is not None:
        click.echo("\nHeap by type (strings and numbers are not counted)")
        for row in found.heap:
            click.echo(f"  {row.bytes / _MIB:>7.1f} MB {row.count:>9,}  {row.type}"[: width()])
    print_findings((*shown.bottlenecks, *found.memory_issues), "What to change")


def _print_phases(shown: Profile) -> None:
    rows = [*shown.phases.items()]
    if shown.completed is not None:
        rows.append(("completed", shown.completed))
    if shown.every is not None:
        rows.append(("all runs", shown.every))
    click.echo("\n               avg    max    p99  (s)")
    for name, taken in rows:
        click.echo(f"  {name:<10} {_seconds(taken)}")
    click.echo()


def _seconds(taken: Timing) -> str:
    figures = (taken.average_s, taken.slowest_s, taken.p99_s)
    return " ".join(f"{figure:>6.2f}" for figure in figures)


def _memory_words(memory: Memory) -> str:
    words = f"Memory: the daemon (pid {memory.pid}) takes {memory.resident / _MIB:.0f} MB"
    if memory.peak is not None:
        words += f", at most it took {memory.peak / _MIB:.0f} MB"
    if memory.share is not None:
        words += f"; the service takes {memory.share:.0%} of its MemoryMax"
    return words
