"""Staying connected to the exchange's stream for ever, within its limits.

What is said over the connection is the conversation's: prices in `stream_prices.py`, an
account's events in `stream_account.py`.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
import structlog
from aiolimiter import AsyncLimiter

import marginguard
from marginguard.aio import sleep_or_stop, unless_stopped
from marginguard.domain.errors import Rejected, Transient, Unauthorized, Unreachable
from marginguard.lnmarkets.stream_connection import BoundedLog, Connection, cause
from marginguard.lnmarkets.stream_protocol import MAX_MESSAGE_BYTES, Frame
from marginguard.ports import Clock


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamTimings:
    """How long to wait for what, in seconds.

    A connection that lasted `settled_s` was a good one: after it the first attempt follows
    soon, and each that fails doubles the pause up to `backoff_most_s`. The exchange hangs up
    after 120 s without a message from us.
    """

    connect_s: float = 5.0
    answer_s: float = 5.0
    close_s: float = 1.0
    heartbeat_s: float = 10.0
    settled_s: float = 5.0
    backoff_first_s: float = 0.5
    backoff_most_s: float = 30.0
    refused_s: float = 30.0


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Budgets that all streams from this address share; create them in the running loop.

    The exchange allows 500 new connections an hour and 20 authenticates a minute for an
    address. Each budget is a burst and a rate that cannot add up to more: 100 and 300 an hour
    (so that hours of trouble never lock us out), 10 and 10 a minute.
    """

    connections: AsyncLimiter = field(default_factory=lambda: AsyncLimiter(100, 1200))
    authentications: AsyncLimiter = field(default_factory=lambda: AsyncLimiter(10, 60))


class Conversation(Protocol):
    """What is said over a connection."""

    name: str
    """Names the stream in the log."""

    async def greet(self, connection: Connection) -> None:
        """Authenticate and subscribe; raises what `Connection.call` raises."""
        ...

    def push(self, frame: Frame) -> None:
        """Take a push; returns quickly."""
        ...

    async def watch(self) -> None:
        """Raise `Unreachable` when the connection should be replaced; may return at once."""
        ...


class Stream:
    """Keeps one connection to `url` (`wss://host/v1`) and holds `conversation` over it."""

    def __init__(
        self,
        url: str,
        conversation: Conversation,
        *,
        on_snapshot_needed: Callable[[], None],
        clock: Clock,
        limits: StreamLimits,
        timings: StreamTimings,
    ) -> None:
        self._url = url
        self._conversation = conversation
        self._on_snapshot_needed = on_snapshot_needed
        self._clock = clock
        self._limits = limits
        self._timings = timings
        self._log = structlog.get_logger().bind(stream=conversation.name)
        self._malformed = BoundedLog(
            "stream.malformed",
            clock,
            stream=conversation.name,
            meaning="a message that cannot be used was left out; the stream goes on",
        )
        self._failures = 0
        self._greeted_s: float | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Connect, and connect again whenever the connection ends, until `stop` is set."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            while not stop.is_set():
                self._greeted_s = None
                errors: list[BaseException] = []
                try:
                    await unless_stopped(self._converse(session), stop)
                except* (Transient, Rejected) as group:
                    errors = list(_leaves(group))
                if errors:
                    await sleep_or_stop(self._note_failure(errors[0]), stop)

    async def _converse(self, session: aiohttp.ClientSession) -> None:
        await self._limits.connections.acquire()
        async with contextlib.AsyncExitStack() as stack:
            socket = await self._open(stack, session)
            connection = Connection(
                socket, answer_s=self._timings.answer_s, malformed=self._malformed
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(connection.read(self._conversation.push), name="read")
                await connection.call(
                    "hello", {"clientName": "marginguard", "clientVersion": marginguard.__version__}
                )
                await self._conversation.greet(connection)
                self._greeted_s = self._clock.monotonic()
                self._log.info("stream.connected", after_failures=self._failures)
                # Whatever happened before the subscription is known to a read alone.
                self._on_snapshot_needed()
                group.create_task(connection.beat(self._timings.heartbeat_s), name="beat")
                await self._conversation.watch()

    async def _open(
        self, stack: contextlib.AsyncExitStack, session: aiohttp.ClientSession
    ) -> aiohttp.ClientWebSocketResponse[bool]:
        connecting = session.ws_connect(
            self._url,
            timeout=aiohttp.ClientWSTimeout(ws_close=self._timings.close_s),
            max_msg_size=MAX_MESSAGE_BYTES + 1,
            decode_text=False,
        )
        try:
            async with asyncio.timeout(self._timings.connect_s):
                return await stack.enter_async_context(connecting)
        except TimeoutError as error:
            raise Unreachable(f"no connection within {self._timings.connect_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"no connection: {cause(error)}") from error

    def _note_failure(self, error: BaseException) -> float:
        """Count and tell a failure; return the pause before the next attempt."""
        greeted_s = self._greeted_s
        settled = (
            greeted_s is not None and self._clock.monotonic() - greeted_s >= self._timings.settled_s
        )
        self._failures = 1 if settled else self._failures + 1
        pause_s = self._pause_s(error)
        # The first is news; an outage is told now and then.
        tell = self._log.warning if self._failures % 10 == 1 else self._log.debug
        tell(
            "stream.lost",
            error=str(error),
            failures=self._failures,
            retry_in_s=round(pause_s, 1),
            meaning="until the stream is back, the exchange is asked at the interval",
        )
        return pause_s

    def _pause_s(self, error: BaseException) -> float:
        if isinstance(error, Unauthorized):
            return self._timings.refused_s
        return backoff_s(
            self._failures,
            first_s=self._timings.backoff_first_s,
            most_s=self._timings.backoff_most_s,
            chance=random.random(),  # noqa: S311 - spreads load, guards no secret
        )


def backoff_s(failures: int, *, first_s: float, most_s: float, chance: float) -> float:
    """Return how long to pause after `failures` (1 or more) in a row.

    Doubles from `first_s` to `most_s`; `chance` (0 to 1) takes up to half of it off, so that
    many clients that lost one server do not return in step.
    """
    whole_s = most_s if failures > 30 else min(most_s, first_s * 2 ** (failures - 1))
    return float(whole_s * (1 - chance / 2))


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterable[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
