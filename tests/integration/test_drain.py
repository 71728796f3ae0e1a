"""From the journal to a real PostgreSQL, through everything that may go wrong on the way."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from marginguard.aio import SystemClock
from marginguard.domain.errors import ConfigError
from marginguard.domain.records import ActionStatus
from marginguard.storage import reading, records
from marginguard.storage.database import acquired
from marginguard.storage.drain import Drain, DrainSettings
from marginguard.storage.journal import FileJournal
from marginguard.storage.link import DatabaseLink
from tests.integration.relay import relayed
from tests.records import a_guard_state, an_action, an_execution, settled

LONG_S = 30.0
QUICK = DrainSettings(
    batch_records=7,
    batch_timeout_s=1.0,
    max_backoff_s=0.05,
    idle_check_s=LONG_S,
    last_drain_s=LONG_S,
)


class WatchedJournal(FileJournal):
    """Tells when the drain has caught up, and when it knows that the database is away."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.caught_up = asyncio.Event()
        self.known_down = asyncio.Event()

    def drained(self, batch):
        super().drained(batch)
        if not self.backlog:
            self.caught_up.set()

    def database_down(self, *, down):
        super().database_down(down=down)
        if down:
            self.known_down.set()
        else:
            self.known_down.clear()


class Parts:
    """A journal, a link and a drain that runs until the test ends."""

    def __init__(self, journal, link, drain, stop, running):
        self.journal, self.link, self.drain = journal, link, drain
        self.stop, self.running = stop, running

    async def caught_up(self):
        async with asyncio.timeout(LONG_S):
            while self.journal.backlog:
                self.journal.caught_up.clear()
                await self.journal.caught_up.wait()

    async def known_down(self):
        async with asyncio.timeout(LONG_S):
            await self.journal.known_down.wait()

    async def drained(self, *new):
        """Append records and wait until the database has them."""
        await self.journal.append(*new)
        await self.caught_up()

    async def count(self, guard_id="guard-1"):
        """Return how many executions a guard has, by their rows and by its counter."""
        async with acquired(await self.link.connect()) as connection:
            rows = await connection.fetchval(
                "SELECT count(*) FROM executions WHERE guard_id = $1", guard_id
            )
            counted = await connection.fetchval(
                "SELECT executions FROM guard_stats WHERE guard_id = $1", guard_id
            )
        assert rows == (counted or 0)
        return rows


@asynccontextmanager
async def draining(url, directory, settings=QUICK, *, told=None):
    told = [] if told is None else told
    journal = await WatchedJournal.open(directory, on_work=lambda *work: told.append(work))
    link = DatabaseLink(url, on_work=lambda *work: told.append(work))
    drain = Drain(
        journal, link, refused=directory / "refused", clock=SystemClock(), settings=settings
    )
    stop = asyncio.Event()
    running = asyncio.create_task(drain.run(stop))
    try:
        yield Parts(journal, link, drain, stop, running)
    finally:
        stop.set()
        async with asyncio.timeout(LONG_S):
            await asyncio.gather(running, return_exceptions=True)
        await link.close(timeout_s=5.0)
        await journal.close()


async def execute(url, statements):
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


def events(logs, prefix):
    return [log["event"] for log in logs if log["event"].startswith(prefix)]


async def test_work_on_the_database_is_told_with_its_end_and_its_time(database_url, tmp_path):
    told = []
    async with relayed(database_url) as relay, draining(relay.url, tmp_path, told=told) as parts:
        await parts.journal.append(an_action(), patience_s=LONG_S)
        relay.hang()
        await parts.journal.append(an_action(), patience_s=0.01)
        await parts.known_down()
    ends = {(work, result) for work, result, _ in told}
    assert {("connect", "ok"), ("drain", "ok"), ("commit", "ok")} <= ends
    assert {("drain", "failed"), ("commit", "failed")} <= ends
    assert all(duration_s >= 0 for _, _, duration_s in told)
    assert next(s for work, result, s in told if (work, result) == ("commit", "failed")) >= 0.01


async def test_every_record_reaches_the_database(database_url, tmp_path):
    async with draining(database_url, tmp_path) as parts:
        actions = [an_action() for _ in range(20)]
        await parts.drained(*actions, a_guard_state(), *(an_execution() for _ in range(20)))
        done = [settled(action) for action in actions[:5]]
        await parts.drained(*done)
        async with acquired(await parts.link.connect()) as connection:
            stored = {a.id: a for a in await reading.newest_actions(connection, 100)}
            (guard,) = await reading.guards(connection)
        assert stored == {action.id: action for action in [*actions, *done]}
        assert guard.executions == 20
        assert await parts.count() == 20
        assert parts.drain.state.connected_since is not None
        assert parts.drain.state.down_since is None


