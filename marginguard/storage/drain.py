"""From the journal to the database: in order, in batches, through every outage."""

import asyncio
import os
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import structlog

from marginguard.aio import sleep_or_stop
from marginguard.domain.errors import DatabaseUnavailable
from marginguard.domain.records import Record
from marginguard.ports import Clock
from marginguard.storage import codec, records
from marginguard.storage.database import Pool, acquired
from marginguard.storage.journal import Batch, FileJournal
from marginguard.storage.journal_file import Entry
from marginguard.storage.link import DatabaseLink

_FIRST_BACKOFF_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class DrainSettings:
    """How the drain works: records a batch, and times in seconds.

    `idle_check_s` is how often a database without work is asked whether it is still there;
    `last_drain_s` bounds what is done after the stop.
    """

    batch_records: int = 500
    batch_timeout_s: float = 5.0
    max_backoff_s: float = 5.0
    idle_check_s: float = 10.0
    last_drain_s: float = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DrainState:
    """Whether the database follows. Both times are None until it is known for the first time.

    `backlog` is the number of records that it does not hold yet.
    """

    connected_since: datetime | None
    down_since: datetime | None
    last_error: str | None
    backlog: int


class Drain:
    """Copies the journal's records to the database.

    A record may be written twice, after an ambiguous commit or a crash, which changes nothing.
    One that the database will never take is put into `refused`, loudly, and the rest goes on.
    """

    def __init__(
        self,
        journal: FileJournal,
        link: DatabaseLink,
        *,
        refused: Path,
        clock: Clock,
        settings: DrainSettings | None = None,
    ) -> None:
        self._log = structlog.get_logger()
        self._journal = journal
        self._link = link
        self._refused = refused
        self._clock = clock
        self._settings = settings or DrainSettings()
        self._connected_since: datetime | None = None
        self._down_since: datetime | None = None
        self._last_error: str | None = None
        self._outage_began_s: float | None = None
        self._drained_since_outage = 0

    @property
    def state(self) -> DrainState:
        """Whether the database follows, and how far behind it is."""
        return DrainState(
            connected_since=self._connected_since,
            down_since=self._down_since,
            last_error=self._last_error,
            backlog=self._journal.backlog,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Drain until `stop` is set, and then what is left, as far as a short time allows.

        Raises `ConfigError` when the database answers for the first time and its URL, version
        or schema is wrong.
        """
        try:
            async with asyncio.timeout(None) as limit:
                watch = asyncio.create_task(self._limit_after(stop, limit), name="drain-limit")
                try:
                    await self._work(stop)
                finally:
                    watch.cancel()
        except TimeoutError:
            self._last_error = "no time was left to drain before the stop"
        if self._journal.backlog:
            self._log.warning(
                "drain.unfinished",
                backlog=self._journal.backlog,
                advice="nothing is lost: the journal keeps the records for the next start",
            )

    async def _limit_after(self, stop: asyncio.Event, limit: asyncio.Timeout) -> None:
        await stop.wait()
        limit.reschedule(asyncio.get_running_loop().time() + self._settings.last_drain_s)

    async def _work(self, stop: asyncio.Event) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            stopping = stop.is_set()
            try:
                caught_up = await self._drain_one_batch()
            except DatabaseUnavailable as error:
                self._note_down(error)
                if stopping:
                    return
                await sleep_or_stop(backoff_s, stop)
                backoff_s = min(2 * backoff_s, self._settings.max_backoff_s)
                continue
            backoff_s = _FIRST_BACKOFF_S
            if caught_up:
                self._note_caught_up()
                if stopping:
                    return
                await self._wait_for_records(stop)

    async def _drain_one_batch(self) -> bool:
        """Drain at most one batch, or just look whether the database answers.

        Returns whether that was all. Raises `DatabaseUnavailable`.
        """
        pool = await self._link.connect()
        batch = await self._journal.read_undrained(self._settings.batch_records)
        if batch.entries:
            await self._store(pool, batch)
        else:
            with self._link.timed("ping"):
                await self._in_time(_ping(pool))
        self._note_up()
        self._journal.drained(batch)
        self._drained_since_outage += len(batch.entries)
        return len(batch.entries) < self._settings.batch_records

    async def _store(self, pool: Pool, batch: Batch) -> None:
        try:
            await self._apply(pool, [entry.record for entry in batch.entries])
        except records.RecordsRefusedError:
            for entry in batch.entries:
                try:
                    await self._apply(pool, [entry.record])
                except records.RecordsRefusedError as error:
                    await self._keep_aside(entry, str(error))

    async def _apply(self, pool: Pool, batch: Sequence[Record]) -> None:
        with self._link.timed("drain"):
            await self._in_time(records.apply(pool, batch))

    async def _in_time(self, call: Coroutine[Any, Any, None]) -> None:
        timeout_s = self._settings.batch_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await call
        except TimeoutError as error:
            raise DatabaseUnavailable(f"the database: no answer within {timeout_s:g} s") from error

    async def _keep_aside(self, entry: Entry, reason: str) -> None:
        record = codec.encode(entry.record).decode()
        line = orjson.dumps({"seq": entry.seq, "error": reason, "record": record}) + b"\n"
        kept_in = str(self._refused)
        try:
            await asyncio.to_thread(_append_durably, self._refused, line)
        except OSError as error:
            kept_in = f"this log line alone: {record} ({error})"
        self._log.critical(
            "drain.record_refused",
            seq=entry.seq,
            error=reason,
            kept_in=kept_in,
            advice="the database lacks this record; report it as a bug of marginguard",
        )

    async def _wait_for_records(self, stop: asyncio.Event) -> None:
        waits = (
            asyncio.create_task(stop.wait()),
            asyncio.create_task(self._journal.undrained.wait()),
        )
        try:
            await asyncio.wait(
                waits,
                timeout=self._settings.idle_check_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for wait in waits:
                wait.cancel()

    def _note_up(self) -> None:
        if self._connected_since is None:
            self._connected_since = self._clock.now()
            self._down_since = None
            self._journal.database_down(down=False)

    def _note_down(self, error: DatabaseUnavailable) -> None:
        self._last_error = str(error)
        if self._down_since is not None:
            return
        self._down_since = self._clock.now()
        self._connected_since = None
        self._outage_began_s = self._clock.monotonic()
        self._drained_since_outage = 0
        self._journal.database_down(down=True)
        self._log.warning(
            "database.unavailable",
            error=str(error),
            backlog=self._journal.backlog,
            advice="check that PostgreSQL runs and that [database] url reaches it; guarding goes"
            " on, and the journal keeps the records until it is back",
        )

    def _note_caught_up(self) -> None:
        if self._outage_began_s is not None:
            self._log.info(
                "database.recovered",
                drained=self._drained_since_outage,
                down_s=round(self._clock.monotonic() - self._outage_began_s, 1),
            )
            self._outage_began_s = None


async def _ping(pool: Pool) -> None:
    async with acquired(pool) as connection:
        await connection.execute("SELECT 1")


def _append_durably(path: Path, line: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "ab") as file:
        file.write(line)
        file.flush()
        os.fsync(fd)
