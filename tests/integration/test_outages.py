"""A real server that freezes, dies and comes back while records are appended."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg

from marginguard.aio import SystemClock
from marginguard.domain.records import ActionStatus
from marginguard.storage import reading
from marginguard.storage.database import acquired
from marginguard.storage.embedded import running_server
from marginguard.storage.embedded_binaries import MAJOR
from marginguard.storage.embedded_files import Layout
from marginguard.storage.embedded_process import is_server_of
from marginguard.storage.journal import FileJournal
from marginguard.storage.keeper import DatabaseKeeper
from tests.records import an_action, an_execution, settled

LONG_S = 60.0
BEFORE_SENDING_S = 0.05


class Records:
    """Appends intents, outcomes and executions as a guard does, and knows what it appended."""

    def __init__(self, journal):
        self._journal = journal
        self.actions = {}
        self.executions = []

    async def append(self, count):
        for _ in range(count):
            action, execution = an_action(), an_execution()
            sent = replace(action, status=ActionStatus.SENT, sent_at=action.intended_at)
            done = settled(action)
            await self._journal.append(sent, patience_s=BEFORE_SENDING_S)
            await self._journal.append(done)
            await self._journal.append(execution)
            self.actions[done.id] = done
            self.executions.append(execution.id)


class Around:
    """A journal, the keeper of its database, and the server's processes."""

    def __init__(self, state_dir, journal, keeper):
        self._data = Layout(state_dir=state_dir.resolve(), major=MAJOR).data
        self.journal, self.keeper = journal, keeper
        self.records = Records(journal)

    def signal(self, number):
        """Send a signal to every process of the server."""
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
        for pid in pids:
            if is_server_of(pid, self._data):
                os.kill(pid, number)

    async def under_way(self, count):
        """Begin to append; return the task once the database has had some of it."""
        self.journal.progress.clear()
        appending = asyncio.create_task(self.records.append(count))
        async with asyncio.timeout(LONG_S):
            await self.journal.progress.wait()
        assert not appending.done()
        return appending

    async def caught_up(self):
        async with asyncio.timeout(LONG_S):
            while self.journal.backlog:
                self.journal.progress.clear()
                await self.journal.progress.wait()

    async def check(self):
        """See that the database holds what was appended: all of it, in order, once."""
        await self.caught_up()
        async with acquired(await self.keeper._link.connect()) as connection:
            stored = await reading.newest_actions(connection, 10_000)
            # Nothing is ever deleted here, so the rows lie in the order of their insertion.
            inserted = await connection.fetch("SELECT id FROM executions ORDER BY ctid")
            counted = await connection.fetchval("SELECT sum(executions) FROM guard_stats")
        assert {action.id: action for action in stored} == self.records.actions
        assert [row["id"] for row in inserted] == self.records.executions
        assert counted == len(self.records.executions)


class WatchedJournal(FileJournal):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.progress = asyncio.Event()
        self.known_down = asyncio.Event()

    def drained(self, batch):
        super().drained(batch)
        self.progress.set()

    def database_down(self, *, down):
        super().database_down(down=down)
        if down:
            self.known_down.set()
        else:
            self.known_down.clear()


@asynccontextmanager
async def keeping(state_dir):
    journal = await WatchedJournal.open(state_dir)
    keeper = DatabaseKeeper(url=None, state_dir=state_dir, journal=journal, clock=SystemClock())
    around = Around(state_dir, journal, keeper)
    stop = asyncio.Event()
    running = asyncio.create_task(keeper.run(stop))
    try:
        yield around
    finally:
        around.signal(signal.SIGCONT)
        stop.set()
        async with asyncio.timeout(LONG_S):
            await running
        await journal.close()


async def test_a_frozen_server_holds_up_no_intent_and_gets_everything_when_it_thaws(state_dir):
    """Failure 28: Postgres hung at the breach: act on the local journal, drain later."""
    async with keeping(state_dir) as around:
        await around.records.append(20)
        await around.caught_up()
        around.signal(signal.SIGSTOP)
        async with asyncio.timeout(LONG_S):
            while not around.journal.known_down.is_set():
                await around.records.append(1)
            await around.records.append(100)
        assert around.journal.backlog >= 300
        around.signal(signal.SIGCONT)
        await around.check()


async def test_a_server_killed_again_and_again_under_appends_lacks_nothing(state_dir):
    """Failure 32: Embedded server killed alone: starts again with every acknowledged row."""
    async with keeping(state_dir) as around:
        await around.records.append(1)
        await around.caught_up()
        for _ in range(3):
            killed = around.keeper._server.pid
            appending = await around.under_way(50)
            os.kill(killed, signal.SIGKILL)
            await appending
            await around.check()
            assert around.keeper._server.pid != killed


async def test_backends_that_are_killed_under_appends_cost_no_record(state_dir):
    """Failure 31: connections cut: the pool heals by itself."""
    async with keeping(state_dir) as around:
        await around.records.append(1)
        await around.caught_up()
        for _ in range(3):
            appending = await around.under_way(30)
            connection = await asyncpg.connect(running_server(state_dir))
            cut = await connection.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'marginguard'"
            )
            await connection.close()
            assert cut
            await appending
            await around.check()
