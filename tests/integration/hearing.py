"""The streams under test, as they are set up here, and who listens to them."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

from marginguard.aio import SystemClock
from marginguard.lnmarkets.server_clock import ServerClock, TimeReading
from marginguard.lnmarkets.signing import Credentials
from marginguard.lnmarkets.stream import StreamLimits, StreamTimings
from marginguard.lnmarkets.stream_account import AccountListener, AccountStream
from marginguard.lnmarkets.stream_prices import PublicStream
from marginguard.simulator.server import RunningServer
from tests.integration.canned_stream import CannedStream, canned_stream

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


def account_stream():
    """Serve the topics of an account, to whoever authenticates."""
    return canned_stream(topics=4, replies={"authenticate": lambda _: GRANTED})
