"""Prices over real sockets: in order, and never believed blindly."""

import asyncio
import contextlib

import pytest
from structlog.testing import capture_logs

from marginguard.aio import SystemClock
from marginguard.lnmarkets import stream_protocol
from marginguard.lnmarkets.server_clock import ServerClock
from tests.integration.canned_stream import (
    INDEX,
    LAST_PRICE,
    TRADES,
    canned_stream,
    index,
    last_price,
    push,
)
from tests.integration.hearing import Hearing, Resyncs, public, running


@pytest.fixture
async def server():
    async with canned_stream() as stream:
        yield stream


@pytest.fixture
def hearing():
    return Hearing()


async def test_prices_arrive_in_order_after_hello_and_subscribe(server, hearing):
    async with running(public(server, hearing)):
        socket = await server.subscribed()
        for number, price in enumerate([100_000, 99_000.5, 101_000], start=1):
            await socket.send_str(last_price(price, number))
        await socket.send_str(index(100_001, 1))
        await hearing.until(("index", 100_001))
    assert hearing.prices == [
        ("last", 100_000),
        ("last", 99_000.5),
        ("last", 101_000),
        ("index", 100_001),
    ]
    assert hearing.times("snapshot") == 1
    assert [request["method"] for request in server.requests] == ["hello"] + 2 * ["subscribe"]
    assert server.requests[0]["params"]["clientName"] == "marginguard"
    assert [request["params"]["topics"] for request in server.asked("subscribe")] == [
        [LAST_PRICE],
        [INDEX],
    ]


async def test_ticks_out_of_order_and_repeated_are_ignored(server, hearing):
    """Failure 21: by the exchange's own times, for each topic by itself."""
    async with running(public(server, hearing)):
        socket = await server.subscribed()
        for frame in (
            last_price(100_000, 1000),
            last_price(100_000, 1000),
            last_price(90_000, 999),
            index(100_001, 500),
            last_price(100_002, 1001),
        ):
            await socket.send_str(frame)
        await hearing.until(("last", 100_002))
    assert hearing.prices == [("last", 100_000), ("index", 100_001), ("last", 100_002)]


async def test_ticks_far_from_the_exchanges_time_are_ignored_and_told_of_once(server, hearing):
    """Failure 21, failure 19: neither the future nor what waited in a buffer is a price."""
    clock = ServerClock(Resyncs(), SystemClock())
    await clock.resync()
    with capture_logs() as logs:
        async with running(public(server, hearing, server_clock=clock)):
            socket = await server.subscribed()
            now_ms = clock.timestamp_ms()
            for offset_ms in (60_000, -60_000, -50_000, 0):
                await socket.send_str(last_price(100_000 + offset_ms, now_ms + offset_ms))
            await hearing.until(("last", 100_000))
    assert hearing.prices == [("last", 100_000)]
    mistimed = [log for log in logs if log["event"] == "stream.ticks_mistimed"]
    assert [(log["reason"], log["log_level"]) for log in mistimed] == [("future", "warning")]


async def test_a_silent_topic_has_the_connection_replaced(server, hearing):
    """Failure 17: the socket lives, one topic does not."""
    async with running(public(server, hearing, stale_after_s=0.1)):
        await server.subscribed()

        async def keep_the_index_alive() -> None:
            for number in range(10_000):
                if len(server.sockets) > 1:
                    return
                await server.sockets[0].send_str(index(100_000, 1 + number))
                await asyncio.sleep(0.01)

        with contextlib.suppress(ConnectionError):
            await keep_the_index_alive()
        await server.subscribed(2)


async def test_silence_that_replacing_does_not_end_is_borne_longer_each_time(server, hearing):
    """The exchange allows 500 new connections an hour."""
    stream = public(server, hearing, stale_after_s=0.02)
    async with running(stream):
        await server.subscribed(4)
    assert max(stream._patience.values()) >= 0.04 * 4


