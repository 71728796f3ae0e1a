"""The commands that read the record: executions, analyze, explain, profile, chart."""

import asyncio
import json
import os
import pty
import re
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from marginguard.domain.errors import ErrorCode, ErrorType
from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import ActionKind
from marginguard.domain.notification import NotificationStatus
from marginguard.domain.records import ActionStatus, ExecutionSource, ExecutionStatus
from marginguard.simulator.faults import Fault, FaultKind
from marginguard.storage.link import DatabaseLink
from marginguard.storage.notifications import upsert
from marginguard.storage.observations import DatabaseObservations
from marginguard.storage.records import apply
from tests.commands import run_alone, run_here
from tests.daemons import DaemonProcess, Market, a_guard, write_config
from tests.notifying import a_notice, a_notification
from tests.records import (
    a_guard_state,
    a_reduction,
    a_sighting,
    an_action,
    an_execution,
    settled,
)
from tests.unit.strategies import a_position

README = Path(__file__).parents[2] / "README.md"
NOW = datetime.now(UTC).replace(microsecond=0)


class Command:
    """Runs marginguard's commands with one configuration, in this process unless `alone`."""

    def __init__(self, config, database_url=None, *, alone=False):
        self.config = config
        self.database_url = database_url
        self._alone = alone

    async def __call__(self, name, *arguments, columns=80, **environment):
        run = run_alone if self._alone else run_here
        words = (*name.split(), *arguments, "--config", str(self.config))
        return await run(*words, COLUMNS=str(columns), **environment)

    async def json(self, name, *arguments):
        code, out, err = await self(name, *arguments, "--json")
        assert err == ""
        return code, json.loads(out)


@pytest.fixture
async def link(database_url):
    link = DatabaseLink(database_url)
    await link.connect()
    yield link
    await link.close(timeout_s=10.0)


@pytest.fixture
async def command(state_dir, database_url, link):
    """The commands, over the record of a daemon that looked a moment ago at nothing."""
    observations = DatabaseObservations(link)
    observations.checked("guard-1", "main", datetime.now(UTC))
    await observations.flush()
    state = a_guard_state(since=NOW, updated_at=NOW, memory=GuardMemory())
    await apply(link.pool, [state])
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=database_url)
    return Command(config, database_url)


def ago(**span):
    return NOW - timedelta(**span)


def ran(at, **changes):
    """Return an execution that began at a time."""
    return an_execution(
        **{"started_at": at, "finished_at": at + timedelta(milliseconds=750), **changes}
    )


def failed(at, **changes):
    return ran(
        at,
        **{
            "status": ExecutionStatus.FAILED,
            "positions_succeeded": 0,
            "positions_failed": 1,
            "error_code": ErrorCode.ACTION_FAILED,
            "error_type": ErrorType.NETWORK,
            "error": "connection refused",
            "results": {"trade-1": "close_position rejected"},
            "duration_s": 4.0,
            **changes,
        },
    )


async def test_executions_are_counted_and_listed_newest_first(command, link):
    rows = [ran(ago(hours=3)), failed(ago(hours=2)), ran(ago(hours=1)), ran(ago(days=3))]
    await apply(link.pool, rows)
    code, out, err = await command("executions")
    assert (code, err) == (0, "")
    first = out.splitlines()[0]
    assert first.startswith("3 executions since ")
    assert "2 completed, 1 failed; 67%" in " ".join(out.splitlines()[:2])
    assert out.index(str(rows[2].id)) < out.index(str(rows[1].id))
    code, found = await command.json("executions", "--status", "failed", "--since", "7d")
    assert code == 0
    assert [row["id"] for row in found["executions"]] == [str(rows[1].id)]
    assert found["counts"] == {"completed": 3, "partial": 0, "failed": 1, "skipped": 0}
    assert found["executions"][0]["error_type"] == "NETWORK_ERROR"


async def test_no_executions_is_an_answer(command):
    code, out, err = await command("executions", "--since", "90m")
    assert (code, err) == (0, "")
    assert out.startswith("No executions since ")
    assert "1 looks" in out


async def test_more_than_are_listed_are_said_to_be_there(command, link):
    await apply(link.pool, [ran(ago(minutes=minute)) for minute in range(5)])
    _, out, _ = await command("executions", "--limit", "2")
    assert out.startswith("5 executions")
    assert "3 older ones are not shown" in out


async def test_executions_that_mostly_fail_are_analyzed_with_a_cure(command, link):
    await apply(link.pool, [ran(ago(hours=5)), failed(ago(hours=3)), failed(ago(hours=1))])
    code, out, err = await command("analyze executions")
    assert (code, err) == (1, "")
    assert out.startswith("33% of the executions since ")
    assert "2 x connection refused" in out
    assert "What to do" in out
    code, found = await command.json("analyze executions", "--guard", "guard-1")
    assert code == 1
    assert (found["total"], found["completed"], found["failed"]) == (3, 1, 2)
    assert found["common_errors"] == [{"error": "connection refused", "count": 2}]
    assert found["duration"]["average_s"] == 0.75
    assert sum(part["failed"] for part in found["pattern"]) == 2
    [advice] = found["recommendations"]
    assert advice.keys() == {"issue", "solution", "action"}
    assert advice["action"] == "check_network"


