"""`marginguard recover executions|notifications|intents`: what went wrong is done afresh."""

import asyncio
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final
from uuid import UUID

import click

from marginguard import logs
from marginguard.app.control_client import ControlClient, NoDaemon, Unanswered
from marginguard.cli.common import config_option, json_option
from marginguard.cli.control import MARGIN_S, AskedInVain, failed
from marginguard.cli.record import echo_json, end_with, opened, say, since_option, when
from marginguard.cli.recover_intents import recover_intents
from marginguard.cli.recover_notifications import recover_notifications
from marginguard.config import Config, load_config
from marginguard.domain.errors import Refused
from marginguard.domain.records import ExecutionRecord, ExecutionSource, ExecutionStatus
from marginguard.domain.units import GuardId
from marginguard.storage.reading import GuardView, guards

_FAILED: Final = frozenset({ExecutionStatus.FAILED, ExecutionStatus.PARTIAL})


class Outcome(StrEnum):
    """What came of evaluating a guard afresh."""

    WOULD_RUN = "would_run"
    NOTHING_TO_DO = "nothing_to_do"
    COMPLETED = "completed"
    FAILED = "failed"
    REFUSED = "refused"
    LEFT_ALONE = "left_alone"

    @property
    def in_vain(self) -> bool:
        """Whether the guard still has not done what it should."""
        return self in {Outcome.FAILED, Outcome.REFUSED}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """A guard whose last execution failed, and what came of running it again, with the reason."""

    guard_id: GuardId
    failed_execution: UUID
    failed_status: ExecutionStatus
    failed_at: datetime
    failed_error: str | None
    outcome: Outcome
    reason: str
    execution: UUID | None = None


@click.group()
def recover() -> None:
    """Do afresh what went wrong: runs of guards, notifications, actions of unknown outcome."""


recover.add_command(recover_notifications, "notifications")
recover.add_command(recover_intents, "intents")


@recover.command("executions", short_help="Run again the guards whose last execution failed.")
@config_option
@since_option("24h")
@click.option("--dry-run", is_flag=True, help="Only say which guards would be run.")
@json_option
def recover_executions(config_path: Path, *, since: datetime, dry_run: bool, as_json: bool) -> None:
    """Run the guards again whose last execution failed, under their usual rules.

    Nothing is done twice: a guard looks afresh, and acts where it would anyway. One that has
    succeeded since is left alone. Exits with 1 where one fails again.
    """
    config = load_config(config_path, os.environ)
    logs.configure(environ=os.environ, secrets=config.secret_values(), level=logging.WARNING)
    found = asyncio.run(_recover(config, since, dry_run=dry_run))
    in_vain = sum(one.outcome.in_vain for one in found)
    if as_json:
        left = sum(one.outcome is Outcome.LEFT_ALONE for one in found)
        echo_json(
            {
                "since": since,
                "dry_run": dry_run,
                "total": len(found),
                "succeeded": 0 if dry_run else len(found) - in_vain - left,
                "failed": in_vain,
                "left_alone": left,
                "results": [asdict(one) for one in found],
            }
        )
    else:
        for text, first in _lines(found, since, dry_run=dry_run):
            say(text, first)
    end_with(in_vain)


async def _recover(config: Config, since: datetime, *, dry_run: bool) -> list[Recovery]:
    async with opened(config) as connection:
        known = await guards(connection)
    hurt = [
        one
        for one in known
        if one.last_execution_status in _FAILED
        and one.last_execution_at is not None
        and one.last_execution_at >= since
    ]
    client = ControlClient(config.daemon.state_dir)
    return [await _run_again(config, one, client, dry_run=dry_run) for one in hurt]


async def _run_again(
    config: Config, guard: GuardView, client: ControlClient, *, dry_run: bool
) -> Recovery:
    if (obstacle := _obstacle(config, guard.guard_id)) is not None:
        return _recovery(guard, *obstacle)
    if dry_run:
        return _recovery(guard, Outcome.WOULD_RUN, "it would be run again")
    try:
        record = await client.run_now(
            guard.guard_id,
            source=ExecutionSource.RECOVER,
            patience_s=config.daemon.timeout.total_seconds() + MARGIN_S,
        )
    except Refused as error:
        return _recovery(guard, Outcome.REFUSED, str(error))
    except NoDaemon as error:
        raise AskedInVain(str(error)) from error
    except Unanswered as error:
        return _recovery(guard, Outcome.FAILED, str(error))
    if record is None:
        return _recovery(guard, Outcome.NOTHING_TO_DO, "it looked: there is nothing to do now")
    outcome = Outcome.FAILED if failed(record) else Outcome.COMPLETED
    return _recovery(guard, outcome, _in_words(record), record.id)


def _obstacle(config: Config, guard_id: GuardId) -> tuple[Outcome, str] | None:
    """Return why a guard cannot be run by the configuration as it is."""
    refused = next((one for one in config.refused_guards if one.id == guard_id), None)
    if refused is not None:
        why = "; ".join(refused.problems)
        return Outcome.REFUSED, f"its configuration is not valid: {why}"
    found = next((one for one in config.guards if one.id == guard_id), None)
    if found is None:
        return Outcome.LEFT_ALONE, "it is not in the configuration any more"
    if not found.enabled:
        return Outcome.LEFT_ALONE, "it is switched off (enabled = false)"
    return None


def _recovery(
    guard: GuardView, outcome: Outcome, reason: str, execution: UUID | None = None
) -> Recovery:
    if guard.last_execution_id is None or guard.last_execution_at is None:
        raise RuntimeError("a guard without an execution has none that failed")
    return Recovery(
        guard_id=guard.guard_id,
        failed_execution=guard.last_execution_id,
        failed_status=guard.last_execution_status or ExecutionStatus.FAILED,
        failed_at=guard.last_execution_at,
        failed_error=guard.last_execution_error,
        outcome=outcome,
        reason=reason,
        execution=execution,
    )


def _in_words(record: ExecutionRecord) -> str:
    results = [f"{position}: {result}" for position, result in record.results.items()]
    if record.error is not None:
        results.insert(0, record.error)
    return "; ".join(results) or record.status.value


def _lines(
    found: Sequence[Recovery], since: datetime, *, dry_run: bool
) -> Iterator[tuple[str, str]]:
    """Yield paragraphs, each with the start of its first line."""
    if not found:
        yield f"No guard's last execution since {when(since)} UTC failed: nothing to recover.", ""
        return
    in_vain = sum(one.outcome.in_vain for one in found)
    left = sum(one.outcome is Outcome.LEFT_ALONE for one in found)
    fine = len(found) - in_vain - left
    well = f"{fine} would be run again" if dry_run else f"{fine} succeeded"
    headline = (
        f"Guards whose last execution since {when(since)} UTC failed: {len(found)}; {well},"
        f" {in_vain} failed, {left} left alone"
    )
    yield headline, ""
    for one in found:
        yield f"{one.guard_id}: {one.outcome.value.replace('_', ' ')}: {one.reason}", "- "
        before = (
            f"execution {one.failed_execution} ended {one.failed_status.value} at"
            f" {when(one.failed_at)} UTC: {one.failed_error or 'marginguard explain says why'}"
        )
        yield before, "  "
