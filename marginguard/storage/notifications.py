"""The outbox in the database, with a file that steps in while the database is away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from marginguard.aio import sleep_or_stop
from marginguard.domain.errors import DatabaseUnavailable, Malformed
from marginguard.domain.notification import Notification, NotificationKey
from marginguard.storage.codec import json_rows
from marginguard.storage.database import Connection, Pool, acquired
from marginguard.storage.link import DatabaseLink
from marginguard.storage.notification_rows import decode, newest, row_of
from marginguard.storage.notification_spool import NotificationSpool
from marginguard.storage.records import REFUSALS, RecordsRefusedError
from marginguard.storage.sql_files import statement

SPOOL_NAME: Final = "outbox.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class NotificationStoreSettings:
    """Times in seconds. `capacity` bounds what waits for the database; critical ones always do.

    `save_timeout_s` is how long a save waits for the database before the file is used.
    """

    save_timeout_s: float = 1.0
    flush_timeout_s: float = 5.0
    interval_s: float = 1.0
    read_timeout_s: float = 5.0
    capacity: int = 10_000


class NotificationStore:
    """Implements `ports.OutboxStore` on the shared link and a file in the state directory."""

    def __init__(
        self,
        link: DatabaseLink,
        *,
        state_dir: Path,
        settings: NotificationStoreSettings | None = None,
    ) -> None:
        self._link = link
        self._settings = settings or NotificationStoreSettings()
        self._spool = NotificationSpool(state_dir / SPOOL_NAME)
        self._unsaved: dict[NotificationKey, Notification] = {}
        self._down = False
        self._log = structlog.get_logger()

    async def save(self, rows: Sequence[Notification]) -> None:
        """Keep the rows in the database, or on the disk while that is away."""
        self._note(rows)
        # A database that hangs costs its time-out once; from then on `run` tries.
        if not self._down and await self._flush(self._settings.save_timeout_s):
            return
        await self._spool.keep(self._waiting)

    async def run(self, stop: asyncio.Event) -> None:
        """Write what waits for the database until `stop` is set, and once more then."""
        while not await sleep_or_stop(self._settings.interval_s, stop):
            await self._flush(self._settings.flush_timeout_s)
        await self._flush(self._settings.save_timeout_s)

    async def left_behind(self) -> tuple[Notification, ...]:
        """Return what the file holds; it is written to the database as soon as that is there."""
        rows = await self._spool.read()
        self._note(rows)
        return rows

    async def unfinished(self, *, resent_only: bool = False) -> tuple[Notification, ...]:
        """Return the pending notifications and their likes; raises `DatabaseUnavailable`."""
        found = []
        async with self._reading() as lent:
            rows = await lent.fetch(statement("select_unfinished_notifications"), resent_only)
        for row in rows:
            try:
                found.append(decode(row[0].encode()))
            except Malformed as error:
                self._log.warning(
                    "notify.unreadable",
                    error=str(error),
                    advice="it was written by another version of marginguard and is not sent",
                )
        return tuple(newest([*found, *self._unsaved.values()]))

    async def delivered_since(self, since: datetime) -> Sequence[tuple[str, str, datetime]]:
        """Return user, channel and time of each delivery; raises `DatabaseUnavailable`."""
        async with self._reading() as lent:
            rows = await lent.fetch(statement("select_delivered_since"), since)
        return [(row["user_id"], row["channel"], row["settled_at"]) for row in rows]

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        """Lend a connection to read by, in time; raises `DatabaseUnavailable`."""
        pool = self._pool()
        with self._link.timed("read_notifications"):
            async with _in_time(self._settings.read_timeout_s), acquired(pool) as connection:
                yield connection

    def _pool(self) -> Pool:
        if self._link.pool is None:
            raise DatabaseUnavailable("the database has not answered yet")
        return self._link.pool

    def _note(self, rows: Sequence[Notification]) -> None:
        for row in newest([*self._unsaved.values(), *rows]):
            self._unsaved[row.key] = row
        for key in self._superfluous():
            del self._unsaved[key]

    def _superfluous(self) -> list[NotificationKey]:
        """Return what to forget of too many: the oldest, settled ones first, no critical ones."""
        excess = len(self._unsaved) - self._settings.capacity
        if excess <= 0:
            return []
        common = [row for row in self._unsaved.values() if not row.critical]
        common.sort(key=lambda row: (row.pending, row.created_at))
        return [row.key for row in common[:excess]]

    def _waiting(self) -> Sequence[Notification]:
        return list(self._unsaved.values())

    async def _flush(self, timeout_s: float) -> bool:
        """Write what waits; returns whether the database has it."""
        rows = self._waiting()
        if not rows:
            return True
        try:
            pool = self._pool()
            with self._link.timed("write_notifications"):
                async with _in_time(timeout_s):
                    await self._write(pool, rows)
        except DatabaseUnavailable as error:
            # The drain tells of the outage.
            self._down = True
            self._log.debug("notify.not_saved", error=str(error))
            return False
        self._down = False
        for row in rows:
            if self._unsaved.get(row.key) is row:
                del self._unsaved[row.key]
        await self._spool.keep(self._waiting)
        return True

    async def _write(self, pool: Pool, rows: Sequence[Notification]) -> None:
        try:
            await upsert(pool, rows)
        except RecordsRefusedError:
            for row in rows:
                try:
                    await upsert(pool, [row])
                except RecordsRefusedError as error:
                    # It would be refused again for ever. It is sent all the same.
                    self._log.error(
                        "notify.row_refused",
                        id=str(row.id),
                        channel=row.channel,
                        error=str(error),
                        advice="status lacks this notification; report it as a bug of marginguard",
                    )


@contextlib.asynccontextmanager
async def _in_time(timeout_s: float) -> AsyncIterator[None]:
    """Bound the block; raises `DatabaseUnavailable` when it takes longer."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise DatabaseUnavailable(f"the database: no answer within {timeout_s:g} s") from error


async def upsert(pool: Pool, rows: Sequence[Notification]) -> None:
    """Write the rows, each key once, in one transaction.

    Raises `DatabaseUnavailable`, after which it may have been committed or not, and
    `RecordsRefusedError` when at least one row has a value that the schema does not allow.
    """
    async with acquired(pool) as connection:
        try:
            await connection.execute(
                statement("upsert_notifications"), json_rows([row_of(row) for row in rows])
            )
        except REFUSALS as error:
            raise RecordsRefusedError(f"{type(error).__name__}: {error.args[0]}") from error


async def resend_failed(
    connection: Connection, *, since: datetime, now: datetime
) -> tuple[NotificationKey, ...]:
    """Set pending again what was given up at or after `since`; return which those are.

    A daemon that runs sends them within seconds, each saying when it was meant.
    """
    rows = await connection.fetch(statement("resend_failed_notifications"), since, now)
    return tuple(NotificationKey(row["id"], row["user_id"], row["channel"]) for row in rows)