async def test_executions_that_went_well_need_nothing(command, link):
    await apply(link.pool, [ran(ago(hours=5))])
    code, out, _ = await command("analyze executions", "--since", "24h")
    assert code == 0
    assert out.startswith("100% of the executions")
    assert "What to do" not in out


async def test_a_channel_that_fails_more_than_it_delivers_is_named_with_its_cure(command, link):
    shut = a_notification(
        status=NotificationStatus.FAILED,
        attempts=5,
        created_at=ago(hours=1),
        settled_at=ago(minutes=50),
        attempted_at=ago(minutes=50),
        last_error="535 authentication failed",
        action="verify_smtp_config",
        advice="check username and password",
        revision=1,
    )
    arrived = a_notification(
        channel="webhook",
        status=NotificationStatus.DELIVERED,
        created_at=ago(hours=1),
        settled_at=ago(hours=1) + timedelta(seconds=2),
        revision=1,
    )
    await upsert(link.pool, [shut, arrived])
    code, out, err = await command("analyze notifications", "--since", "24h")
    assert (code, err) == (1, "")
    assert out.startswith("50% of the notifications since ")
    assert "email: 0% arrived" in out
    code, found = await command.json("analyze notifications")
    assert code == 1
    assert found["channels"]["webhook"]["success_rate"] == 1.0
    assert found["delay"]["average_s"] == 2.0
    [advice] = found["recommendations"]
    assert (advice["action"], advice["solution"]) == (
        "verify_smtp_config",
        "check username and password",
    )


async def a_failed_story(link):
    """Put an execution into the record whose action was refused, and which was told of."""
    run = failed(ago(hours=1), error_type=ErrorType.EXECUTION, error="insufficient balance")
    refused = settled(
        an_action(
            execution_id=run.id,
            intended_at=run.started_at + timedelta(milliseconds=100),
            amount=25_000,
        ),
        status=ActionStatus.REJECTED,
        outcome="rejected",
        error="insufficient balance",
        proof=None,
        after=None,
    )
    await apply(link.pool, [run, refused])
    notice = a_notice(execution_id=run.id, at=run.finished_at)
    told = a_notification(notice=notice, created_at=run.finished_at, subject="ACTION FAILED")
    await upsert(link.pool, [told])
    return run, refused


async def test_an_execution_is_explained_with_its_actions_reasons_and_notices(command, link):
    run, refused = await a_failed_story(link)
    code, out, err = await command("explain", str(run.id))
    assert (code, err) == (0, "")
    assert out.startswith("The execution of guard guard-1 FAILED after 4.00 s")
    told = " ".join(out.split())
    for said in (
        "decided to add 25,000 sats",
        "level 80.2 %, threshold 80 %",
        "sent, attempt 1; outcome: rejected",
        "market_error",
        'still to tell owner by email: "ACTION FAILED", pending',
    ):
        assert said in told, said
    assert told.index("decided to") < told.index("sent, attempt") < told.index("ended, failed")
    code, found = await command.json("explain", str(run.id)[:-2])
    assert found["id"] == str(run.id)
    [reason] = found["reasons"]
    assert (reason["type"], reason["action"]) == ("market_error", "wait_and_retry")
    assert {"issue", "solution", "action"} <= reason.keys()
    assert [action["id"] for action in found["actions"]] == [str(refused.id)]
    assert [one["channel"] for one in found["notifications"]] == ["email"]


async def test_an_action_leads_to_its_execution_even_where_that_left_no_end(command, link):
    action = an_action(intended_at=ago(hours=1), status=ActionStatus.SENT, sent_at=ago(hours=1))
    await apply(link.pool, [action])
    _, found = await command.json("explain", str(action.id))
    assert (found["id"], found["execution"]) == (str(action.execution_id), None)
    assert "no record of its end" in found["headline"]


async def seen(link, level_prices, *, position_id="trade-1"):
    """Let a position be seen at prices, some minutes apart; the last a moment ago."""
    observations = DatabaseObservations(link)
    position = a_position(id=position_id)
    for index, price in enumerate(level_prices):
        at = ago(minutes=4 * (len(level_prices) - 1 - index))
        observations.positions("main", {position_id: a_sighting(position, price)}, at)
        await observations.flush()


async def test_a_position_is_explained_over_all_its_ids(command, link):
    cut = replace(a_reduction(position_id="trade-0", successor="trade-1"), intended_at=ago(hours=2))
    await apply(link.pool, [cut])
    await seen(link, [99_000.0, 92_000.0, 98_000.0])
    code, out, err = await command("explain", "trade-1")
    assert (code, err) == (0, "")
    assert out.startswith("Position trade-1 of account main runs at level")
    assert "1 of 1 actions worked" in " ".join(out.split())
    told = " ".join(out.split())
    assert "reduce by 500 USD" in told
    assert "the position is trade-1 from now on" in told
    assert "highest level 87.0 %" in told
    _, of_first = await command.json("explain", "trade-0")
    assert sorted(of_first["ids"]) == ["trade-0", "trade-1"]
    assert of_first["position"]["position_id"] == "trade-1"


