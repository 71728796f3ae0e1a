"""`marginguard run` as its user meets it."""

import signal
import subprocess
import sys

import asyncpg
import pytest

from marginguard.simulator.faults import Fault, FaultKind
from tests.daemons import (
    DaemonProcess,
    Market,
    a_guard,
    servers_in,
    until_ended,
    until_true,
    write_config,
)

ADD_MARGIN = "/trade/add-margin"
CLOSE = "/trade/close"
BREACHED = 94_000.0  # 64 % of the margin of a 10x long at 100,000


async def test_a_breach_closes_the_position_and_the_database_holds_the_proof(
    state_dir, database_url
):
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=database_url)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            market.move(BREACHED)
            await daemon.until("execution.completed")
            assert await daemon.end() == 0
    assert len(market.calls(CLOSE)) == 1
    connection = await asyncpg.connect(database_url)
    try:
        row = await connection.fetchrow("SELECT status, proof, attempts FROM actions")
        executions = await connection.fetch("SELECT status, source FROM executions")
    finally:
        await connection.close()
    assert (row["status"], row["attempts"]) == ("done", 1)
    assert "closed at 94,000.0" in row["proof"]
    assert [tuple(e) for e in executions] == [("completed", "schedule")]


async def test_a_kill_between_intent_and_answer_leaves_exactly_one_addition(state_dir):
    """Failure 24: settled at start. Failure 32: no server is left behind."""
    market = Market()
    async with market.open_for_trade() as server:
        config = write_config(state_dir, market, a_guard(action="add_margin"))
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready")
            await daemon.until("database.connected")
            servers = servers_in(state_dir)
            assert servers
            server.faults.add(
                Fault(
                    method="POST",
                    path="/v3/futures/isolated/trade/add-margin",
                    fault=FaultKind.BLACKHOLE,
                    times=1,
                    processed=True,
                )
            )
            market.move(BREACHED)
            await until_true(lambda: any(call.applied for call in market.calls(ADD_MARGIN)))
            assert await daemon.end(signal.SIGKILL) == -signal.SIGKILL
        await until_ended(servers)
        assert servers_in(state_dir) == []
        async with DaemonProcess(config) as daemon:
            await daemon.until("action.unsettled")
            await daemon.until("action.done")
            await daemon.until("execution.completed", "source=recover")
            assert await daemon.end() == 0
    assert [call.applied for call in market.calls(ADD_MARGIN)] == [True]
    assert servers_in(state_dir) == []


async def test_a_database_that_cannot_be_reached_does_not_stop_the_guarding(state_dir):
    """Failure 28: act on the local journal, drain later."""
    market = Market()
    async with market.open_for_trade():
        config = write_config(
            state_dir,
            market,
            a_guard(),
            database_url="postgresql://nobody@127.0.0.1:1/nowhere",
        )
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            await daemon.until("database.unavailable")
            market.move(BREACHED)
            await daemon.until("action.done")
            assert await daemon.end() == 0
    assert len(market.calls(CLOSE)) == 1


async def test_wrong_database_credentials_end_the_daemon_with_one_line(state_dir, database_url):
    market = Market()
    scheme, rest = database_url.split("://")
    wrong = f"{scheme}://nobody-known:wrong@{rest.split('@')[1]}"
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=wrong)
        async with DaemonProcess(config) as daemon:
            await daemon.until("(the log ends)")
            assert await daemon.process.wait() == 2
    assert any("[database] url" in line for line in daemon.lines)
    assert not any("Traceback" in line or ":wrong@" in line for line in daemon.lines)


async def test_a_fault_in_one_guard_refuses_that_guard_alone(state_dir, database_url):
    market = Market("main", "other")
    guards = a_guard("bad", "other", threshold=0) + a_guard("good", "main")
    async with market.open_for_trade():
        config = write_config(state_dir, market, guards, database_url=database_url)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "guards=2", "armed=1")
            await daemon.until("notice.guard_disarmed", "bad", "margin_threshold")
            await daemon.until("notice.position_not_covered", "account_id=other")
            market.move(BREACHED)
            await daemon.until("action.done", "guard=good")
    assert len(market.calls(CLOSE)) == 1


async def test_a_dry_run_sends_nothing_and_says_that_it_does_not_guard(state_dir, database_url):
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=database_url)
        async with DaemonProcess(config, "--dry-run") as daemon:
            await daemon.until("notice.guard_disarmed", "dry run")
            market.move(BREACHED)
            await daemon.until("action.dry_run")
    assert market.server.calls == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_daemon_with_exit_code_0(state_dir, database_url, number):
    """Failure 25: settle, exit 0."""
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=database_url)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready")
            assert await daemon.end(number) == 0
    assert "daemon.stopped" in daemon.lines[-2]


async def test_a_signal_during_an_action_ends_the_daemon_once_the_action_is_settled(
    state_dir, database_url
):
    """Failure 25: SIGTERM while a close is under way whose answer never comes."""
    market = Market()
    async with market.open_for_trade() as server:
        config = write_config(
            state_dir, market, a_guard(), database_url=database_url, exchange_timeout="1s"
        )
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            path = "/v3/futures/isolated/trade/close"
            server.faults.add(
                Fault(method="POST", path=path, fault=FaultKind.BLACKHOLE, processed=True)
            )
            market.move(BREACHED)
            await until_true(lambda: any(call.applied for call in market.calls(CLOSE)))
            assert not any("action.done" in line for line in daemon.lines)
            assert await daemon.end() == 0
    events = [line for line in daemon.lines if "action.done" in line or "daemon.stop" in line]
    assert [line.split()[1] for line in events] == [
        "daemon.stopping",
        "action.done",
        "daemon.stopped",
    ]
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT status FROM actions") == "done"
    finally:
        await connection.close()
    assert len(market.calls(CLOSE)) == 1


async def test_a_second_daemon_on_one_state_directory_says_who_holds_it(state_dir, database_url):
    """Failure 27: one acts; the other says who holds it."""
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=database_url)
        async with DaemonProcess(config) as first:
            await first.until("daemon.ready")
            async with DaemonProcess(config) as second:
                await second.until("(the log ends)")
                assert await second.process.wait() == 2
            assert any(str(first.process.pid) in line for line in second.lines)


def test_an_unknown_key_ends_with_exit_code_2_and_one_line(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[daemon]\nintervall = '30s'\n")
    result = subprocess.run(
        [sys.executable, "-m", "marginguard", "run", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert "intervall" in line
    assert str(config) in line
