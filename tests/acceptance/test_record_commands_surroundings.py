"""The commands that read the record, whatever database, daemon and terminal they meet."""

import asyncio
import json
import os
import pty
import re
import signal
import sys
from pathlib import Path

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from marginguard.domain.records import ExecutionSource
from marginguard.simulator.faults import Fault, FaultKind
from marginguard.storage.records import apply
from tests.acceptance.recorded import (
    Command,
    a_failed_story,
    ago,
    commands_over_a_record,
    failed,
    linked,
    ran,
    seen,
)
from tests.daemons import DaemonProcess, Market, a_guard, write_config

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
async def link(database_url):
    async with linked(database_url) as link:
        yield link


@pytest.fixture
async def command(state_dir, database_url, link):
    return await commands_over_a_record(state_dir, database_url, link)


COMMANDS = ("executions", "analyze executions", "analyze notifications", "profile")


@pytest.mark.parametrize("name", ["executions", "analyze executions", "chart trade-1"])
@pytest.mark.parametrize("since", ["yesterday", "24", "-1h", "0s", "1e9d", "99999d"])
async def test_a_since_that_is_not_a_duration_is_refused(tmp_path, name, since):
    command = Command(tmp_path / "none.toml")
    code, out, err = await command(name, f"--since={since}")
    assert (code, out) == (2, "")
    assert since in err


@pytest.mark.parametrize("name", [*COMMANDS, "explain trade-1", "chart trade-1"])
async def test_a_database_of_another_version_is_refused_with_the_next_step(command, link, name):
    await seen(link, [99_000.0])
    connection = await asyncpg.connect(command.database_url)
    await connection.execute("DELETE FROM schema_migrations WHERE version > 1")
    await connection.close()
    code, out, err = await command(name)
    assert (code, out) == (2, "")
    assert "restart the daemon" in err


@pytest.mark.parametrize("name", ["executions", "explain trade-1"])
async def test_no_database_is_told_with_the_next_step(state_dir, name):
    market = Market()
    async with market.open_for_trade():
        url = "postgresql://nobody:secret@127.0.0.1:1/none"
        config = write_config(state_dir, market, a_guard(), database_url=url)
    code, out, err = await Command(config, url, alone=True)(name)
    assert (code, out) == (3, "")
    assert "See whether PostgreSQL runs" in err
    assert "secret" not in err


async def test_a_daemon_that_does_not_look_is_said_beside_the_answer(command, link):
    await apply(link.pool, [ran(ago(hours=3))])
    connection = await asyncpg.connect(command.database_url)
    await connection.execute("UPDATE guard_stats SET last_checked_at = $1", ago(hours=2))
    await connection.close()
    code, out, err = await command("executions", "--json")
    assert code == 0
    assert len(json.loads(out)["executions"]) == 1
    assert f"the daemon looked last at {ago(hours=2):%Y-%m-%d %H:%M:%S} UTC" in err


@pytest.mark.parametrize("name", [*COMMANDS, "explain trade-1", "chart trade-1"])
async def test_a_narrow_terminal_without_colour_shows_everything_within_it(command, link, name):
    await seen(link, [99_000.0, 94_000.0])
    run, _ = await a_failed_story(link)
    await apply(link.pool, [ran(ago(hours=2), source=ExecutionSource.RUN_NOW)])
    for columns in (40, 80):
        _, out, err = await command(name, columns=columns, TERM="dumb", NO_COLOR="1")
        assert "error" not in err
        assert "\x1b" not in out
        assert max(len(line) for line in out.splitlines()) <= columns
    if name == "executions":
        assert str(run.id) in out


@pytest.mark.parametrize("name", ["executions", "chart trade-1"])
async def test_a_reader_that_goes_away_is_no_fault(command, link, name):
    await seen(link, [99_000.0, 94_000.0])
    await apply(link.pool, [ran(ago(minutes=minute), id=uuid7()) for minute in range(20)])
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "marginguard", *name.split(), "--config", str(command.config)),
        stdout=writing,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writing)
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert err == b""
    assert process.returncode in {0, 1, -signal.SIGPIPE}


async def test_the_memory_of_the_daemon_is_told_while_it_runs(state_dir, database_url):
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=database_url)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready")
            command = Command(config, database_url)
            _, out, _ = await command("profile", "--json")
            _, with_heap, _ = await command("profile", "--heap", columns=40)
            pid = daemon.process.pid
    code, _, err = await command("profile", "--heap")
    assert code == 3
    assert "no daemon answers" in err
    assert "MB" in with_heap
    assert re.search(r"^ +\d+\.\d MB +[\d,]+  function$", with_heap, re.MULTILINE)
    found = json.loads(out)
    assert found["heap"] is None
    assert found["memory"]["pid"] == pid
    assert found["memory"]["resident"] > 10_000_000


