"""From the journal to the database: in order, once each, whenever the database is there."""

import asyncio
from pathlib import Path
from typing import Final

import structlog

from marginguard.aio import sleep_or_stop
from marginguard.domain.errors import DatabaseUnavailable
from marginguard.storage import codec
from marginguard.storage.database import Pool
from marginguard.storage.journal import Batch, FileJournal
from marginguard.storage.journal_file import Entry
from marginguard.storage.records import RecordRefused, apply

BATCH: Final = 500
LAST_DRAIN_TIMEOUT_S: Final = 5.0
BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 5.0


class Drain:
    """Writes the journal's records to the database until it is stopped.

    `refused` takes, a line each, the records that the database will never take, so that one of
    them does not keep back all that follow.
    """

    def __init__(self, journal: FileJournal, *, refused: Path) -> None:
        self._journal = journal
        self._refused = refused
        self._backoff_s = 0.0
        self._log = structlog.get_logger()

    async def run(self, pool: Pool, stop: asyncio.Event) -> None:
        """Drain until `stop` is set, and then for a bounded time what is left."""
        while not stop.is_set():
            if not await self._undrained(stop):
                break
            if not await self._drain_once(pool):
                await sleep_or_stop(self._backoff_s, stop)
        try:
            async with asyncio.timeout(LAST_DRAIN_TIMEOUT_S):
                while self._journal.backlog and await self._drain_once(pool):
                    pass
        except TimeoutError:
            self._log.warning(
                "drain.unfinished",
                records=self._journal.backlog,
                advice="nothing is lost: the journal keeps them for the next start",
            )

    async def _undrained(self, stop: asyncio.Event) -> bool:
        """Wait for something to drain; False if `stop` comes first."""
        waits = {
            asyncio.ensure_future(self._journal.undrained.wait()),
            asyncio.ensure_future(stop.wait()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return not stop.is_set()

    async def _drain_once(self, pool: Pool) -> bool:
        """Drain one batch; False if the database does not take it."""
        batch = await self._journal.read_undrained(BATCH)
        try:
            await self._apply(pool, batch)
        except DatabaseUnavailable as error:
            self._note_down(error)
            return False
        self._journal.drained(batch)
        self._note_up()
        return True

    async def _apply(self, pool: Pool, batch: Batch) -> None:
        try:
            await apply(pool, [entry.record for entry in batch.entries])
        except RecordRefused:
            for entry in batch.entries:
                await self._apply_alone(pool, entry)

    async def _apply_alone(self, pool: Pool, entry: Entry) -> None:
        try:
            await apply(pool, [entry.record])
        except RecordRefused as error:
            with self._refused.open("ab") as file:
                file.write(codec.encode(entry.record) + b"\n")
            self._log.critical(
                "record.refused",
                seq=entry.seq,
                error=str(error),
                file=str(self._refused),
                advice="the record is kept in that file; please report this",
            )

    def _note_down(self, error: DatabaseUnavailable) -> None:
        if self._backoff_s == 0.0:
            self._journal.database_down(down=True)
            self._log.warning(
                "database.unavailable",
                error=str(error),
                advice="guarding goes on and the journal keeps every record; bring it back",
            )
        self._backoff_s = min(MAX_BACKOFF_S, max(BACKOFF_S, 2 * self._backoff_s))

    def _note_up(self) -> None:
        if self._backoff_s:
            self._log.info("database.recovered", backlog=self._journal.backlog)
            self._backoff_s = 0.0
        self._journal.database_down(down=False)
