"""The stream's sockets: connections, what is pushed to them, and what cuts them."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from aiohttp import WSCloseCode, WSMsgType, web

from marginguard.aio import sleep_or_stop
from marginguard.ports import Clock
from marginguard.simulator.calls import Reply
from marginguard.simulator.events import Event
from marginguard.simulator.exchange import Exchange
from marginguard.simulator.limits import Limits, RateLimit, Window
from marginguard.simulator.refusals import not_found
from marginguard.simulator.stream_payloads import Push, market_pushes, pushes_of
from marginguard.simulator.stream_protocol import Session

HEARTBEAT_S: Final = 0.5
"""How often the market is pushed though it stands still; the real one is never quiet for 1 s."""

_BACKLOG: Final = 1_000
"""How many messages may wait for a connection that does not read, before it is cut."""
_CLOSING_TIMEOUT_S: Final = 1.0
_FULL_WAIT_S: Final = 1.0
"""What a connection too many is told to wait: nobody knows when another one ends."""

_HOUR_S: Final = 3600.0
_MINUTE_S: Final = 60.0


class StreamFault(StrEnum):
    """What `POST /simulator/stream` does.

    `kill` cuts every connection without a word. `silence` leaves them, and new ones, open, but
    neither pushes nor answers, pings included, until `resume`; what was not sent is lost.
    """

    KILL = "kill"
    SILENCE = "silence"
    RESUME = "resume"


class StreamServer:
    """All connections to one exchange's stream."""

    def __init__(self, exchange: Exchange, clock: Clock, limits: Limits) -> None:
        self._exchange = exchange
        self._clock = clock
        self._limits = limits
        self._new = RateLimit(limit=limits.new_connections_per_hour, span_s=_HOUR_S)
        self._authentications = RateLimit(limit=limits.authentications_per_minute, span_s=_MINUTE_S)
        self._open: Counter[str] = Counter()
        self._connections: set[_Connection] = set()
        self._stopping = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None
        self._silent = False

    def start(self) -> None:
        """Begin to push what happens on the exchange, and the market as a heartbeat."""
        self._exchange.observers.append(self._observe)
        self._beating = asyncio.create_task(self._beat())

    async def close(self) -> None:
        """Say goodbye to every connection, and push no more. Raises what ended the heartbeat."""
        self._exchange.observers.remove(self._observe)
        self._stopping.set()
        await asyncio.gather(*(connection.close() for connection in self._connections))
        if self._beating is not None:
            await self._beating

    def suffer(self, fault: StreamFault) -> None:
        """Let `fault` happen, now."""
        match fault:
            case StreamFault.KILL:
                for connection in self._connections:
                    connection.cut()
            case StreamFault.SILENCE:
                self._silent = True
            case StreamFault.RESUME:
                self._silent = False

    async def handle(self, request: web.Request) -> web.WebSocketResponse | Reply:
        """Serve one connection until it ends; return a refusal where it may not begin."""
        socket = web.WebSocketResponse(
            timeout=_CLOSING_TIMEOUT_S,
            autoping=False,
            compress=False,
            max_msg_size=self._limits.message_bytes + 1,  # the first size that is refused
        )
        if not socket.can_prepare(request):
            return Reply.refusal(not_found("Here is the stream alone: connect with a WebSocket"))
        address = request.remote or ""
        if self._open[address] >= self._limits.connections:
            return Reply.over_limit("Too many connections from this address", _FULL_WAIT_S)
        wait_s = self._new.take(address, self._clock.monotonic())
        if wait_s > 0:
            return Reply.over_limit("Too many new connections from this address", wait_s)
        self._open[address] += 1
        try:
            await socket.prepare(request)
            await self._serve(_Connection(request, socket, self._session(address)))
        finally:
            self._open[address] -= 1
        return socket

    def _session(self, address: str) -> Session:
        clock = self._clock
        return Session(
            self._exchange,
            clock,
            messages=Window(limit=self._limits.messages_per_s, span_s=1.0),
            may_authenticate=lambda: self._authentications.take(address, clock.monotonic()),
        )

    async def _serve(self, connection: "_Connection") -> None:
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(connection.write())
                try:
                    await self._read(connection)
                finally:
                    writer.cancel()
        finally:
            self._connections.remove(connection)

    async def _read(self, connection: "_Connection") -> None:
        socket = connection.socket
        while True:
            try:
                message = await socket.receive(timeout=self._limits.idle_timeout_s)
            except TimeoutError:
                await socket.close(code=WSCloseCode.GOING_AWAY, message=b"idle")
                return
            match message.type:
                case WSMsgType.TEXT | WSMsgType.BINARY:
                    if not self._silent:
                        connection.send(connection.session.answer(message.data))
                case WSMsgType.PING:
                    if not self._silent:
                        connection.send(message.data, WSMsgType.PONG)
                case WSMsgType.PONG:
                    pass
                case _:  # closed, by either side or by an error
                    return

    async def _beat(self) -> None:
        while not await sleep_or_stop(HEARTBEAT_S, self._stopping):
            now = self._clock.now()
            self._exchange.pass_time(now)  # funding is settled on the exchange's clock
            self._push(market_pushes(self._exchange, now))

    def _observe(self, event: Event) -> None:
        if self._connections:
            self._push(pushes_of(event, self._exchange))

    def _push(self, pushes: Iterable[Push]) -> None:
        if self._silent:
            return
        for push in pushes:
            wanting = [c for c in self._connections if c.session.wants(push)]
            if wanting:
                frame = push.frame()
                for connection in wanting:
                    connection.send(frame)


class _Connection:
    """One socket and what waits to be sent on it."""

    def __init__(
        self, request: web.Request, socket: web.WebSocketResponse, session: Session
    ) -> None:
        self.socket = socket
        self.session = session
        self._request = request
        self._waiting: asyncio.Queue[tuple[bytes, WSMsgType]] = asyncio.Queue(_BACKLOG)

    def send(self, payload: bytes, kind: WSMsgType = WSMsgType.TEXT) -> None:
        """Queue a message; a connection that does not read is cut."""
        try:
            self._waiting.put_nowait((payload, kind))
        except asyncio.QueueFull:
            self.cut()

    async def write(self) -> None:
        """Send what is queued, in order, until the connection is gone."""
        with contextlib.suppress(ConnectionResetError):  # the reader sees the end too
            while True:
                await self.socket.send_frame(*await self._waiting.get())

    async def close(self) -> None:
        """Say goodbye."""
        await self.socket.close(code=WSCloseCode.GOING_AWAY)

    def cut(self) -> None:
        """End the connection without a word."""
        if self._request.transport is not None:
            self._request.transport.abort()
