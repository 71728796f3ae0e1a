"""The simulated exchange over real sockets: steering, the record of calls, faults, its end."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import pytest

from marginguard.domain.errors import ConfigError
from marginguard.simulator.exchange import Exchange
from marginguard.simulator.server import serve
from tests.integration.served_exchange import BALANCE, an_exchange, served
from tests.integration.signed_client import NOW, TRADE, Answer, Client, StillClock


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def exchange() -> Exchange:
    return an_exchange()


@pytest.fixture
async def client(exchange: Exchange, clock: StillClock) -> AsyncIterator[Client]:
    async with served(exchange, clock) as client:
        yield client


async def test_a_price_set_by_hand_liquidates_and_shows_in_the_state(client):
    trade = await client.open_trade()

    answer = await client.plain("PUT", "/simulator/price", '{"price": 80000.5}')

    assert answer.value == {"price": 80_000.5}
    state = (await client.plain("GET", "/simulator/state")).value
    assert state["price"] == state["index"] == 80_000.5
    assert state["crossPositions"] == []
    (ended,) = state["trades"]
    assert (ended["ending"], ended["account"]) == ("liquidation", "key")
    assert ended["pl"] == -trade["margin"]
    (account,) = state["accounts"]
    assert account["key"] == "key"
    assert account["balance"] == account["equity"] == BALANCE - 100_000 - 2_100
    assert "secret" not in json.dumps(state)


async def test_funding_is_settled_on_demand(client):
    trade = await client.open_trade()

    answer = await client.plain("POST", "/simulator/funding", '{"rate": 0.0001}')

    assert answer.status == 200
    (settled,) = await client.running()
    assert settled["sumFundingFees"] == 100
    assert settled["margin"] == trade["margin"] - 100


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("PUT", "price", '{"price": 0}', ["Price", "0.5"]),
        ("PUT", "price", '{"price": 100.3}', ["steps of 0.5"]),
        ("PUT", "price", '{"price": "high"}', ["price"]),
        ("PUT", "price", '{"prize": 1}', ["price", "prize"]),
        ("PUT", "price", '{"price": 99000, "index": 0.3}', ["Index", "0.5"]),
        ("PUT", "price", "", ["body"]),
        ("POST", "funding", '{"rate": null}', ["rate"]),
        ("POST", "faults", '{"fault": "explode"}', ["method", "path", "fault", "blackhole"]),
        ("POST", "faults", '{"method": "GET", "path": "/v3/a", "fault": "late"}', ["delay"]),
    ],
)
async def test_a_wrong_control_call_is_refused_by_name(client, method, path, body, words):
    answer = await client.plain(method, f"/simulator/{path}", body)

    assert (answer.status, answer.value["code"]) == (400, "BAD_REQUEST")
    for word in words:
        assert word in answer.value["message"]
    assert (await client.plain("GET", "/simulator/state")).value["price"] == 100_000


async def test_every_call_that_asks_for_a_change_has_a_row(client):
    trade = await client.open_trade()
    await client.running()
    await client.call("DELETE", f"{TRADE}/stoploss", id=trade["id"])
    client.key = "nobody"
    await client.call("POST", f"{TRADE}/close", {"id": trade["id"]})

    opened, deleted, refused = await client.calls()

    assert opened == {
        "time": "2026-01-01T12:00:00.000Z",
        "account": "key",
        "method": "POST",
        "path": TRADE,
        "body": {"type": "market", "side": "buy", "leverage": 10, "quantity": 1_000},
        "status": 200,
        "applied": True,
    }
    assert (deleted["path"], deleted["body"]) == (f"{TRADE}/stoploss", {"id": trade["id"]})
    assert (refused["account"], refused["status"], refused["applied"]) == ("nobody", 401, False)


@pytest.mark.parametrize(
    ("fault", "more", "status", "applied"),
    [
        ("status", {"status": 503}, 503, False),
        ("status", {"status": 429}, 429, False),
        ("status_after", {"status": 500}, 500, True),
        ("status_after", {"status": 504}, 504, True),
        ("delay", {"delay": 0.01}, 200, True),
        ("malformed", {}, 200, True),
    ],
)
async def test_a_fault_that_answers_tells_the_truth_in_the_calls(
    client, fault, more, status, applied
):
    trade = await client.open_trade()
    await client.fault("POST", f"{TRADE}/close", fault, **more)

    answer = await client.call("POST", f"{TRADE}/close", {"id": trade["id"]})

    assert answer.status == status
    row = (await client.calls())[-1]
    assert (row["status"], row["applied"]) == (status, applied)
    assert len(await client.running()) == (0 if applied else 1)


async def test_a_malformed_answer_is_half_of_the_json(client):
    await client.fault("GET", "/v3/account", "malformed")

    answer = await client.call("GET", "/v3/account")

    assert answer.status == 200
    with pytest.raises(json.JSONDecodeError):
        _ = answer.value


@pytest.mark.parametrize(("fault", "applied"), [("drop_request", False), ("drop_response", True)])
async def test_a_dropped_connection_may_or_may_not_have_been_carried_out(client, fault, applied):
    trade = await client.open_trade()
    await client.fault("POST", f"{TRADE}/close", fault)

    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.call("POST", f"{TRADE}/close", {"id": trade["id"]})

    row = (await client.calls())[-1]
    assert (row["status"], row["applied"]) == (None, applied)
    assert len(await client.running()) == (0 if applied else 1)


@pytest.mark.parametrize("processed", [True, False])
async def test_a_black_hole_never_answers(client, processed):
    trade = await client.open_trade()
    await client.fault("POST", f"{TRADE}/close", "blackhole", processed=processed)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.call("POST", f"{TRADE}/close", {"id": trade["id"]})

    row = (await client.calls())[-1]
    assert (row["status"], row["applied"]) == (None, processed)
    assert len(await client.running()) == (0 if processed else 1)


async def test_a_late_call_is_applied_after_the_connection_closed(client):
    trade = await client.open_trade()
    await client.fault("POST", f"{TRADE}/close", "late", delay=0.2)

    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.call("POST", f"{TRADE}/close", {"id": trade["id"]})

    assert len(await client.running()) == 1
    async with asyncio.timeout(5):
        while await client.running():
            pass
    row = (await client.calls())[-1]
    assert (row["status"], row["applied"]) == (None, True)


async def test_a_call_that_comes_later_than_its_signature_lives_is_not_applied(client, clock):
    """Failure 2: after 30 s a signed request can no longer take effect."""
    trade = await client.open_trade()
    await client.fault("POST", f"{TRADE}/close", "delay", delay=0.05)

    async def close() -> Answer:
        return await client.call("POST", f"{TRADE}/close", {"id": trade["id"]})

    async with asyncio.TaskGroup() as tasks:
        call = tasks.create_task(close())
        async with asyncio.timeout(5):
            while len(await client.calls()) < 2:
                pass
        clock.time = NOW + timedelta(seconds=31)

    assert call.result().status == 401
    assert (await client.calls())[-1]["applied"] is False


async def test_a_fault_is_used_up(client):
    await client.fault("GET", "/v3/ping", "status", status=500, times=2)

    statuses = [(await client.plain("GET", "/v3/ping?x=1")).status for _ in range(3)]

    assert statuses == [500, 500, 200]


async def test_a_gateway_answers_html(client):
    await client.fault("GET", "/v3/ping", "status", status=403, gateway=True)

    answer = await client.plain("GET", "/v3/ping")

    assert answer.status == 403
    assert answer.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("fault", [{"fault": "blackhole"}, {"fault": "delay", "delay": 3600}])
async def test_the_server_ends_while_a_call_waits(exchange, clock, fault):
    async with (
        asyncio.timeout(10),
        aiohttp.ClientSession() as session,
        asyncio.TaskGroup() as tasks,
        serve(exchange, clock=clock, rate_scale=1000) as server,
    ):
        client = Client(session=session, server=server)
        await client.fault("POST", f"{TRADE}/close", **fault)

        async def be_left_hanging() -> None:
            with pytest.raises(aiohttp.ClientConnectionError):
                await client.call("POST", f"{TRADE}/close", {})

        tasks.create_task(be_left_hanging())
        while not await client.calls():
            pass


async def test_a_port_in_use_is_a_config_error(exchange):
    async with serve(exchange) as server:
        with pytest.raises(ConfigError, match=f"port {server.port}: Address already in use"):
            async with serve(exchange, port=server.port):
                pytest.fail("two servers on one port")


async def test_an_error_in_the_block_comes_out_as_it_is(exchange):
    with pytest.raises(ZeroDivisionError):
        async with serve(exchange):
            raise ZeroDivisionError


async def test_an_ipv6_address_is_bracketed_in_the_url(exchange):
    async with serve(exchange, host="::1") as server:
        assert server.rest_url == f"http://[::1]:{server.port}/v3"