async def test_a_record_drained_again_after_a_crash_counts_once(database_url, tmp_path):
    """Failure 29: A commit whose answer is lost: the insert is repeatable."""
    async with draining(database_url, tmp_path) as parts:
        action = an_action()
        await parts.drained(an_execution(), action, settled(action))
        assert await parts.count() == 1
        before_mark = (tmp_path / "journal.log").read_bytes()
    (tmp_path / "journal.log").write_bytes(before_mark)
    async with draining(database_url, tmp_path) as parts:
        assert parts.journal.backlog == 3
        await parts.drained(an_execution())
        assert await parts.count() == 2
        async with acquired(await parts.link.connect()) as connection:
            (stored,) = await reading.newest_actions(connection, 10)
        assert stored.status is ActionStatus.DONE


async def test_a_commit_whose_answer_is_lost_is_repeated_without_harm(database_url, tmp_path):
    """Failure 29: A commit whose answer is lost: the insert is repeatable."""
    async with relayed(database_url) as relay, draining(relay.url, tmp_path) as parts:
        await parts.drained(an_execution())
        relay.swallow_answers()
        await parts.journal.append(an_execution())
        await relay.answers_lost.wait()
        await relay.heal()
        await parts.drained(an_execution())
        assert await parts.count() == 3


async def test_a_database_that_is_away_at_the_start_gets_everything_when_it_comes(
    database_url, tmp_path
):
    """Failure 28: Postgres down or hung at the breach, or at start."""
    async with relayed(database_url) as relay:
        await relay.cut()
        with capture_logs() as logs:
            async with draining(relay.url, tmp_path) as parts:
                await parts.known_down()
                async with asyncio.timeout(LONG_S / 2):
                    for _ in range(20):
                        await parts.journal.append(an_execution(), patience_s=LONG_S)
                state = parts.drain.state
                assert (state.backlog, state.connected_since) == (20, None)
                assert state.down_since is not None
                assert state.last_error is not None
                await relay.heal()
                await parts.caught_up()
                assert await parts.count() == 20
                assert parts.drain.state.down_since is None
    assert events(logs, "database.un") == ["database.unavailable"]
    (recovered,) = [log for log in logs if log["event"] == "database.recovered"]
    assert recovered["drained"] == 20


async def test_connections_that_are_cut_again_and_again_lose_nothing(
    database_url, tmp_path, caplog
):
    """Failure 31: Postgres restarted, failed over, connections cut: the pool heals by itself."""
    async with relayed(database_url) as relay, draining(relay.url, tmp_path) as parts:
        for round_ in range(1, 6):
            await parts.journal.append(*(an_execution() for _ in range(10)))
            await relay.cut()
            await parts.journal.append(*(an_execution() for _ in range(10)))
            await relay.heal()
            await parts.caught_up()
            assert await parts.count() == 20 * round_
    assert caplog.records == [], "the driver must not log by itself: it shows tracebacks"