async def test_a_mistyped_id_is_answered_with_the_nearest(command, link):
    run = ran(ago(hours=1))
    await apply(link.pool, [run])
    await seen(link, [99_000.0], position_id="trade-17")
    wrong = str(run.id)[:-1] + ("0" if str(run.id)[-1] != "0" else "1")
    code, out, err = await command("explain", wrong)
    assert (code, out) == (2, "")
    assert str(run.id) in err
    code, out, err = await command("chart", "trade-71")
    assert (code, out) == (2, "")
    assert "did you mean trade-17?" in " ".join(err.split())
    code, out, err = await command("profile", "gaurd-1")
    assert (code, out) == (2, "")
    assert "did you mean guard-1?" in " ".join(err.split())


async def test_a_beginning_of_several_ids_is_not_guessed_at(command, link):
    first = ran(ago(hours=1), id=UUID("018f0000-0000-7000-8000-000000000001"))
    second = ran(ago(hours=1), id=UUID("018f0000-0000-7000-8000-000000000002"))
    await apply(link.pool, [first, second])
    code, _, err = await command("explain", "018f0000-0000")
    assert code == 2
    assert "write more of it" in " ".join(err.split())
    code, _, _ = await command("explain", "018f0000-0000-7000-8000-000000000002")
    assert code == 0


async def test_the_cross_position_of_several_accounts_needs_its_account(command, link):
    observations = DatabaseObservations(link)
    for account in ("main", "other"):
        cross = a_position(id="cross")
        observations.positions(account, {"cross": a_sighting(cross, 99_000.0)}, NOW)
    await observations.flush()
    code, _, err = await command("explain", "cross")
    assert code == 2
    assert "main, other" in err
    assert "--account" in err
    code, out, _ = await command("explain", "cross", "--account", "other")
    assert code == 0
    assert out.startswith("Position cross of account other runs")


async def test_the_profile_says_where_the_time_goes_and_what_to_change(command, link):
    slow = [
        ran(ago(minutes=minute), duration_s=4.0, phases={"positions": 3.0, "actions": 1.0})
        for minute in range(4)
    ]
    await apply(link.pool, [*slow, ran(ago(minutes=9), status=ExecutionStatus.SKIPPED)])
    code, out, err = await command("profile", "guard-1")
    assert (code, err) == (1, "")
    assert out.startswith("4.00 s on average, 4.00 s at most, of the 5 s")
    assert "Memory: unknown" in out
    code, found = await command.json("profile")
    assert code == 1
    assert found["profile"]["runs"] == 4
    assert found["profile"]["phases"]["positions"]["p99_s"] == 3.0
    actions = [finding["action"] for finding in found["profile"]["bottlenecks"]]
    assert actions == ["find_slow_phase", "check_network"]
    assert found["memory"] is None


async def test_a_chart_is_drawn_in_the_terminal_with_thresholds_and_actions(command, link):
    await seen(link, [99_000.0, 94_000.0, 98_000.0])
    closing = settled(
        an_action(
            kind=ActionKind.CLOSE_POSITION, amount=0, threshold=60.0, intended_at=ago(minutes=4)
        )
    )
    await apply(link.pool, [closing])
    code, out, err = await command("chart", "trade-1", columns=40)
    assert (code, err) == (0, "")
    assert out.startswith("Position trade-1 of account main: level")
    assert max(len(line) for line in out.splitlines()) <= 40
    for drawn in ("•", "▼", "  60 |", " 100 |"):
        assert drawn in out
    assert "close position: done" in " ".join(out.split())


@pytest.mark.parametrize(("suffix", "magic"), [(".svg", b"<svg "), (".png", b"\x89PNG")])
async def test_a_chart_is_written_as_a_picture(command, link, tmp_path, suffix, magic):
    await seen(link, [99_000.0, 94_000.0, 98_000.0])
    file = tmp_path / f"level{suffix}"
    code, out, _ = await command("chart", "trade-1", "-o", str(file))
    assert code == 0
    assert "Written to" in out
    assert file.read_bytes().startswith(magic)


async def test_a_chart_that_cannot_be_written_is_told_in_one_line(command, link, tmp_path):
    await seen(link, [99_000.0, 94_000.0])
    code, _, err = await command("chart", "trade-1", "-o", str(tmp_path / "level.jpg"))
    assert (code, err.count("\n")) == (2, 1)
    assert ".svg or .png" in err
    code, _, err = await command("chart", "trade-1", "-o", str(tmp_path / "no" / "level.svg"))
    assert (code, err.count("\n")) == (2, 1)
    assert "No such file or directory" in err


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
