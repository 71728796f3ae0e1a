"""The simulated exchange's stream over real WebSockets: the conversation, limits, faults."""

import asyncio
import contextlib
import json

import aiohttp
import pytest

from marginguard.simulator.limits import Limits
from tests.integration.streamed_market import LAST_PRICE, MARKET, NOW_MS, PATIENCE_S, TRADES, Market


@pytest.fixture
async def market():
    async with Market().serving(rate_scale=100) as market:
        yield market


async def test_the_conversation_of_a_client_that_connects(market):
    async with market.stream() as stream:
        hello = await stream.ask("hello", clientName="test", clientVersion="1")
        pong = await stream.ask("ping")
        time = await stream.ask("time")
        authenticated = await stream.authenticate()
        myself = await stream.ask("whoami")
        await stream.subscribe(LAST_PRICE, TRADES)
        dropped = await stream.ask("unsubscribeAll")

    assert hello["result"] == {"version": "1.0.0"}
    assert pong["result"] == "pong"
    assert time["result"] == {"time": NOW_MS}
    assert authenticated["result"]["authenticated"] is True
    assert myself["result"]["apiKey"] == "key"
    assert dropped["result"] == {"unsubscribed": [LAST_PRICE, TRADES]}
    assert {"usIn", "usOut", "usDiff", "rateLimit"} <= set(hello)


async def test_a_binary_frame_is_a_request_too(market):
    async with market.stream() as stream:
        await stream.socket.send_bytes(b'{"jsonrpc":"2.0","id":"1","method":"ping"}')

        assert (await stream.receive())["result"] == "pong"


async def test_a_message_of_16_kib_is_answered_and_a_longer_one_ends_the_connection(market):
    request = '{"jsonrpc":"2.0","id":"1","method":"ping","params":{"filler":"%s"}}'
    most = request % ("x" * (16 * 1024 - len(request) + 2))
    async with market.stream() as stream:
        await stream.socket.send_str(most)
        answer = await stream.receive()
        await stream.socket.send_str(most + " ")
        message = await stream.socket.receive(PATIENCE_S)

    assert len(most) == 16_384
    assert answer["result"] == "pong"
    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1009)


async def test_a_connection_takes_10_messages_a_second():
    async with Market().serving() as market, market.stream() as stream:
        answers = [await stream.ask("ping") for _ in range(11)]

    assert [answer.get("result") for answer in answers] == ["pong"] * 10 + [None]
    assert answers[-1]["error"]["data"] == {"code": "TOO_MANY_REQUESTS"}


async def test_an_address_may_try_to_authenticate_20_times_a_minute_over_all_connections():
    async with Market().serving(limits=Limits(messages_per_s=100)) as market:
        async with market.stream() as stream:
            for _ in range(20):
                assert "result" in await stream.authenticate()
        async with market.stream() as stream:
            refused = await stream.authenticate()

    assert refused["error"]["data"] == {"code": "TOO_MANY_REQUESTS"}


async def test_a_connection_that_says_nothing_is_closed():
    limits = Limits(idle_timeout_s=1.0)
    async with Market().serving(limits=limits) as market, market.stream() as stream:
        await stream.subscribe(LAST_PRICE)
        message = await stream.socket.receive(PATIENCE_S)
        while message.type is aiohttp.WSMsgType.TEXT:
            message = await stream.socket.receive(PATIENCE_S)

    assert (message.type, message.extra) == (aiohttp.WSMsgType.CLOSE, "idle")


async def test_a_ping_frame_keeps_a_connection_open_and_is_answered():
    limits = Limits(idle_timeout_s=1.0)
    async with Market().serving(limits=limits) as market, market.stream(autoping=False) as stream:
        for number in range(12):
            await stream.socket.ping(b"%d" % number)
            message = await stream.socket.receive(PATIENCE_S)
            assert (message.type, message.data) == (aiohttp.WSMsgType.PONG, b"%d" % number)
            await asyncio.sleep(0.1)  # together longer than the time-out


