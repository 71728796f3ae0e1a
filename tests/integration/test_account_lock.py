"""One daemon for an account, on one machine and over a real PostgreSQL; Failures 26 and 27."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from marginguard.aio import SystemClock
from marginguard.storage.account_lock import AccountLocks, LockTimings
from marginguard.storage.holder import Holder
from marginguard.storage.host_lock import account_digest
from tests.integration.relay import relayed

PATIENCE_S = 30.0
QUICK = LockTimings(
    check_every_s=0.05, answer_within_s=0.5, stale_after_s=1.6, takeover_after_s=1.6
)
CALM = LockTimings(check_every_s=PATIENCE_S, stale_after_s=100.0, takeover_after_s=100.0)
DIGESTS = {"main": account_digest("https://a/v3", "key"), "other": account_digest("https://b", "k")}


class SteppedClock(SystemClock):
    """The machine's clock, that can be set forward: the process was frozen."""

    def __init__(self):
        self.frozen_s = 0.0

    def monotonic(self):
        return super().monotonic() + self.frozen_s


class Daemon:
    """The locks of one daemon, and what it was told of them."""

    def __init__(self, directory, url, *, host="here", timings=QUICK, accounts=DIGESTS):
        directory.mkdir(exist_ok=True)
        self.clock = SteppedClock()
        self.reasons = {}
        self.changes = []
        self.changed = asyncio.Event()
        self.stop = asyncio.Event()
        self.task = None
        self.locks = AccountLocks(
            accounts,
            directory=directory,
            url=url,
            ourselves=Holder(
                pid=os.getpid(), host=host, token=f"{id(self):08x}"[-8:], since=datetime.now(UTC)
            ),
            clock=self.clock,
            on_change=self.on_change,
            timings=timings,
        )

    def on_change(self, account_id, reason):
        self.reasons[account_id] = reason
        self.changes.append((account_id, reason))
        self.changed.set()

    async def until(self, account_id, *, acts):
        async with asyncio.timeout(PATIENCE_S):
            while account_id not in self.reasons or (self.reasons[account_id] is None) != acts:
                self.changed.clear()
                await self.changed.wait()

    async def end(self):
        """Stop in order, the locks last."""
        self.stop.set()
        if self.task is not None:
            async with asyncio.timeout(PATIENCE_S):
                await self.task
        self.locks.close()

    @asynccontextmanager
    async def running(self):
        await self.locks.start()
        self.task = asyncio.create_task(self.locks.run(self.stop))
        try:
            yield self
        finally:
            await self.end()