class Screen:
    """A terminal on which a command draws; what was drawn is read as it comes."""

    def __init__(self, *arguments):
        self._arguments = arguments
        self._drawn = b""

    async def __aenter__(self):
        self._terminal, inner = pty.openpty()
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "marginguard", *self._arguments),
            env=os.environ | {"COLUMNS": "80", "LINES": "40", "TERM": "xterm"},
            stdin=inner,
            stdout=inner,
            stderr=inner,
        )
        os.close(inner)
        os.set_blocking(self._terminal, False)
        return self

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        os.close(self._terminal)

    async def until(self, words):
        """Wait until something is drawn, and forget what came before it."""
        loop, drawn = asyncio.get_running_loop(), asyncio.Event()

        def read():
            self._drawn += os.read(self._terminal, 65_536)
            drawn.set()

        loop.add_reader(self._terminal, read)
        try:
            async with asyncio.timeout(60):
                while words not in self._drawn:
                    await drawn.wait()
                    drawn.clear()
        finally:
            loop.remove_reader(self._terminal)
        self._drawn = self._drawn.partition(words)[2]


async def test_the_status_is_watched_until_it_is_interrupted(command, link):
    await seen(link, [99_000.0])
    arguments = ("status", "--watch", "--every", "0.5", "--config", str(command.config))
    async with Screen(*arguments) as screen:
        await screen.until(b"PROTECTED: 1")
        connection = await asyncpg.connect(command.database_url)
        await connection.execute(
            "UPDATE guard_state SET armed = 'disarmed', reason = 'key refused'"
        )
        await screen.until(b"NOT PROTECTED")
        await connection.execute("DELETE FROM schema_migrations WHERE version > 1")
        await connection.close()
        await screen.until(b"UNKNOWN: the record cannot be read")
        screen.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(screen.process.wait(), 60) == 130


async def test_a_watch_without_a_terminal_is_refused(command):
    code, out, err = await command("status", "--watch")
    assert (code, out) == (2, "")
    assert "--watch needs a terminal" in err


def check_the_questions_of_the_readme(lines, failed_run):
    """Each `journalctl -g` of the README finds what its question asks for, and no more."""
    execution_id = re.search(r"execution_id=(\S+)", failed_run)[1]
    # Without its priority and time, a line is what the journal keeps as the message.
    messages = [line.partition(" ")[2] for line in lines]
    asked = re.findall(r"^journalctl -u marginguard .*-g '(.+)'$", README.read_text(), re.MULTILINE)
    answers = []
    for pattern in asked:
        meant = pattern.replace("main-close", "guard-1").replace("EXECUTION_ID", execution_id)
        answers.append({m.split()[0] for m in messages if re.search(meant, m)})
    guarding, guard, failures, execution, night = answers
    assert guarding == {"daemon.starting", "daemon.ready", "guard.state"} | {
        "daemon.stopping",
        "daemon.stopped",
    }
    did = {"action.attempt", "action.done", "notice.action_done", "execution.completed"}
    assert did | {"guard.state"} <= guard
    assert failures == {"execution.failed"}
    assert "execution.failed" in execution
    assert did | {"position.closed"} <= night
    assert "notify.retry" not in guarding | guard | night


async def test_the_record_of_an_embedded_database_is_read_when_the_daemon_is_down(state_dir):
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), blind_after="1s")
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready")
            await daemon.until("database.connected")
            path = "/v3/futures/isolated/trades/running"
            fault = Fault(method="GET", path=path, fault=FaultKind.STATUS, times=1, status=500)
            market.server.faults.add(fault)
            failed_run = await daemon.until("execution.failed")
            market.move(94_000.0)
            await daemon.until("position.closed")
            assert await daemon.end() == 0
    check_the_questions_of_the_readme(daemon.lines, failed_run)
    command = Command(config, alone=True)
    err = ""
    while "the daemon looked last at" not in err:
        code, out, err = await command("executions", "--json", "--status", "completed")
        assert code == 0
    [run] = json.loads(out)["executions"]
    code, out, _ = await command("explain", run["id"])
    assert code == 0
    assert "COMPLETED" in out.splitlines()[0]
    trade = str(market.trades["main"].id)
    code, out, _ = await command("explain", trade)
    assert code == 0
    assert "does not run any more" in " ".join(out.split())
    code, out, _ = await command("chart", trade)
    assert code == 0
    assert "close position: done" in " ".join(out.split())


async def test_records_that_the_database_has_not_got_yet_are_said_to_be_in_the_journal(state_dir):
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard())
    code, out, err = await Command(config)("executions")
    assert (code, out) == (2, "")
    assert "no daemon has run" in err
    (state_dir / "state").mkdir()
    (state_dir / "state" / "journal.log").touch()
    code, out, err = await Command(config)("executions")
    assert (code, out) == (2, "")
    assert "still in its journal" in err


async def test_words_of_the_exchange_do_not_steer_the_terminal(command, link):
    await apply(link.pool, [failed(ago(hours=1), error="no\x1b[2J\rsuch luck")])
    for name in ("executions", "analyze executions"):
        _, out, _ = await command(name)
        assert "no [2J such luck" in out
        assert "\x1b[2J" not in out
