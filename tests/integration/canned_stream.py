"""A small stream server that does as it is told, and the frames that the exchange would push."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

LAST_PRICE = "futures/inverse/btc_usd/lastPrice"
INDEX = "futures/inverse/btc_usd/index"
TRADES = "futures/inverse/btc_usd/isolated/trades"
CROSS = "futures/inverse/btc_usd/cross/position"

Reply = Callable[[dict[str, Any]], dict[str, Any]]


def push(topic: str, data: object) -> str:
    return json.dumps(
        {"jsonrpc": "2.0", "method": "subscription", "params": {"topic": topic, "data": data}}
    )


def last_price(price: float, time_ms: int) -> str:
    return push(LAST_PRICE, {"time": time_ms, "lastPrice": price})


def index(price: float, time_ms: int) -> str:
    return push(INDEX, {"time": time_ms, "index": price})


def refusal(code: str) -> dict[str, Any]:
    return {"error": {"code": -32602, "message": "no", "data": {"code": code}}}


@dataclass
class CannedStream:
    """Answers each method with its reply (none: silence), and keeps what it was asked.

    `sockets` holds every connection that has subscribed, oldest first.
    """

    port: int = 0
    replies: dict[str, Reply | None] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    greetings: list[str] = field(default_factory=list)
    topics: int = 2
    connections: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    times: Any = field(default_factory=lambda: itertools.count(1_700_000_000_000))

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1"

    def asked(self, method: str) -> list[dict[str, Any]]:
        return [request for request in self.requests if request["method"] == method]

    async def until(self, true: Callable[[], bool]) -> None:
        async with self.changed, asyncio.timeout(10):
            await self.changed.wait_for(true)

    async def subscribed(self, number: int = 1) -> web.WebSocketResponse:
        """Wait until so many connections have subscribed to all; return the newest."""
        await self.until(lambda: len(self.sockets) >= number)
        return self.sockets[-1]

    async def price(self, price: float) -> None:
        """Push a last price, a millisecond after the one before."""
        await self.sockets[-1].send_str(last_price(price, next(self.times)))

    async def handle(self, http: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(http)
        self.connections += 1
        subscriptions = 0
        for greeting in self.greetings:
            await socket.send_str(greeting)
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                break
            request = json.loads(message.data)
            self.requests.append(request)
            reply = self.replies.get(request["method"], lambda _request: {"result": "pong"})
            if reply is not None:
                await socket.send_str(
                    json.dumps({"jsonrpc": "2.0", "id": request["id"], "usIn": 1, **reply(request)})
                )
            if request["method"] == "subscribe":
                subscriptions += 1
                if subscriptions == self.topics:
                    self.sockets.append(socket)
            async with self.changed:
                self.changed.notify_all()
        return socket


@contextlib.asynccontextmanager
async def canned_stream(**settings: Any) -> AsyncIterator[CannedStream]:
    """Run the server on a free port of this machine."""
    stream = CannedStream(**settings)
    app = web.Application()
    app.router.add_get("/v1", stream.handle)
    server = TestServer(app, host="127.0.0.1", port=stream.port or None)
    await server.start_server()
    assert server.port is not None
    stream.port = server.port
    try:
        yield stream
    finally:
        for socket in stream.sockets:
            await socket.close()
        await server.close()
