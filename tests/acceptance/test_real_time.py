"""The daemon on the stream, and on the cross position."""

import aiohttp
import pytest

from tests.daemons import DaemonProcess, Market, a_guard, until_true, write_config

CLOSE = "/trade/close"
BREACHED = 94_000.0


async def steer_stream(market, fault):
    async with aiohttp.ClientSession() as session:
        url = f"{market.server.base_url}/simulator/stream"
        async with session.post(url, json={"fault": fault}) as answer:
            assert answer.status == 200, await answer.text()


async def test_a_price_that_breaches_runs_the_guard_at_once(state_dir, database_url):
    market = Market()
    async with market.open_for_trade():
        config = write_config(
            state_dir,
            market,
            a_guard(),
            database_url=database_url,
            interval="1h",
            stream=True,
        )
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            await daemon.until("accounts.validated", "valid=1")
            market.move(BREACHED)
            await daemon.until("execution.completed", "source=price")
    assert len(market.calls(CLOSE)) == 1


async def test_a_silent_stream_leaves_the_work_to_the_interval(state_dir, database_url):
    """Failure 17: half-open socket, silent topic: REST takes over."""
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=database_url, stream=True)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            await steer_stream(market, "silence")
            market.move(BREACHED)
            await daemon.until("price.stream_stale")
            await daemon.until("execution.completed")
    assert len(market.calls(CLOSE)) == 1


async def test_a_cut_stream_is_connected_again_and_wakes_the_guard_as_before(
    state_dir, database_url
):
    """Failure 18: reconnect, authenticate, subscribe, snapshot."""
    market = Market()
    async with market.open_for_trade():
        config = write_config(
            state_dir,
            market,
            a_guard(),
            database_url=database_url,
            interval="1h",
            stream=True,
        )
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            await daemon.until("stream.connected", "stream=prices")
            lines = len(daemon.lines)
            await steer_stream(market, "kill")
            await until_true(
                lambda: any(
                    "stream.connected" in line and "stream=prices" in line
                    for line in daemon.lines[lines:]
                )
            )
            market.move(BREACHED)
            await daemon.until("execution.completed", "source=price")
    assert len(market.calls(CLOSE)) == 1


@pytest.mark.parametrize(
    ("action", "path"),
    [("close_position", "/cross/position/close"), ("add_margin", "/cross/deposit")],
)
async def test_the_cross_position_is_guarded_like_an_isolated_trade(
    state_dir, database_url, action, path
):
    market = Market()
    market.open_cross()
    async with market.open_for_trade():
        config = write_config(
            state_dir, market, a_guard(action=action), database_url=database_url, stream=True
        )
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            market.move(BREACHED)
            await daemon.until("action.done", "position=cross")
            await daemon.until("execution.completed")
    assert [call.applied for call in market.calls(path)] == [True]


async def test_a_key_that_may_not_trade_disarms_its_guard_and_says_which_permission_it_lacks(
    state_dir, database_url
):
    market = Market(permissions=("account:read", "futures:isolated:read"))
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=database_url, stream=True)
        async with DaemonProcess(config) as daemon:
            await daemon.until(
                "notice.guard_disarmed", "INVALID_ACCOUNT_STATUS", "futures:isolated:write"
            )
