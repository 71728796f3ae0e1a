"""A TCP relay before PostgreSQL that does to its connections what outages do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit, urlunsplit


class Relay:
    """Forwards connections to the server of `url`.

    `hang()`: nothing gets through any more, in either direction. `swallow_answers()`: what the
    client says arrives, what the server answers does not. `cut()`: connections end, and new
    ones are refused. `heal()` ends all of that for new connections, and cuts the spoilt ones.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        self._path = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
        self._credentials = parts.netloc.partition("@")[0]
        self._parts = parts
        self._tasks: set[asyncio.Task[None]] = set()
        self._to_server = asyncio.Event()
        self._to_client = asyncio.Event()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.answers_lost = asyncio.Event()
        self.held_back = asyncio.Event()
        self.swallowing = False

    @property
    def url(self) -> str:
        netloc = f"{self._credentials}@127.0.0.1:{self.port}"
        return urlunsplit(self._parts._replace(netloc=netloc, query="sslmode=disable"))

    async def heal(self) -> None:
        await self.cut()
        self._to_server.set()
        self._to_client.set()
        self.swallowing = False
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hang(self) -> None:
        self._to_server.clear()
        self._to_client.clear()

    def swallow_answers(self) -> None:
        self.swallowing = True

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream_writer = None
        try:
            upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._path)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, upstream_writer, self._to_server))
                group.create_task(
                    self._pump(upstream_reader, writer, self._to_client, answers=True)
                )
        except* (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, upstream_writer):
                if end is not None:
                    end.transport.abort()

    async def _pump(self, reader, writer, gate, *, answers=False):
        while data := await reader.read(65536):
            if not gate.is_set():
                self.held_back.set()
            await gate.wait()
            if answers and self.swallowing:
                self.answers_lost.set()
                continue
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


@asynccontextmanager
async def relayed(url: str) -> AsyncIterator[Relay]:
    relay = Relay(url)
    await relay.heal()
    try:
        yield relay
    finally:
        await relay.cut()
