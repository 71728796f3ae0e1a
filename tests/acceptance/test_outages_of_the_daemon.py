"""Breaches while the database is away, hung or restarted, and while the daemon was frozen."""

import os
import signal

import pytest

from tests.daemons import (
    DaemonProcess,
    Market,
    a_guard,
    servers_in,
    write_config,
)
from tests.freezing import freeze

BREACHED = 94_000.0  # 64 % of the margin of a 10x long at 100,000
CLOSE = "/trade/close"


def signal_all(pids, number):
    for pid in pids:
        os.kill(pid, number)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["hung", "killed"])
async def test_a_breach_is_handled_while_the_database_is_away_and_recorded_when_it_is_back(
    state_dir, number
):
    """Failures 28, 31 and 32: act on the local journal, drain later."""
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard())
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            await daemon.until("database.connected")
            servers = servers_in(state_dir)
            signal_all(servers, number)
            try:
                market.move(BREACHED)
                await daemon.until("action.done", "close_position")
            finally:
                if number == signal.SIGSTOP:
                    signal_all(servers, signal.SIGCONT)
            if number == signal.SIGKILL:
                await daemon.until("database.recovered")
            assert await daemon.end() == 0
    assert len(market.calls(CLOSE)) == 1


async def test_a_database_that_is_missing_at_the_start_changes_nothing_for_closing(state_dir):
    """Failure 28: down at start."""
    market = Market()
    async with market.open_for_trade():
        nowhere = "postgresql://nobody:nothing@127.0.0.1:1/none"
        config = write_config(state_dir, market, a_guard(), database_url=nowhere)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            market.move(BREACHED)
            await daemon.until("action.done", "close_position")
            assert await daemon.end() == 0
    assert len(market.calls(CLOSE)) == 1


async def test_after_having_been_frozen_nothing_is_done_on_what_was_seen_before(
    state_dir, database_url
):
    """Failure 26: a price that breached before the daemon was frozen, and recovered meanwhile."""
    warned = await freeze(state_dir, database_url, seconds=1.5, stale_after="500ms")
    assert any("execution.failed" in line and "the price is" in line for line in warned)