async def test_a_server_that_turned_into_a_standby_is_left_for_the_new_primary(
    database_url, tmp_path
):
    """Failure 31: Postgres failed over: the pool heals by itself."""
    name = urlsplit(database_url).path.removeprefix("/")
    async with relayed(database_url) as relay, draining(relay.url, tmp_path) as parts:
        await parts.drained(an_execution())
        # A setting of the session stays until it ends, as being connected to a standby does.
        await execute(database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await relay.cut()
        await relay.heal()
        with capture_logs() as logs:
            await parts.journal.append(an_execution())
            while not any("ReadOnly" in log.get("error", "") for log in logs):
                parts.journal.known_down.clear()
                await parts.known_down()
        await execute(
            f"{database_url}&default_transaction_read_only=off",
            f"ALTER DATABASE {name} RESET default_transaction_read_only",
        )
        await parts.caught_up()
        assert await parts.count() == 2


async def test_a_database_that_hangs_is_given_up_and_used_again(database_url, tmp_path):
    """Failure 28: Postgres down or hung at the breach."""
    async with relayed(database_url) as relay, draining(relay.url, tmp_path) as parts:
        await parts.drained(an_execution())
        relay.hang()
        await parts.journal.append(an_execution(), patience_s=0.01)
        await parts.known_down()
        await parts.journal.append(an_execution(), patience_s=LONG_S)
        assert parts.drain.state.backlog == 2
        await relay.heal()
        await parts.caught_up()
        assert await parts.count() == 3


async def test_a_database_that_is_away_is_noticed_without_any_work(database_url, tmp_path):
    settings = replace(QUICK, idle_check_s=0.01)
    async with relayed(database_url) as relay, draining(relay.url, tmp_path, settings) as parts:
        await parts.drained(an_execution())
        await relay.cut()
        await parts.known_down()
        assert parts.journal.backlog == 0


async def test_a_record_that_the_database_never_takes_does_not_block_the_rest(
    database_url, tmp_path
):
    async with draining(database_url, tmp_path) as parts:
        bad = an_action(amount=-1)
        with capture_logs() as logs:
            await parts.drained(an_execution(), bad, an_execution())
        assert await parts.count() == 2
        (line,) = (tmp_path / "refused").read_text().splitlines()
        kept = json.loads(line)
        assert (kept["seq"], json.loads(kept["record"])["record"]["id"]) == (2, str(bad.id))
        assert (tmp_path / "refused").stat().st_mode & 0o777 == 0o600
        (event,) = [log for log in logs if log["event"] == "drain.record_refused"]
        assert (event["log_level"], event["seq"]) == ("critical", 2)
        assert events(logs, "database.unavailable") == []


async def test_a_refused_record_that_cannot_be_kept_aside_is_in_the_log(database_url, tmp_path):
    (tmp_path / "refused").mkdir()
    async with draining(database_url, tmp_path) as parts:
        bad = an_action(amount=-1)
        with capture_logs() as logs:
            await parts.drained(bad, an_execution())
        assert await parts.count() == 1
        (event,) = [log for log in logs if log["event"] == "drain.record_refused"]
        assert str(bad.id) in event["kept_in"]


async def test_the_stop_drains_what_is_left(database_url, tmp_path):
    async with draining(database_url, tmp_path) as parts:
        await parts.drained(an_execution())
        await parts.journal.append(*(an_execution() for _ in range(30)))
        parts.stop.set()
        async with asyncio.timeout(LONG_S):
            await parts.running
        assert await parts.count() == 31


async def test_a_drain_that_is_cancelled_while_the_database_hangs_ends(database_url, tmp_path):
    """Failure 37: A task dies: the daemon ends, so the others must not outlive it."""
    settings = replace(QUICK, batch_timeout_s=600.0)
    async with relayed(database_url) as relay, draining(relay.url, tmp_path, settings) as parts:
        await parts.drained(an_execution())
        relay.hang()
        await parts.journal.append(an_execution())
        await relay.held_back.wait()
        parts.running.cancel()
        async with asyncio.timeout(LONG_S):
            await asyncio.wait([parts.running])
        assert parts.running.cancelled()


async def test_a_batch_without_an_answer_counts_as_an_outage(database_url, tmp_path, monkeypatch):
    async def never(_pool, _records):
        await asyncio.Event().wait()

    settings = replace(QUICK, batch_timeout_s=0.05)
    async with draining(database_url, tmp_path, settings) as parts:
        with monkeypatch.context() as patch:
            patch.setattr(records, "apply", never)
            await parts.journal.append(an_execution())
            await parts.known_down()
        await parts.caught_up()
        assert await parts.count() == 1


async def test_the_last_drain_is_bounded(database_url, tmp_path, monkeypatch):
    begun = asyncio.Event()

    async def never(_pool, _records):
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(records, "apply", never)
    settings = replace(QUICK, batch_timeout_s=600.0, last_drain_s=0.05)
    async with draining(database_url, tmp_path, settings) as parts:
        await parts.journal.append(an_execution())
        await begun.wait()
        parts.stop.set()
        async with asyncio.timeout(LONG_S):
            await parts.running
        assert parts.drain.state.backlog == 1


@pytest.mark.parametrize("outage", ["cut", "hang"])
async def test_the_stop_does_not_wait_for_a_database_that_is_away(database_url, tmp_path, outage):
    settings = replace(QUICK, batch_timeout_s=600.0, max_backoff_s=600.0, last_drain_s=0.05)
    async with relayed(database_url) as relay, draining(relay.url, tmp_path, settings) as parts:
        await parts.drained(an_execution())
        if outage == "cut":
            await relay.cut()
            await parts.journal.append(an_execution())
            await parts.known_down()
        else:
            relay.hang()
            await parts.journal.append(an_execution())
        with capture_logs() as logs:
            parts.stop.set()
            async with asyncio.timeout(LONG_S):
                await parts.running
        assert events(logs, "drain.") == ["drain.unfinished"]
    journal = await FileJournal.open(tmp_path)
    assert journal.backlog == 1
    await journal.close()


async def test_a_wrong_database_ends_the_drain_when_it_first_answers(database_url, tmp_path):
    async with draining(database_url.replace("/test_", "/no_such_"), tmp_path) as parts:
        async with asyncio.timeout(LONG_S):
            with pytest.raises(ConfigError):
                await parts.running
