"""`marginguard status`: am I protected?"""

import asyncio
import json
import sys

from tests.daemons import DaemonProcess, Market, a_guard, write_config


async def status(config, *arguments):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "marginguard", "status", "--config", str(config), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def seen_positions(config):
    """Wait until the daemon has written its view down; return what status makes of it."""
    while True:
        code, out, _ = await status(config, "--json")
        found = json.loads(out) if out else {}
        if found.get("positions"):
            return code, found


async def test_a_guarded_position_is_protected_and_shown_with_its_prices(state_dir, database_url):
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=database_url)
        market.move(98_000.0)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready")
            code, found = await seen_positions(config)
            human = await status(config)
    assert code == 0
    assert found["protected"]
    [position] = found["positions"]
    assert position["position_id"] == str(market.trades["main"].id)
    assert position["guard_id"] == "guard-1"
    assert position["risk"] == "safe"
    assert 20.4 < position["level"] < 20.5
    assert 94_339.6 < position["trigger_price"] < 94_339.7
    assert 90_909.0 < position["liquidation_price"] < 90_909.1
    assert human[0] == 0
    assert human[1].startswith("PROTECTED")


async def test_a_position_that_nobody_covers_comes_first_and_fails_the_command(
    state_dir, database_url
):
    market = Market("main", "other")
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=database_url)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready")
            await daemon.until("notice.position_not_covered")
            code, found = await seen_positions(config)
            while len(found["positions"]) < 2:
                code, found = await seen_positions(config)
            human = await status(config)
    assert code == 1
    assert not found["protected"]
    assert found["positions"][0]["guard_id"] is None
    [problem] = found["problems"]
    assert problem["action"] == "add_guard"
    assert human[1].startswith("NOT PROTECTED")


async def test_the_last_execution_and_its_action_are_shown_when_the_daemon_is_down(state_dir):
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard())
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready")
            market.move(94_000.0)
            await daemon.until("position.closed")
            assert await daemon.end() == 0
        code, out, err = await status(config, "--json")
    assert err == ""
    found = json.loads(out)
    [guard] = found["guards"]
    assert guard["last_execution_status"] == "completed"
    [action] = found["actions"]
    assert (action["kind"], action["status"]) == ("close_position", "done")
    assert found["positions"] == []
    assert code == 0


async def test_no_record_yet_is_said_with_the_next_step(state_dir):
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard())
        code, _, err = await status(config)
    assert code == 2
    assert "marginguard run" in err
    assert "Traceback" not in err


async def test_a_daemon_that_has_not_looked_for_long_is_not_protection(state_dir, database_url):
    market = Market()
    async with market.open_for_trade():
        config = write_config(
            state_dir, market, a_guard(), database_url=database_url, blind_after="1s"
        )
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready")
            await seen_positions(config)
            await daemon.end()
        codes = []

        async def look():
            code, out, _ = await status(config, "--json")
            codes.append((code, [p["action"] for p in json.loads(out)["problems"]]))

        await look()
        while codes[-1][0] == 0:
            await look()
    assert codes[-1] == (1, ["start_daemon"])
