"""Health checks and metrics over real sockets."""

import asyncio
import contextlib
import socket

import aiohttp
import pytest
import uvloop
from aiohttp.test_utils import unused_port

from marginguard.domain.errors import ConfigError
from marginguard.listen import ListenAddress
from marginguard.telemetry.metrics import Metrics
from marginguard.telemetry.server import Health, serve

FINE = Health(ok=True, reason="3 of 3 guards are armed", details={"armed": 3, "last_cycle_s": 1.5})
BAD = Health(ok=False, reason="no guard is armed")


@contextlib.asynccontextmanager
async def serving(*, live=FINE, ready=FINE, metrics=None):
    """Serve on a free port; give a function that asks for a path."""
    address = ListenAddress(host="127.0.0.1", port=unused_port())
    metrics = metrics or Metrics()
    async with (
        serve(address, live=lambda: live, ready=lambda: ready, registry=metrics.registry),
        aiohttp.ClientSession(f"http://{address}") as session,
    ):

        async def ask(path, method="GET"):
            async with session.request(method, path) as response:
                json = response.content_type == "application/json"
                return response.status, await (response.json() if json else response.text())

        yield ask


async def test_a_daemon_that_does_well_is_200_with_its_figures():
    async with serving() as ask:
        for path in ("/healthz", "/readyz"):
            assert await ask(path) == (
                200,
                {
                    "ok": True,
                    "reason": "3 of 3 guards are armed",
                    "details": {"armed": 3, "last_cycle_s": 1.5},
                },
            )


async def test_alive_and_ready_are_asked_apart_and_503_says_why():
    async with serving(ready=BAD) as ask:
        assert (await ask("/healthz"))[0] == 200
        assert await ask("/readyz") == (
            503,
            {"ok": False, "reason": "no guard is armed", "details": {}},
        )
    async with serving(live=BAD) as ask:
        assert (await ask("/healthz"))[0] == 503
        assert (await ask("/readyz"))[0] == 200


async def test_metrics_are_the_registrys_own_at_the_moment_of_asking():
    metrics = Metrics()
    async with serving(metrics=metrics) as ask:
        metrics.queue_length(1)
        assert "marginguard_queue_length 1.0" in (await ask("/metrics"))[1]
        metrics.queue_length(2)
        status, text = await ask("/metrics")
    assert status == 200
    assert "marginguard_queue_length 2.0" in text
    assert "process_resident_memory_bytes " in text


async def test_nothing_else_is_served_and_nothing_can_be_changed():
    async with serving() as ask:
        assert (await ask("/"))[0] == 404
        for path in ("/healthz", "/readyz", "/metrics"):
            for method in ("POST", "PUT", "DELETE"):
                assert (await ask(path, method))[0] == 405


async def refused(address):
    with pytest.raises(ConfigError) as raised:
        async with serve(
            address, live=lambda: FINE, ready=lambda: FINE, registry=Metrics().registry
        ):
            pass
    (problem,) = raised.value.problems
    return problem


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_port_in_use_is_one_config_error_that_names_the_key(new_loop):
    async def check():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            problem = await refused(ListenAddress(host="127.0.0.1", port=port))
            assert problem.startswith(f'[http] listen = "127.0.0.1:{port}": the port is in use')

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(check())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_address_of_another_machine_or_of_none_is_a_config_error(new_loop):
    async def check():
        elsewhere = await refused(ListenAddress(host="192.0.2.1", port=unused_port()))
        assert "this machine has no such address" in elsewhere
        nowhere = await refused(ListenAddress(host="no.such.host.invalid", port=unused_port()))
        assert "the host is not known" in nowhere

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(check())


async def test_a_client_that_holds_its_connection_open_does_not_hold_up_the_end():
    address = ListenAddress(host="127.0.0.1", port=unused_port())
    async with asyncio.timeout(30):
        async with serve(
            address, live=lambda: FINE, ready=lambda: FINE, registry=Metrics().registry
        ):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(b"GET /healthz HTTP/1.1\r\n")  # and never the rest
            await writer.drain()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
