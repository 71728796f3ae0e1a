"""Deleting what is old enough to be forgotten: a little at a time, never in the way."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from marginguard.aio import sleep_or_stop
from marginguard.domain.errors import DatabaseUnavailable
from marginguard.ports import Clock
from marginguard.storage.database import acquired
from marginguard.storage.link import DatabaseLink
from marginguard.storage.sql_files import statement

_BATCH_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionRules:
    """How long records are kept, and how they are deleted.

    `days`: executions that completed or were skipped, the margin history, delivered
    notifications. `failure_days`: executions and notifications that failed, all actions and
    commands. An action that is not settled and a notification that is pending are kept for ever.
    The times (seconds): `first_after_s` the start, then every `every_s`, with a pause of
    `pause_s` after each batch of `batch_rows`.
    """

    days: int = 90
    failure_days: int = 365
    batch_rows: int = 500
    first_after_s: float = 300.0
    every_s: float = 3600.0
    pause_s: float = 0.5

    def __post_init__(self) -> None:
        """Refuse to forget failures before the rest."""
        if not 1 <= self.days <= self.failure_days:
            raise ValueError("failures must be kept at least as long as the rest, and that a day")


class Retention:
    """Deletes old records of the database, which may be away or slow: then it tries later."""

    def __init__(self, link: DatabaseLink, *, clock: Clock, rules: RetentionRules) -> None:
        self._link = link
        self._clock = clock
        self._rules = rules
        self._log = structlog.get_logger()

    async def run(self, stop: asyncio.Event) -> None:
        """Delete what is old from time to time until `stop` is set."""
        delay_s = self._rules.first_after_s
        while not await sleep_or_stop(delay_s, stop):
            delay_s = self._rules.every_s
            try:
                deleted = await self.sweep(stop)
            except DatabaseUnavailable as error:
                self._log.debug("retention.postponed", error=str(error))
            else:
                if any(deleted.values()):
                    self._log.info("retention.deleted", **deleted)

    async def sweep(self, stop: asyncio.Event) -> dict[str, int]:
        """Delete all that is old, unless `stop` is set; return the rows deleted of each table.

        Raises `DatabaseUnavailable`; what was deleted until then stays deleted.
        """
        now = self._clock.now()
        usual = now - timedelta(days=self._rules.days)
        failures = now - timedelta(days=self._rules.failure_days)
        deletions = {
            "executions": (statement("delete_old_executions"), (usual, failures)),
            "actions": (statement("delete_old_actions"), (failures,)),
            "commands": (statement("delete_old_commands"), (failures,)),
            "margin_history": (statement("delete_old_margin_history"), (usual,)),
            "notifications": (statement("delete_old_notifications"), (usual, failures)),
        }
        return {
            table: await self._delete(sql, arguments, stop)
            for table, (sql, arguments) in deletions.items()
        }

    async def _delete(self, sql: str, arguments: tuple[object, ...], stop: asyncio.Event) -> int:
        deleted = 0
        while not stop.is_set():
            rows = await self._delete_batch(sql, arguments)
            deleted += rows
            if rows < self._rules.batch_rows or await sleep_or_stop(self._rules.pause_s, stop):
                break
        return deleted

    async def _delete_batch(self, sql: str, arguments: tuple[object, ...]) -> int:
        """Delete one batch in a transaction of its own, on a connection that is given back."""
        pool = self._link.pool
        if pool is None:
            raise DatabaseUnavailable("the database has not answered yet")
        try:
            with self._link.timed("retention"):
                async with asyncio.timeout(_BATCH_TIMEOUT_S), acquired(pool) as connection:
                    tag = await connection.execute(sql, *arguments, self._rules.batch_rows)
        except TimeoutError as error:
            raise DatabaseUnavailable(
                f"the database: deleting took longer than {_BATCH_TIMEOUT_S:g} s"
            ) from error
        return int(tag.removeprefix("DELETE "))