async def end_sessions(url, host):
    """End the sessions of a daemon as the server's operator may; return how many there were."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name LIKE 'marginguard % ' || $1",
            host,
        )
    finally:
        await connection.close()


async def until_ended_again(url, host):
    """Wait for the next session of a daemon, and end that too."""
    while True:
        if await end_sessions(url, host):
            return
        await asyncio.sleep(0.01)


async def lock_elsewhere(url, digest):
    """Hold an account's lock in a session that is no daemon's."""
    connection = await asyncpg.connect(url)
    key = int.from_bytes(bytes.fromhex(digest)[:8], "big", signed=True)
    assert await connection.fetchval("SELECT pg_try_advisory_lock($1)", key)
    return connection


async def test_without_a_shared_database_the_lock_of_the_machine_decides(tmp_path):
    """Failure 27: one acts, and the other says who holds it, and takes over from it."""
    async with Daemon(tmp_path, None).running() as first:
        assert first.reasons == {"main": None, "other": None}
        async with Daemon(tmp_path, None).running() as second:
            assert f"pid {os.getpid()}" in second.reasons["main"]
            assert await second.locks.barred("main") == second.reasons["main"]
            assert await first.locks.barred("main") is None
            await first.end()
            await second.until("main", acts=True)
            assert await second.locks.barred("main") is None


async def test_accounts_of_one_database_can_be_divided_among_daemons(tmp_path, database_url):
    one = Daemon(tmp_path / "1", database_url, accounts={"main": DIGESTS["main"]})
    two = Daemon(tmp_path / "2", database_url, accounts={"other": DIGESTS["other"]})
    async with one.running(), two.running():
        assert (one.reasons, two.reasons) == ({"main": None}, {"other": None})


async def test_a_second_daemon_elsewhere_stands_by_and_names_the_first(tmp_path, database_url):
    """Failure 27: seen through the database alone, as from another machine."""
    async with Daemon(tmp_path / "1", database_url, host="first-host").running() as first:
        with capture_logs() as logs:
            async with Daemon(tmp_path / "2", database_url).running() as second:
                reason = second.reasons["main"]
                assert first.reasons["main"] is None
    assert f"pid {os.getpid()}, host first-host, since 20" in reason
    assert "stands by" in reason
    standing_by = [entry for entry in logs if entry["event"] == "account.standing_by"]
    assert {entry["account"] for entry in standing_by} == {"main", "other"}
    assert all(entry["log_level"] == "warning" for entry in standing_by)


async def test_the_one_that_stands_by_takes_over_once_the_lock_has_been_free_for_long_enough(
    tmp_path, database_url
):
    """Failure 27: by then the last holder has looked again, and has stopped."""
    first = Daemon(tmp_path / "1", database_url)
    async with first.running():
        second = Daemon(tmp_path / "2", database_url)
        async with second.running():
            await second.until("main", acts=False)
            freed_s = first.clock.monotonic()
            await first.end()
            await second.until("main", acts=True)
            assert second.clock.monotonic() - freed_s >= QUICK.takeover_after_s


async def test_a_holder_whose_session_is_ended_takes_its_locks_back_before_anybody_else(
    tmp_path, database_url
):
    first = Daemon(tmp_path / "1", database_url, host="first-host")
    second = Daemon(tmp_path / "2", database_url)
    async with first.running(), second.running():
        assert await end_sessions(database_url, "first-host") == 1
        async with asyncio.timeout(PATIENCE_S):
            await until_ended_again(database_url, "first-host")
        first.clock.frozen_s += 2 * QUICK.stale_after_s
        assert await first.locks.barred("main") is None
        assert await second.locks.barred("main") is not None
    assert [reason for _, reason in first.changes] == [None, None], "it was never barred"


async def test_a_lock_that_was_lost_to_another_bars_loudly_until_it_is_regained(
    tmp_path, database_url
):
    """Failure 27: the connection was cut, and another was faster."""
    async with relayed(database_url) as relay:
        first = Daemon(tmp_path / "1", relay.url, host="first-host")
        async with first.running():
            await relay.cut()
            other = await until_locked_elsewhere(database_url)
            with capture_logs() as logs:
                await relay.heal()
                await first.until("main", acts=False)
            lost = [entry for entry in logs if entry["event"] == "account.lock_lost"]
            assert [(entry["account"], entry["log_level"]) for entry in lost] == [
                ("main", "critical")
            ]
            assert "pid unknown" in first.reasons["main"]
            assert first.reasons["other"] is None, "the other account is still its own"
            await other.close()
            await first.until("main", acts=True)


async def until_locked_elsewhere(url):
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await lock_elsewhere(url, DIGESTS["main"])
            except AssertionError:  # the server has not noticed yet that the holder is gone
                await asyncio.sleep(0.01)


async def test_a_database_that_goes_away_stops_nobody_who_acts(tmp_path, database_url):
    """Failure 28: the machine's lock suffices, and whoever stands by goes on standing by."""
    async with relayed(database_url) as relay:
        first = Daemon(tmp_path / "1", relay.url)
        async with first.running():
            second = Daemon(tmp_path / "2", relay.url)
            async with second.running():
                await relay.cut()
                for daemon in (first, second):
                    daemon.clock.frozen_s += 2 * QUICK.stale_after_s
                assert await first.locks.barred("main") is None
                assert "another marginguard" in await second.locks.barred("main")


