"""The database's life: started or found, connected, fed, and started again."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from marginguard.aio import sleep_or_stop, unless_stopped
from marginguard.domain.errors import ConfigError, DatabaseUnavailable
from marginguard.domain.records import ActionRecord, GuardState
from marginguard.ports import Clock
from marginguard.storage.database import acquired
from marginguard.storage.drain import Drain
from marginguard.storage.embedded import EmbeddedServer
from marginguard.storage.journal import FileJournal
from marginguard.storage.link import DatabaseLink
from marginguard.storage.notification_reading import untold_actions
from marginguard.storage.notifications import NotificationStore
from marginguard.storage.observations import DatabaseObservations
from marginguard.storage.records import load_guard_states, load_unsettled_actions
from marginguard.storage.retention import Retention, RetentionRules
from marginguard.storage.timing import OnWork, unmeasured

BACKOFF_S: Final = 0.2
MAX_BACKOFF_S: Final = 5.0
REFUSED_RETRY_S: Final = 30.0
_CLOSE_TIMEOUT_S: Final = 2.0


class DatabaseKeeper:
    """Keeps the records flowing into the server at `url`, or into the embedded one.

    Nothing that guards waits for it. `on_work` hears of all its work on the database.
    """

    def __init__(
        self,
        *,
        url: str | None,
        state_dir: Path,
        journal: FileJournal,
        clock: Clock,
        retention: RetentionRules | None = None,
        on_work: OnWork = unmeasured,
    ) -> None:
        self._journal = journal
        self._server = EmbeddedServer(state_dir=state_dir) if url is None else None
        where = self._server.start if self._server is not None else url or ""
        self._link = DatabaseLink(where, on_work=on_work)
        self._drain = Drain(journal, self._link, refused=state_dir / "refused.jsonl", clock=clock)
        self._retention = Retention(self._link, clock=clock, rules=retention or RetentionRules())
        self.notifications = NotificationStore(self._link, state_dir=state_dir)
        """Where to keep what users are told."""
        self._log = structlog.get_logger()
        self.observations = DatabaseObservations(self._link)
        """Where to put what is seen; it is written while the database is there."""

    async def run(self, stop: asyncio.Event) -> None:
        """Connect, however long it takes, and feed the database until `stop` is set.

        Raises `ConfigError` if the very first attempt shows that the configuration is no good;
        once guards may be at work, that is only logged and tried again.
        """
        self._journal.database_down(down=True)
        try:
            try:
                await unless_stopped(self._link.connect(), stop)
            except DatabaseUnavailable:
                pass  # the drain says so, and goes on trying
            else:
                self._journal.database_down(down=False)
                self._log.info("database.connected", embedded=self._server is not None)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_draining(stop), name="drain")
                group.create_task(self.observations.run(stop), name="observations")
                group.create_task(self._retention.run(stop), name="retention")
                group.create_task(self.notifications.run(stop), name="notifications")
                if self._server is not None:
                    group.create_task(self._keep_alive(self._server, stop), name="embedded")
        finally:
            await self._link.close(timeout_s=_CLOSE_TIMEOUT_S)
            if self._server is not None:
                await self._server.stop()

    async def remembered(self) -> tuple[GuardState | ActionRecord, ...]:
        """Return what the database remembers of an earlier life: states and unsettled actions.

        Raises `DatabaseUnavailable`, `ConfigError`, or `Malformed` for rows of another version.
        """
        pool = await self._link.connect()
        with self._link.timed("recall"):
            async with acquired(pool) as connection:
                return (
                    *await load_guard_states(connection),
                    *await load_unsettled_actions(connection),
                )

    async def untold(self, since: datetime) -> tuple[ActionRecord, ...]:
        """Return the actions that ended since then and that nobody has been told of.

        Raises `DatabaseUnavailable`, `ConfigError`, or `Malformed` for rows of another version.
        """
        pool = await self._link.connect()
        with self._link.timed("recall"):
            async with acquired(pool) as connection:
                return await untold_actions(connection, since)

    async def _keep_draining(self, stop: asyncio.Event) -> None:
        while True:
            try:
                await self._drain.run(stop)
            except ConfigError as error:
                self._log.critical(
                    "database.refused",
                    error=str(error),
                    advice="guarding goes on without the database; correct this and restart",
                )
            if await sleep_or_stop(REFUSED_RETRY_S, stop):
                return

    async def _keep_alive(self, server: EmbeddedServer, stop: asyncio.Event) -> None:
        """Start the embedded server again when it ends by itself; returns once `stop` is set."""
        delay_s = BACKOFF_S
        while True:
            if self._link.pool is not None:
                await unless_stopped(server.wait_ended(), stop)
            if await sleep_or_stop(delay_s, stop):
                return
            if self._link.pool is None:
                continue  # it has never run yet: connecting starts it
            self._log.warning(
                "database.embedded_ended",
                advice="it is started again; if this repeats, see its log in the state directory",
            )
            try:
                await unless_stopped(server.start(), stop)
                delay_s = BACKOFF_S
            except (ConfigError, DatabaseUnavailable) as error:
                self._log.warning("database.embedded_not_started", error=str(error))
                delay_s = min(MAX_BACKOFF_S, 2 * delay_s)
