"""A stream over a real socket: connected for ever, whatever ends a connection."""

import socket as sockets

import pytest
from structlog.testing import capture_logs

from marginguard.aio import SystemClock
from marginguard.domain.errors import Unreachable
from marginguard.lnmarkets.stream import StreamLimits, StreamTimings
from marginguard.lnmarkets.stream_connection import BoundedLog, Connection
from tests.integration.canned_exchange import HandClock
from tests.integration.canned_stream import CannedStream, canned_stream, refusal
from tests.integration.hearing import (
    Budget,
    Hearing,
    account_stream,
    private,
    public,
    running,
    timings,
)


@pytest.fixture
async def server():
    async with canned_stream() as stream:
        yield stream


@pytest.fixture
async def account_server():
    async with account_stream() as stream:
        yield stream


@pytest.fixture
def hearing():
    return Hearing()


async def test_a_killed_socket_is_replaced_and_a_snapshot_asked_for(server, hearing):
    """Failure 18: connect, subscribe, snapshot."""
    async with running(public(server, hearing)):
        for number in range(1, 5):
            await server.subscribed(number)
            await server.price(100_000 + number)
            await hearing.until(("last", 100_000 + number))
            server.sockets[-1]._req.transport.abort()
        await server.subscribed(5)
        await hearing.until(("snapshot",), 5)
    assert len(server.asked("subscribe")) == 10


async def test_a_server_that_hangs_up_politely_is_called_again(server, hearing):
    async with running(public(server, hearing)):
        await (await server.subscribed()).close(code=1012)
        await server.subscribed(2)
        await hearing.until(("snapshot",), 2)


async def test_an_exchange_that_is_away_is_tried_until_it_is_back(hearing):
    with sockets.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        budget = Budget(4)
        nowhere = CannedStream(port=port)
        with capture_logs() as logs:
            async with running(public(nowhere, hearing, limits=budget.limits())):
                await budget.spent.wait()
                taken.close()
                async with canned_stream(port=port) as server:
                    budget.more.set()
                    await server.subscribed()
                    await hearing.until(("snapshot",))
                    await server.sockets[-1].close()
    levels = [log["log_level"] for log in logs if log["event"] == "stream.lost"]
    assert levels[:4] == ["warning", "debug", "debug", "debug"]


async def test_a_heartbeat_without_an_answer_has_the_connection_replaced(account_server, hearing):
    """Failure 17: a half-open socket is found though an account may be silent for days."""
    account_server.replies["ping"] = None
    stream = private(account_server, hearing, timings=timings(heartbeat_s=0.02, answer_s=0.1))
    async with running(stream):
        await account_server.subscribed(2)
    assert account_server.asked("ping")


async def test_heartbeats_that_are_answered_keep_the_connection(account_server, hearing):
    stream = private(account_server, hearing, timings=timings(heartbeat_s=0.01))
    async with running(stream):
        await account_server.until(lambda: len(account_server.asked("ping")) >= 5)
    assert account_server.connections == 1


async def test_a_hello_without_an_answer_is_tried_on_a_new_connection(server, hearing):
    server.replies["hello"] = None
    async with running(public(server, hearing, timings=timings(answer_s=0.1))):
        await server.until(lambda: len(server.asked("hello")) >= 2)
        server.replies["hello"] = lambda _request: {"result": {"version": "1.0.0"}}
        await server.subscribed()


async def test_new_connections_stay_within_the_budget(server, hearing):
    """However often it hangs up, the exchange is not called more often than it allows."""
    server.greetings = ["x" * 20_000]
    budget = Budget(3)
    async with running(public(server, hearing, limits=budget.limits())):
        await budget.spent.wait()
        assert server.connections == 3


async def test_the_budgets_hold_the_exchanges_limits():
    limits = StreamLimits()
    for limiter, allowed, window_s in (
        (limits.connections, 500, 3600),
        (limits.authentications, 20, 60),
    ):
        rate = limiter.max_rate / limiter.time_period
        assert limiter.max_rate + rate * window_s <= allowed


async def test_a_stream_whose_topics_are_all_refused_tries_again(server, hearing):
    server.replies["subscribe"] = lambda _request: refusal("BAD_REQUEST")
    async with running(public(server, hearing)):
        await server.until(lambda: server.connections >= 2)
        assert hearing.told == []


async def test_failures_in_a_row_pause_longer_until_a_connection_lasted(server, hearing):
    clock = HandClock()
    stream = public(server, hearing, clock=clock, timings=StreamTimings())._stream
    lost = Unreachable("no network")
    pauses = [stream._note_failure(lost) for _ in range(8)]
    assert all(1.0 <= pause_s <= 30.0 for pause_s in pauses[2:])
    stream._greeted_s = clock.monotonic()
    clock.pass_time(4.9)
    assert stream._note_failure(lost) >= 15.0
    clock.pass_time(0.2)
    assert stream._note_failure(lost) <= 0.5


async def test_a_stop_ends_a_stream_that_waits_for_anything(server, hearing):
    server.replies["hello"] = None
    async with running(public(server, hearing, timings=timings(answer_s=600.0))):
        await server.until(lambda: bool(server.asked("hello")))


def test_a_recurring_fault_is_told_of_at_first_and_then_once_a_minute():
    clock = HandClock()
    with capture_logs() as logs:
        log = BoundedLog("stream.malformed", clock, stream="prices")
        for _ in range(150):
            log.note("NaN")
            clock.pass_time(1.0)
    assert [entry["times"] for entry in logs] == [1, 60, 60]
    assert log.count == 150


async def test_a_call_on_a_broken_socket_is_unreachable():
    class Broken:
        async def send_frame(self, _data: bytes, _kind: object) -> None:
            raise ConnectionResetError("Cannot write to closing transport")

    connection = Connection(
        Broken(), answer_s=5.0, malformed=BoundedLog("stream.malformed", SystemClock())
    )
    with pytest.raises(Unreachable, match="could not be sent"):
        await connection.call("ping")