async def test_a_database_that_is_away_at_start_stops_nobody(tmp_path):
    """Failure 28: and the start does not wait long for it."""
    url = f"postgresql://me@/db?host={tmp_path}"
    async with Daemon(tmp_path / "1", url).running() as daemon:
        assert daemon.reasons == {"main": None, "other": None}
        assert await daemon.locks.barred("main") is None


async def test_a_database_that_hangs_stops_nobody_and_holds_nobody_up_for_long(
    tmp_path, database_url
):
    """Failure 28: asked after a freeze, it gets its time and no more."""
    async with relayed(database_url) as relay:
        daemon = Daemon(tmp_path / "1", relay.url)
        async with daemon.running():
            relay.hang()
            daemon.clock.frozen_s += 2 * QUICK.stale_after_s
            async with asyncio.timeout(10 * QUICK.answer_within_s):
                assert await daemon.locks.barred("main") is None
            await relay.heal()
            # What is left of the hung session, which had the locks, does not bar it.
            daemon.clock.frozen_s += 2 * QUICK.stale_after_s
            assert await daemon.locks.barred("main") is None
        assert [reason for _, reason in daemon.changes] == [None, None]


async def test_an_earlier_session_of_its_own_that_cannot_be_ended_bars_nobody(
    tmp_path, database_url
):
    """Failure 28: the server's process hangs and keeps the locks until it goes on."""
    daemon = Daemon(tmp_path / "1", database_url, host="hung-host")
    async with daemon.running():
        (backend,) = await backends_of(database_url, "hung-host")
        os.kill(backend, signal.SIGSTOP)
        try:
            daemon.clock.frozen_s += 2 * QUICK.stale_after_s
            assert await daemon.locks.barred("main") is None
            assert len(await backends_of(database_url, "hung-host")) == 2
        finally:
            os.kill(backend, signal.SIGCONT)
    assert [reason for _, reason in daemon.changes] == [None, None]


async def backends_of(url, host):
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'marginguard % ' || $1",
            host,
        )
    finally:
        await connection.close()
    return [row["pid"] for row in rows]


async def test_after_a_freeze_the_lock_is_asked_for_again_before_anything_is_sent(
    tmp_path, database_url
):
    """Failure 26: meanwhile the connection was cut and another took the lock."""
    async with relayed(database_url) as relay:
        daemon = Daemon(tmp_path / "1", relay.url, timings=CALM)
        async with daemon.running():
            await relay.cut()
            other = await until_locked_elsewhere(database_url)
            daemon.locks._wake.clear()  # frozen: it has not heard of the cut
            await relay.heal()
            daemon.clock.frozen_s += 2 * CALM.stale_after_s
            assert "another marginguard" in await daemon.locks.barred("main")
            assert await daemon.locks.barred("other") is None
            await other.close()


async def test_asked_shortly_after_a_look_it_answers_without_the_database(tmp_path, database_url):
    async with relayed(database_url) as relay:
        daemon = Daemon(tmp_path / "1", relay.url, timings=CALM)
        async with daemon.running():
            relay.hang()
            async with asyncio.timeout(CALM.answer_within_s):
                assert await daemon.locks.barred("main") is None
            assert not relay.held_back.is_set(), "the database was not asked"


async def test_the_machines_lock_is_looked_at_each_time(tmp_path):
    """Failure 26: its file was removed, and another daemon has locked a new one."""
    daemon = Daemon(tmp_path, None, timings=CALM)
    async with daemon.running():
        for file in tmp_path.iterdir():
            file.unlink()
        async with Daemon(tmp_path, None).running():
            assert "of this machine" in await daemon.locks.barred("main")
            assert "of this machine" in daemon.reasons["main"]


async def test_a_daemon_barred_by_its_machine_does_not_keep_the_databases_lock_from_others(
    tmp_path, database_url
):
    holder = Daemon(tmp_path / "1", None)
    async with holder.running():
        barred = Daemon(tmp_path / "1", database_url)
        async with barred.running(), Daemon(tmp_path / "2", database_url).running() as elsewhere:
            assert barred.reasons["main"] is not None
            assert elsewhere.reasons["main"] is None