async def test_an_address_has_32_connections_and_gets_one_when_one_ends(market):
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(market.connect())
        for _ in range(31):
            await stack.enter_async_context(market.connect())
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await stack.enter_async_context(market.connect())
        await first.close()
        async with market.stream() as stream:
            again = await stream.ask("ping")

    assert refused.value.status == 429
    assert refused.value.headers["Retry-After"] == "1"
    assert again["result"] == "pong"


async def test_an_address_opens_so_many_connections_an_hour():
    async with Market().serving(limits=Limits(new_connections_per_hour=3)) as market:
        for _ in range(3):
            async with market.stream() as stream:
                await stream.ask("ping")
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await market.connect()

    assert refused.value.status == 429
    assert refused.value.headers["Retry-After"] == "3600"


async def test_killed_connections_end_without_a_word_and_new_ones_work(market):
    async with market.stream() as stream, market.stream() as other:
        await stream.subscribe(LAST_PRICE)
        answer = await market.fault("kill")
        for killed in (stream, other):
            message = await killed.socket.receive(PATIENCE_S)
            while message.type is aiohttp.WSMsgType.TEXT:
                message = await killed.socket.receive(PATIENCE_S)
            assert message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
            assert killed.socket.close_code in {None, 1006}
    async with market.stream() as stream:
        again = await stream.ask("ping")

    assert answer == (200, {"fault": "kill"})
    assert again["result"] == "pong"


async def test_silence_leaves_sockets_open_but_nothing_is_pushed_or_answered(market):
    """Failure 17: a half-open socket."""
    async with market.stream(autoping=False) as stream:
        await stream.subscribe(LAST_PRICE)
        await market.fault("silence")
        stream.pushed.clear()
        with contextlib.suppress(TimeoutError):
            while True:  # what was under way
                await stream.socket.receive(0.05)
        await stream.send({"jsonrpc": "2.0", "id": "lost", "method": "ping"})
        await stream.socket.ping()
        market.move(99_000)
        with pytest.raises(TimeoutError):  # longer than the heartbeat
            await stream.socket.receive(1.2)
        async with market.connect() as new:
            await new.send_str('{"jsonrpc":"2.0","id":"1","method":"ping"}')
            with pytest.raises(TimeoutError):
                await new.receive(0.2)
        await market.fault("resume")
        answer = await stream.ask("ping")
        beat = await stream.push(LAST_PRICE)

    assert answer["result"] == "pong"
    assert beat["lastPrice"] == 99_000
    assert all("lost" not in json.dumps(frame) for frame in stream.pushed)


@pytest.mark.parametrize("body", [{"fault": "explode"}, {}, {"fault": "kill", "times": 2}])
async def test_a_wrong_fault_is_refused(market, body):
    url = f"{market.server.base_url}/simulator/stream"
    async with market.session.post(url, json=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["code"] == "BAD_REQUEST"


async def test_a_connection_that_does_not_read_is_cut():
    """Failure 26: a frozen client."""
    async with Market().serving() as market, market.stream() as stream:
        await stream.subscribe(f"{MARKET}/ticker")
        for step in range(1_500):
            market.move(100_000.0 + step)
        message = await stream.socket.receive(PATIENCE_S)
        while message.type is aiohttp.WSMsgType.TEXT:
            message = await stream.socket.receive(PATIENCE_S)

    assert message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}


async def test_the_server_says_goodbye_when_it_ends():
    market = Market()
    async with aiohttp.ClientSession() as session:
        async with market.serving():
            socket = await session.ws_connect(market.server.stream_url)
            last = asyncio.create_task(socket.receive(PATIENCE_S))
        message = await last

    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)


async def test_an_exchange_is_not_watched_after_its_server_ended():
    market = Market()
    async with market.serving():
        async with market.stream() as stream:
            await stream.ask("ping")
        assert len(market.exchange.observers) == 1

    assert market.exchange.observers == []
