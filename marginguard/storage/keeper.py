"""The database's life: started or found, connected, migrated, fed, and started again."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import structlog

from marginguard.aio import sleep_or_stop
from marginguard.domain.errors import ConfigError, DatabaseUnavailable
from marginguard.domain.records import Record
from marginguard.storage.database import Pool, close_pool, open_pool
from marginguard.storage.drain import Drain
from marginguard.storage.embedded import EmbeddedServer
from marginguard.storage.journal import FileJournal
from marginguard.storage.migrate import migrate
from marginguard.storage.observations import BufferedObservations
from marginguard.storage.records import remembered

BACKOFF_S: Final = 0.2
MAX_BACKOFF_S: Final = 5.0
REFUSED_RETRY_S: Final = 30.0
_CLOSE_TIMEOUT_S: Final = 2.0


class DatabaseKeeper:
    """Keeps the records flowing into the server at `url`, or into the embedded one.

    Nothing that guards waits for it.
    """

    def __init__(self, *, url: str | None, state_dir: Path, journal: FileJournal) -> None:
        self._url = url
        self._journal = journal
        self._server = None if url is not None else EmbeddedServer(state_dir=state_dir)
        self._drain = Drain(journal, refused=state_dir / "refused.jsonl")
        self._pool: "Pool | None" = None
        self._connected = asyncio.Event()
        self._log = structlog.get_logger()
        self.observations = BufferedObservations()
        """Where to put what is seen; it is written while the database is there."""

    async def run(self, stop: asyncio.Event) -> None:
        """Connect, however long it takes, and feed the database until `stop` is set.

        Raises `ConfigError` if the very first attempt shows that the configuration is no good;
        once guards may be at work, that is only logged and tried again.
        """
        self._journal.database_down(down=True)
        async with AsyncExitStack() as stack:
            if self._server is not None:
                stack.push_async_callback(self._server.stop)
            pool = await self._connect(stop)
            if pool is None:
                return
            stack.push_async_callback(close_pool, pool, timeout_s=_CLOSE_TIMEOUT_S)
            self._log.info("database.connected", embedded=self._server is not None)
            self._journal.database_down(down=False)
            self._pool = pool
            self._connected.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._drain.run(pool, stop), name="drain")
                group.create_task(self.observations.run(pool, stop), name="observations")
                if self._server is not None:
                    group.create_task(self._keep_alive(self._server, stop), name="embedded")

    async def remembered(self) -> tuple[Record, ...]:
        """Return what the database remembers of an earlier life, as soon as it is connected.

        Raises `DatabaseUnavailable` or `Malformed`.
        """
        await self._connected.wait()
        if self._pool is None:
            raise DatabaseUnavailable("the database is not connected")
        return await remembered(self._pool)

    async def _connect(self, stop: asyncio.Event) -> "Pool | None":
        """Try until it works; None if `stop` comes first."""
        delay_s = BACKOFF_S
        attempts = 0
        while not stop.is_set():
            attempts += 1
            try:
                return await self._try_to_connect()
            except ConfigError as error:
                if attempts == 1:
                    raise
                delay_s = REFUSED_RETRY_S
                self._log.critical(
                    "database.refused",
                    error=str(error),
                    advice="guarding goes on without the database; correct this and restart",
                )
            except DatabaseUnavailable as error:
                if attempts == 1:
                    self._log.warning(
                        "database.unavailable",
                        error=str(error),
                        advice="guarding goes on and the journal keeps every record; bring it back",
                    )
                delay_s = min(MAX_BACKOFF_S, 2 * delay_s)
            await sleep_or_stop(delay_s, stop)
        return None

    async def _try_to_connect(self) -> Pool:
        url = self._url
        if self._server is not None:
            url = await self._server.start()
        assert url is not None  # noqa: S101 - there is a URL or a server of our own
        pool = await open_pool(url)
        try:
            await migrate(pool)
        except BaseException:
            pool.terminate()
            raise
        return pool

    async def _keep_alive(self, server: EmbeddedServer, stop: asyncio.Event) -> None:
        """Start the embedded server again when it ends by itself; returns once `stop` is set."""
        delay_s = BACKOFF_S
        while not await _ended_before(server, stop):
            self._log.warning(
                "database.embedded_ended",
                advice="it is started again; if this repeats, see its log in the state directory",
            )
            try:
                await server.start()
                delay_s = BACKOFF_S
            except (ConfigError, DatabaseUnavailable) as error:
                self._log.warning("database.embedded_not_started", error=str(error))
                await sleep_or_stop(delay_s, stop)
                delay_s = min(MAX_BACKOFF_S, 2 * delay_s)


async def _ended_before(server: EmbeddedServer, stop: asyncio.Event) -> bool:
    """Wait until the server ends or `stop` is set; return whether `stop` is."""
    waits = {
        asyncio.ensure_future(server.wait_ended()),
        asyncio.ensure_future(stop.wait()),
    }
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return stop.is_set()