async def test_an_unusable_lock_directory_is_loud_and_guarding_goes_on(tmp_path):
    daemon = Daemon(tmp_path / "gone", None)
    (tmp_path / "gone").rmdir()
    with capture_logs() as logs:
        async with daemon.running():
            assert daemon.reasons == {"main": None, "other": None}
            assert await daemon.locks.barred("main") is None
    events = [(entry["event"], entry["log_level"]) for entry in logs]
    assert events.count(("account.lock_unusable", "error")) == 1
    assert ("account.lock_directory", "warning") in events


@pytest.mark.parametrize(
    "times", [{"stale_after_s": 16.0}, {"check_every_s": 10.0}, {"takeover_after_s": 14.0}]
)
def test_times_with_which_two_daemons_could_act_at_once_are_refused(times):
    with pytest.raises(ValueError, match="must"):
        LockTimings(**times)


PROGRAM = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from marginguard import logs
from marginguard.aio import SystemClock
from marginguard.storage.account_lock import AccountLocks, LockTimings
from marginguard.storage.holder import Holder

async def main():
    logs.configure(environ={})
    directory, url, digest = sys.argv[1:]
    locks = AccountLocks(
        {"main": digest}, directory=Path(directory), url=url, clock=SystemClock(),
        ourselves=Holder.ourselves(config=Path("/c.toml"), since=datetime.now(UTC)),
        on_change=lambda account_id, reason: print("acts" if reason is None else "barred"),
        timings=LockTimings(check_every_s=0.05, answer_within_s=0.5, stale_after_s=1.6,
                            takeover_after_s=1.6),
    )
    await locks.start()
    stop = asyncio.Event()
    running = asyncio.create_task(locks.run(stop))
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print("may act" if await locks.barred("main") is None else "may not act")

asyncio.run(main())
"""


class Process:
    """A daemon's locks in a process of its own, asked by a line each time."""

    def __init__(self, process):
        self._process = process
        self.pid = process.pid

    @classmethod
    @asynccontextmanager
    async def running(cls, directory, url):
        directory.mkdir(exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-u", "-c", PROGRAM, str(directory), url, DIGESTS["main"],
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            yield cls(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def says(self, words):
        async with asyncio.timeout(PATIENCE_S):
            line = await self._process.stdout.readline()
        assert line.decode().strip() == words

    def ask(self):
        self._process.stdin.write(b"?\n")

    def freeze(self):
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self):
        os.kill(self.pid, signal.SIGCONT)

    async def killed(self):
        self._process.kill()
        await self._process.wait()


async def test_a_frozen_daemon_that_lost_its_lock_meanwhile_does_not_act_when_it_goes_on(
    tmp_path, database_url
):
    """Failures 26 and 27: a real process, stopped with SIGSTOP, and its connection ended."""
    here: Path = tmp_path / "1"
    async with Process.running(here, database_url) as frozen:
        await frozen.says("acts")
        frozen.ask()
        await frozen.says("may act")
        frozen.freeze()
        frozen.ask()
        assert await end_sessions(database_url, "%") >= 1
        elsewhere = Daemon(tmp_path / "2", database_url)
        async with elsewhere.running():
            await elsewhere.until("main", acts=True)
            await asyncio.sleep(QUICK.stale_after_s)  # how long it is frozen is what is tested
            frozen.thaw()
            await frozen.says("barred")
            await frozen.says("may not act")
            assert await elsewhere.locks.barred("main") is None


async def test_a_daemon_that_is_killed_is_succeeded_on_its_own_machine_at_once(
    tmp_path, database_url
):
    async with Process.running(tmp_path, database_url) as first:
        await first.says("acts")
        async with Process.running(tmp_path, database_url) as second:
            await second.says("barred")
            await first.killed()
            await second.says("acts")
