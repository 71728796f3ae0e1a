"""Streams over real sockets: connected for ever, in order, and never believed blindly."""

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import hmac
import socket as sockets
from collections.abc import AsyncIterator
from fractions import Fraction
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from marginguard.aio import SystemClock
from marginguard.domain.errors import Unauthorized, Unreachable
from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats, Usd
from marginguard.lnmarkets import stream_protocol
from marginguard.lnmarkets.server_clock import ServerClock, TimeReading
from marginguard.lnmarkets.signing import Credentials
from marginguard.lnmarkets.stream import StreamLimits, StreamTimings
from marginguard.lnmarkets.stream_account import AccountListener, AccountStream
from marginguard.lnmarkets.stream_connection import BoundedLog, Connection
from marginguard.lnmarkets.stream_prices import PublicStream
from marginguard.simulator import accounts as simulator_accounts
from marginguard.simulator.accounts import Account
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.server import RunningServer, serve
from marginguard.simulator.trades import Order
from tests.integration.canned_exchange import TRADE_ID, HandClock
from tests.integration.canned_stream import (
    CROSS,
    INDEX,
    LAST_PRICE,
    TRADES,
    CannedStream,
    canned_stream,
    index,
    last_price,
    push,
    refusal,
)

QUICK = StreamTimings(
    connect_s=2.0,
    answer_s=2.0,
    close_s=0.1,
    heartbeat_s=60.0,
    settled_s=60.0,
    backoff_first_s=0.01,
    backoff_most_s=0.05,
    refused_s=0.05,
)
CREDENTIALS = Credentials(key="key", secret="a-secret", passphrase="a-passphrase")
GRANTED = {"result": {"authenticated": True, "permissions": ["futures:isolated:read"]}}


def timings(**changes: float) -> StreamTimings:
    return dataclasses.replace(QUICK, **changes)


class Hearing:
    """Keeps all that a stream tells, and lets a test wait for it."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.changed = asyncio.Event()

    def note(self, *what: Any) -> None:
        self.told.append(what)
        self.changed.set()

    def take_last(self, price: float, _received_s: float) -> None:
        self.note("last", price)

    def take_index(self, price: float, _received_s: float) -> None:
        self.note("index", price)

    @property
    def prices(self) -> list[tuple[Any, ...]]:
        return [what for what in self.told if what[0] in {"last", "index"}]

    def times(self, name: str) -> int:
        return sum(what[0] == name for what in self.told)

    async def until(self, what: tuple[Any, ...], times: int = 1) -> None:
        async with asyncio.timeout(10):
            while self.told.count(what) < times:
                self.changed.clear()
                await self.changed.wait()


class Resyncs:
    """The exchange's `/time`; counts how often it was asked."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> TimeReading:
        self.times += 1
        return TimeReading(time=SystemClock().now(), round_trip_s=0.001)


