"""The daemon on the stream, and on the cross position."""

import asyncio
import json
import sys

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


async def check_online(config, *arguments):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "marginguard", "check", "--online", "--config", str(config)),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_check_online_says_what_an_account_is_good_for(state_dir):
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), stream=True)
        code, out, err = await check_online(config, "--json")
    assert out, err
    [account] = json.loads(out)["accounts"]
    assert code == 0
    assert account["verdict"] == "valid"
    assert account["balance_sats"] == market.accounts["main"].balance
    assert "futures:isolated:write" in account["permissions"]


async def test_check_online_names_a_wrong_key_and_the_next_step(state_dir):
    """Failure 16: caught at start."""
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), stream=True)
        config.write_text(config.read_text().replace("secret-of-main", "another-secret"))
        code, _, err = await check_online(config)
    assert code == 1
    assert "INVALID_CREDENTIALS" in err
    assert "another-secret" not in err
    assert "Traceback" not in err
