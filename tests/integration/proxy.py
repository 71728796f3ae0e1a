"""A TCP proxy that does to requests what networks do to them."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from enum import StrEnum

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Fault(StrEnum):
    """What happens to the next requests.

    `reset_before` and `reset_after`: the connection is reset before the request is read, or
    after, undelivered in both. `swallow`: delivered, and the answer is lost with the
    connection. `late`: the connection is closed and the request delivered upon `release()`.
    `silent`: read, and nothing more. `cut`: half of the answer arrives. `drip`: it
    arrives byte by byte, slower than anybody waits.
    """

    NONE = "none"
    RESET_BEFORE = "reset_before"
    RESET_AFTER = "reset_after"
    SWALLOW = "swallow"
    LATE = "late"
    SILENT = "silent"
    CUT = "cut"
    DRIP = "drip"


DRIP_EVERY_S = 0.05
"""Between two bytes of a dripping answer, which so outlives any time-out of the tests."""


class FaultProxy:
    """Forwards HTTP requests to `port` on this machine, one at a time on a connection."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._release = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()
        self.fault = Fault.NONE
        self.connections = 0
        self.requests_read = 0
        self.read_one = asyncio.Event()
        self.delivered = asyncio.Event()
        self.port = 0

    def release(self) -> None:
        """Deliver the requests that are held back; `delivered` is set once they are answered."""
        self._release.set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._forward_one(reader, writer):
                    pass
        finally:
            self._open.discard(task)
            writer.close()

    async def _forward_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if self.fault is Fault.RESET_BEFORE:
            _reset(writer)
            return False
        request = await read_message(reader)
        self.requests_read += 1
        self.read_one.set()
        match self.fault:
            case Fault.RESET_AFTER:
                _reset(writer)
                return False
            case Fault.SILENT:
                await reader.read()
                return False
            case Fault.LATE:
                writer.close()
                await self._release.wait()
        answer = await self._ask_upstream(request)
        if self.fault in {Fault.SWALLOW, Fault.LATE}:
            return False
        if self.fault is Fault.CUT:
            writer.write(answer[: len(answer) - 10])
            await writer.drain()
            return False
        if self.fault is Fault.DRIP:
            for place in range(len(answer)):
                writer.write(answer[place : place + 1])
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._release.wait(), DRIP_EVERY_S)
            return True
        writer.write(answer)
        await writer.drain()
        return True

    async def _ask_upstream(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        writer.write(request)
        answer = await read_message(reader)
        writer.close()
        await writer.wait_closed()
        self.delivered.set()
        return answer

    async def close(self) -> None:
        for task in tuple(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """Read one HTTP message whose body, if any, has a content length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


@contextlib.asynccontextmanager
async def fault_proxy(upstream_port: int) -> AsyncIterator[FaultProxy]:
    """Run a proxy on a free port of this machine."""
    proxy = FaultProxy(upstream_port)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()


def unused_port() -> int:
    """Return a port of this machine that refuses connections (nobody listens on it)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