async def test_a_topic_that_speaks_again_is_watched_as_closely_as_before(server, hearing):
    stream = public(server, hearing, stale_after_s=0.02)
    async with running(stream):
        await server.subscribed(3)
        with contextlib.suppress(ConnectionError):
            await server.price(100_000)
        await hearing.until(("last", 100_000))
        assert stream._patience[LAST_PRICE] == 0.04


BAD_FRAMES = [
    b"not json",
    "not json",
    "",
    "[]",
    "null",
    '{"jsonrpc":"2.0"}',
    '{"jsonrpc":"2.0","id":"999","result":"pong"}',
    '{"jsonrpc":"2.0","id":"1","result":"pong"}',
    '{"jsonrpc":"2.0","id":null,"error":{"code":-32700}}',
    push(LAST_PRICE, None),
    push(LAST_PRICE, {"time": 5, "lastPrice": float("nan")}),
    push(LAST_PRICE, {"time": 5, "lastPrice": "100000"}),
    push(LAST_PRICE, {"time": 5, "lastPrice": -1}),
    push(LAST_PRICE, {"time": 5, "lastPrice": 1e300}),
    push(LAST_PRICE, {"time": 5.5, "lastPrice": 100_000}),
    push(TRADES, {"event": "closed"}),
    push("announcements", {"text": "new"}),
    push(TRADES, {"event": "renamed", "trade": {}}),
    "[" * 16_000,
]


async def test_nothing_malformed_ends_the_stream_or_becomes_a_price(server, hearing):
    """Failure 10: refused, counted, told of once, and the stream goes on."""
    with capture_logs() as logs:
        async with running(public(server, hearing)):
            socket = await server.subscribed()
            for number, frame in enumerate(BAD_FRAMES, start=1):
                if isinstance(frame, bytes):
                    await socket.send_bytes(frame)
                else:
                    await socket.send_str(frame)
                await socket.send_str(last_price(100_000 + number, 1000 + number))
            await hearing.until(("last", 100_000 + len(BAD_FRAMES)))
    assert hearing.prices == [
        ("last", 100_000 + number) for number in range(1, len(BAD_FRAMES) + 1)
    ]
    assert server.connections == 1
    assert sorted(log["event"] for log in logs) == ["stream.connected", "stream.malformed"]


async def test_pushes_that_come_before_any_answer_are_taken(server, hearing):
    server.greetings = [last_price(100_000, 1)]
    async with running(public(server, hearing)):
        await hearing.until(("last", 100_000))
        await server.subscribed()


async def test_a_message_of_16_kib_is_accepted_and_a_longer_one_has_us_reconnect(server, hearing):
    def padded(price: float, time_ms: int, size: int) -> str:
        data = {"time": time_ms, "lastPrice": price, "padding": ""}
        data["padding"] = "x" * (size - len(push(LAST_PRICE, data)))
        return push(LAST_PRICE, data)

    limit = stream_protocol.MAX_MESSAGE_BYTES
    async with running(public(server, hearing)):
        socket = await server.subscribed()
        await socket.send_str(padded(100_000, 1, limit))
        await hearing.until(("last", 100_000))
        await socket.send_str(padded(50_000, 2, limit + 1))
        await server.subscribed(2)
        await server.sockets[-1].send_str(last_price(100_001, 3))
        await hearing.until(("last", 100_001))
    assert ("last", 50_000) not in hearing.told


async def test_a_sink_that_fails_ends_the_stream_loudly(server, hearing):
    """Failure 37: a fault of our own is not taken for a lost connection."""

    def fail(_price: float, _received_s: float) -> None:
        raise RuntimeError("a bug")

    hearing.take_last = fail
    task = asyncio.create_task(public(server, hearing).run(asyncio.Event()))
    await server.subscribed()
    await server.price(100_000)
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(10):
            await task
    assert caught.group_contains(RuntimeError, match="a bug")