class Budget:
    """Lets so many connections be made, and no more until `more` is set."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.spent = asyncio.Event()
        self.more = asyncio.Event()

    async def acquire(self) -> None:
        if self.left == 0:
            self.spent.set()
            await self.more.wait()
            return
        self.left -= 1

    def limits(self) -> StreamLimits:
        return StreamLimits(connections=self)


@contextlib.asynccontextmanager
async def running(stream: PublicStream | AccountStream) -> AsyncIterator[None]:
    """Run the stream; it must still run at the end, and stop when asked to."""
    stop = asyncio.Event()
    task = asyncio.create_task(stream.run(stop))
    try:
        yield
        assert not task.done()
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await task


def public(server: CannedStream | RunningServer, hearing: Hearing, **settings: Any) -> PublicStream:
    defaults: dict[str, Any] = {
        "on_snapshot_needed": lambda: hearing.note("snapshot"),
        "server_clock": ServerClock(Resyncs(), SystemClock()),
        "clock": SystemClock(),
        "limits": StreamLimits(),
        "stale_after_s": 30.0,
        "timings": QUICK,
    }
    url = server.stream_url if isinstance(server, RunningServer) else server.url
    return PublicStream(url, hearing, **(defaults | settings))


def private(
    server: CannedStream | RunningServer,
    hearing: Hearing,
    resyncs: Resyncs | None = None,
    **settings: Any,
) -> AccountStream:
    listener = AccountListener(
        on_account_event=lambda kind, position_id: hearing.note("event", kind, position_id),
        on_snapshot_needed=lambda: hearing.note("snapshot"),
        on_permissions=lambda granted: hearing.note("permissions", granted),
        on_refused=lambda error: hearing.note("refused", type(error)),
    )
    defaults: dict[str, Any] = {
        "listener": listener,
        "server_clock": ServerClock(resyncs or Resyncs(), SystemClock()),
        "clock": SystemClock(),
        "limits": StreamLimits(),
        "timings": QUICK,
    }
    url = server.stream_url if isinstance(server, RunningServer) else server.url
    return AccountStream(url, "main", CREDENTIALS, **(defaults | settings))


@pytest.fixture
async def server():
    async with canned_stream() as stream:
        yield stream


@pytest.fixture
async def account_server():
    async with canned_stream(topics=4, replies={"authenticate": lambda _: GRANTED}) as stream:
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


async def test_one_refused_topic_does_not_take_the_others_along(account_server, hearing):
    def reply(request: dict[str, Any]) -> dict[str, Any]:
        topics = request["params"]["topics"]
        return refusal("FORBIDDEN") if topics == [CROSS] else {"result": {"subscribed": topics}}

    account_server.replies["subscribe"] = reply
    with capture_logs() as logs:
        async with running(private(account_server, hearing)):
            socket = await account_server.subscribed()
            await socket.send_str(push(TRADES, {"event": "closed", "trade": {"id": TRADE_ID}}))
            await hearing.until(("event", "isolated.closed", TRADE_ID))
    refused = [log for log in logs if log["event"] == "stream.topic_refused"]
    assert [log["topic"] for log in refused] == [CROSS]


async def test_an_account_authenticates_before_it_subscribes(account_server, hearing):
    stream = private(account_server, hearing)
    assert stream.permissions is None
    async with running(stream):
        await hearing.until(("snapshot",))
    assert [request["method"] for request in account_server.requests] == [
        "hello",
        "authenticate",
        *4 * ["subscribe"],
    ]
    assert stream.permissions == {"futures:isolated:read"}
    assert hearing.told == [("permissions", {"futures:isolated:read"}), ("snapshot",)]
    (params,) = [request["params"] for request in account_server.asked("authenticate")]
    signed = f"{params['timestamp']}{params['nonce']}".encode()
    expected = hmac.new(b"a-secret", signed, hashlib.sha256).digest()
    assert params["signature"] == base64.b64encode(expected).decode()
    assert (params["key"], params["passphrase"]) == ("key", "a-passphrase")
    assert isinstance(params["timestamp"], int)
    assert "a-secret" not in str(account_server.requests)


async def test_an_account_hears_of_its_events(account_server, hearing):
    async with running(private(account_server, hearing)):
        socket = await account_server.subscribed()
        await hearing.until(("snapshot",))
        for frame in (
            push(TRADES, {"event": "liquidation", "trade": {"id": TRADE_ID}}),
            push(CROSS, {"event": "deposit", "position": {}}),
            push("wallet/deposit", {}),
        ):
            await socket.send_str(frame)
        await hearing.until(("event", "wallet.deposit", None))
    assert hearing.told[2:] == [
        ("event", "isolated.liquidation", TRADE_ID),
        ("event", "cross.deposit", "cross"),
        ("event", "wallet.deposit", None),
    ]


async def test_after_a_kill_an_account_authenticates_and_subscribes_again(account_server, hearing):
    """Failure 18: reconnect, authenticate, subscribe, snapshot."""
    async with running(private(account_server, hearing)):
        (await account_server.subscribed())._req.transport.abort()
        await account_server.subscribed(2)
        await hearing.until(("snapshot",), 2)
    nonces = {request["params"]["nonce"] for request in account_server.asked("authenticate")}
    assert len(nonces) == 2
    assert len(account_server.asked("subscribe")) == 8


async def test_a_refused_key_is_reported_after_a_clock_resync_and_tried_again(
    account_server, hearing
):
    """Failure 6: refused again with the exchange's time: reported, and tried slowly."""
    resyncs = Resyncs()
    account_server.replies["authenticate"] = lambda _request: refusal("UNAUTHORIZED")
    async with running(private(account_server, hearing, resyncs)):
        await hearing.until(("refused", Unauthorized), 2)
        account_server.replies["authenticate"] = lambda _request: GRANTED
        await hearing.until(("snapshot",))
    refused = hearing.times("refused")
    assert resyncs.times == refused
    assert len(account_server.asked("authenticate")) == 2 * refused + 1


