"""Health checks, metrics and the heartbeat of a running daemon."""

import asyncio
import socket

import aiohttp
from aiohttp import web

from tests.daemons import DaemonProcess, Market, a_guard, write_config

BREACHED = 94_000.0


def a_free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


async def get(port, path):
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as answer,
    ):
        return answer.status, await answer.text()


async def test_health_and_metrics_are_served_where_they_are_asked_for(state_dir, database_url):
    market, port = Market(), a_free_port()
    async with market.open_for_trade():
        config = write_config(
            state_dir,
            market,
            a_guard(),
            database_url=database_url,
            extra=f'\n[http]\nlisten = "{port}"\n',
        )
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            assert (await get(port, "/healthz"))[0] == 200
            assert (await get(port, "/readyz"))[0] == 200
            market.move(BREACHED)
            await daemon.until("execution.completed")
            _, text = await get(port, "/metrics")
            assert await daemon.end() == 0
    assert "GET /futures/isolated/trades/running" in text
    for figure in (
        'marginguard_executions_total{plan="lifetime",status="completed"}',
        'marginguard_phase_duration_seconds_sum{phase="price"}',
        'marginguard_actions_total{dry_run="false",kind="close_position",status="done"}',
        'marginguard_errors_total{type="API_ERROR"}',
        "marginguard_positions_watched",
        'marginguard_positions_at_risk{risk="critical"}',
        "marginguard_queue_length",
        'marginguard_database_duration_seconds_count{result="ok",work="drain"}',
        'marginguard_database_duration_seconds_count{result="ok",work="commit"}',
        "marginguard_event_loop_lag_seconds_count",
        "process_resident_memory_bytes",
    ):
        assert f"\n{figure} " in text, figure
    assert "secret" not in text


async def test_a_port_in_use_is_one_clear_error(state_dir, database_url):
    market = Market()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with market.open_for_trade():
            config = write_config(
                state_dir,
                market,
                a_guard(),
                database_url=database_url,
                extra=f"\n[http]\nlisten = {port}\n",
            )
            async with DaemonProcess(config) as daemon:
                assert await asyncio.wait_for(daemon.process.wait(), 30) == 2
    assert any(f"127.0.0.1:{port}" in line for line in daemon.lines)
    assert not any("Traceback" in line for line in daemon.lines)


async def test_the_heartbeat_pings_while_it_guards_and_a_hanging_one_is_not_in_the_way(
    state_dir, database_url
):
    pinged, forever = asyncio.Event(), asyncio.Event()

    async def hang(_request):
        pinged.set()
        await forever.wait()
        return web.Response()

    app = web.Application()
    app.router.add_get("/ping/{rest:.*}", hang)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/ping/a-long-secret-token"
    market = Market()
    try:
        async with market.open_for_trade():
            config = write_config(
                state_dir,
                market,
                a_guard(),
                database_url=database_url,
                extra=f'\n[heartbeat]\nurl = "{url}"\n',
            )
            async with DaemonProcess(config) as daemon:
                await daemon.until("daemon.ready", "armed=1")
                await asyncio.wait_for(pinged.wait(), 30)
                market.move(BREACHED)
                await daemon.until("action.done", "close_position")
                assert await daemon.end() == 0
        assert not any("a-long-secret-token" in line for line in daemon.lines)
    finally:
        forever.set()
        await runner.cleanup()
