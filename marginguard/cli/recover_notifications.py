"""`marginguard recover notifications`: what reached nobody is sent again."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click

from marginguard import logs
from marginguard.app.control_client import ControlClient, NoDaemon, Unanswered
from marginguard.cli.common import config_option, json_option
from marginguard.cli.record import echo_json, end_with, opened, say, since_option, span_of, when
from marginguard.config import Config, load_config
from marginguard.domain.history import Delivery
from marginguard.domain.notification import NotificationKey, NotificationStatus
from marginguard.storage.database import Connection
from marginguard.storage.notifications import resend_failed
from marginguard.storage.reading_executions import deliveries_by_id, failed_deliveries

_LONGEST_WAIT: Final = timedelta(minutes=5)
_LOOK_EVERY_S: Final = 0.5
_SHOWN: Final = 20
"""Of how many that failed the reason is shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What was made pending again (or would be), as it stands; `sending`: a daemon is at it."""

    rows: Sequence[Delivery]
    sending: bool

    def having(self, status: NotificationStatus) -> Sequence[Delivery]:
        return [row for row in self.rows if row.status is status]


def _wait(_: click.Context, __: click.Parameter, value: str) -> timedelta:
    return timedelta(0) if value in {"0", "0s"} else span_of(value, _LONGEST_WAIT)


@click.command(short_help="Send again what was given up, with its time.")
@config_option
@since_option("1h")
@click.option("--dry-run", is_flag=True, help="Only say which would be sent again.")
@click.option(
    "--wait",
    callback=_wait,
    metavar="DURATION",
    default="15s",
    show_default=True,
    help='How long to wait for what comes of it, at most "5m"; 0s for not at all.',
)
@json_option
def recover_notifications(
    config_path: Path, *, since: datetime, dry_run: bool, wait: timedelta, as_json: bool
) -> None:
    """Send again what was given up, each notification with the time that it was meant for.

    The daemon sends them; without one they go out when it starts. Exits with 1 where one fails
    again.
    """
    config = load_config(config_path, os.environ)
    logs.configure(environ=os.environ, secrets=config.secret_values(), level=logging.WARNING)
    found = asyncio.run(_recover(config, since, dry_run=dry_run, wait=wait))
    again = () if dry_run else found.having(NotificationStatus.FAILED)
    if as_json:
        echo_json(
            {
                "since": since,
                "dry_run": dry_run,
                "daemon_answers": found.sending if found.rows and not dry_run else None,
                "total": len(found.rows),
                "succeeded": len(found.having(NotificationStatus.DELIVERED)),
                "failed": len(again),
                "pending": len(found.having(NotificationStatus.PENDING)),
                "results": [asdict(row) for row in found.rows],
            }
        )
    else:
        for text, first in _lines(found, since, dry_run=dry_run):
            say(text, first)
    end_with(again)


async def _recover(config: Config, since: datetime, *, dry_run: bool, wait: timedelta) -> _Found:
    async with opened(config) as connection:
        if dry_run:
            return _Found(rows=await failed_deliveries(connection, since=since), sending=False)
        keys = await resend_failed(connection, since=since, now=datetime.now(UTC))
        sending = bool(keys) and await _daemon_answers(config)
        rows = await _rows(connection, keys)
        if sending:
            try:
                async with asyncio.timeout(wait.total_seconds()):
                    while any(row.status is NotificationStatus.PENDING for row in rows):
                        await asyncio.sleep(_LOOK_EVERY_S)
                        rows = await _rows(connection, keys)
            except TimeoutError:
                pass  # what is still pending is said to be
        return _Found(rows=rows, sending=sending)


async def _rows(connection: Connection, keys: Sequence[NotificationKey]) -> Sequence[Delivery]:
    wanted = set(keys)
    rows = await deliveries_by_id(connection, [key.id for key in keys])
    return [row for row in rows if NotificationKey(row.id, row.user_id, row.channel) in wanted]


async def _daemon_answers(config: Config) -> bool:
    try:
        await ControlClient(config.daemon.state_dir).overview()
    except NoDaemon:
        return False
    except Unanswered:
        return True  # there is one, though it does not speak to this user
    return True


def _lines(found: _Found, since: datetime, *, dry_run: bool) -> Iterator[tuple[str, str]]:
    """Yield paragraphs, each with the start of its first line."""
    if not found.rows:
        yield f"No notification was given up since {when(since)} UTC: nothing to recover.", ""
        return
    channels = Counter(row.channel for row in found.rows)
    by_channel = ", ".join(f"{count} by {name}" for name, count in sorted(channels.items()))
    if dry_run:
        yield f"Would be sent again: {by_channel}", ""
        yield from _rows_in_words(found.rows)
        return
    yield f"Set to be sent again: {by_channel}", ""
    pending = found.having(NotificationStatus.PENDING)
    if not found.sending:
        yield "No daemon answers: they go out when it starts (systemctl start marginguard).", ""
        return
    again = found.having(NotificationStatus.FAILED)
    delivered = found.having(NotificationStatus.DELIVERED)
    yield f"{len(delivered)} delivered, {len(again)} failed again, {len(pending)} still pending", ""
    yield from _rows_in_words([*again, *pending])
    if pending:
        yield "What is pending is tried on; see marginguard analyze notifications --since 1h", ""


def _rows_in_words(rows: Sequence[Delivery]) -> Iterator[tuple[str, str]]:
    for row in rows[:_SHOWN]:
        yield f"{row.status.value}, {row.channel} to {row.user_id}: {row.subject}", "- "
        if row.last_error is not None:
            cure = f"; {row.advice}" if row.advice else ""
            yield f"{row.last_error}{cure}", "  "
    if len(rows) > _SHOWN:
        yield f"and {len(rows) - _SHOWN} more: see --json", "- "