async def test_a_key_refused_for_its_time_alone_is_not_reported(account_server, hearing):
    """Failure 8: the clock is measured again first."""
    answers = iter([refusal("UNAUTHORIZED"), GRANTED])
    account_server.replies["authenticate"] = lambda _request: next(answers)
    resyncs = Resyncs()
    async with running(private(account_server, hearing, resyncs)):
        await hearing.until(("snapshot",))
    assert hearing.times("refused") == 0
    assert resyncs.times == 1
    assert account_server.connections == 1


async def test_the_pause_after_a_refusal_is_the_slow_one(account_server, hearing):
    """Failure 6: one attempt every 30 s."""
    stream = private(account_server, hearing, timings=StreamTimings())._stream
    refused = Unauthorized("no", status=401, code="UNAUTHORIZED")
    assert stream._note_failure(refused) == 30.0
    assert stream._note_failure(Unreachable("no network")) <= 1.0


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


@pytest.mark.parametrize("code", ["TOO_MANY_REQUESTS", "INTERNAL_SERVER_ERROR"])
async def test_trouble_while_authenticating_is_no_refusal(account_server, hearing, code):
    answers = iter([refusal(code), {"result": {"authenticated": True}}, GRANTED])
    account_server.replies["authenticate"] = lambda _request: next(answers)
    async with running(private(account_server, hearing)):
        await hearing.until(("snapshot",))
    assert hearing.times("refused") == 0
    assert account_server.connections == 3


async def test_secrets_stay_out_of_the_log(account_server, hearing):
    """Failure 36: neither secret nor passphrase is logged, whatever goes wrong."""
    account_server.replies["authenticate"] = lambda _request: refusal("UNAUTHORIZED")
    with capture_logs() as logs:
        async with running(private(account_server, hearing)):
            await hearing.until(("refused", Unauthorized))
    assert "a-secret" not in str(logs)
    assert "a-passphrase" not in str(logs)


async def test_a_stop_ends_a_stream_that_waits_for_anything(server, hearing):
    server.replies["hello"] = None
    async with running(public(server, hearing, timings=timings(answer_s=600.0))):
        await server.until(lambda: bool(server.asked("hello")))


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


@contextlib.asynccontextmanager
async def simulated(key: str = "key") -> AsyncIterator[tuple[Exchange, Account, RunningServer]]:
    """The simulated exchange at 100,000, with one account."""
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1))
    account = exchange.add_account(
        simulator_accounts.Credentials(key=key, secret="a-secret", passphrase="a-passphrase"),
        Sats(10_000_000),
    )
    async with serve(exchange) as server:
        yield exchange, account, server


async def steer(server: RunningServer, fault: str) -> None:
    async with (
        aiohttp.ClientSession(server.base_url) as session,
        session.post("/simulator/stream", json={"fault": fault}) as answer,
    ):
        assert answer.status == 200


async def test_prices_of_the_simulated_exchange_survive_kill_and_silence(hearing):
    """Failure 17, failure 18: against the exchange's whole protocol."""
    budget = Budget(2)
    async with simulated() as (exchange, _account, server):
        stream = public(server, hearing, stale_after_s=0.5, limits=budget.limits())
        async with running(stream):
            await hearing.until(("index", 100_000))
            exchange.set_price(Price(99_000.5), server.clock.now())
            await hearing.until(("last", 99_000.5))
            await steer(server, "kill")
            await hearing.until(("snapshot",), 2)
            await steer(server, "silence")
            await budget.spent.wait()
            await steer(server, "resume")
            exchange.set_price(Price(98_000.0), server.clock.now())
            budget.more.set()
            await hearing.until(("snapshot",), 3)
            await hearing.until(("last", 98_000))


async def test_an_account_of_the_simulated_exchange_hears_of_its_trades(hearing):
    async with simulated() as (exchange, account, server):
        stream = private(server, hearing)
        async with running(stream):
            await hearing.until(("snapshot",))
            order = Order(side=Side.LONG, leverage=Fraction(10), quantity=Usd(1_000))
            trade = exchange.open_trade(account, order, server.clock.now())
            exchange.set_price(Price(90_000.0), server.clock.now())
            await hearing.until(("event", "isolated.liquidation", str(trade.id)))
        assert stream.permissions == set(account.permissions)
        assert stream.permissions


async def test_the_simulated_exchange_refuses_an_unknown_key(hearing):
    async with simulated(key="another") as (_exchange, _account, server):
        stream = private(server, hearing)
        async with running(stream):
            await hearing.until(("refused", Unauthorized))
        assert stream.permissions is None
