"""The simulated exchange over HTTP: REST under `/v3`, its steering under `/simulator`."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from marginguard.aio import SystemClock
from marginguard.domain.errors import ConfigError
from marginguard.ports import Clock
from marginguard.simulator.auth import KEY_HEADER
from marginguard.simulator.calls import Call, CallRow, Reply, row_of
from marginguard.simulator.control import Control
from marginguard.simulator.exchange import Exchange
from marginguard.simulator.faults import FaultBook, FaultyLine
from marginguard.simulator.rest import RestApi

_SHUTDOWN_TIMEOUT_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningServer:
    """A simulated exchange that listens. `calls` grows with every call that asks for a change."""

    host: str
    port: int
    faults: FaultBook
    calls: Sequence[CallRow]

    @property
    def base_url(self) -> str:
        """The address that `/v3` and `/simulator` are under."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def rest_url(self) -> str:
        """What an account's `rest_url` must be to trade here."""
        return f"{self.base_url}/v3"


@asynccontextmanager
async def serve(
    exchange: Exchange, *, host: str = "127.0.0.1", port: int = 0, clock: Clock | None = None
) -> AsyncIterator[RunningServer]:
    """Serve `exchange` until the block ends. Port 0 takes a free one: read `port`.

    Raises `ConfigError` when it cannot listen there.
    """
    clock = clock or SystemClock()
    faults = FaultBook()
    line = FaultyLine()
    calls: list[CallRow] = []
    handler = _Handler(
        api=RestApi(exchange, clock),
        control=Control(exchange, faults, calls, clock),
        line=line,
        faults=faults,
        calls=calls,
        clock=clock,
    )
    runner = web.AppRunner(
        handler.application(),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
    )
    await runner.setup()
    try:
        bound = await _listen(runner, host, port)
        yield RunningServer(host=host, port=bound, faults=faults, calls=calls)
    finally:
        try:
            await line.close()
        finally:
            await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> int:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        # A failed look-up of the host has a negative number of its own.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ConfigError(
            f"cannot listen on host {host}, port {port}: {why}."
            " Choose an address of this machine and a port that is free"
        ) from error
    bound = runner.addresses[0][1]
    return int(bound)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Handler:
    api: RestApi
    control: Control
    line: FaultyLine
    faults: FaultBook
    calls: list[CallRow]
    clock: Clock

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/simulator/{rest:.*}", self._handle_control)
        app.router.add_route("*", "/{rest:.*}", self._handle_exchange)
        return app

    async def _handle_control(self, request: web.Request) -> web.Response:
        return _response(self.control.process(await _call_of(request)))

    async def _handle_exchange(self, request: web.Request) -> web.Response:
        call = await _call_of(request)
        row = row_of(call, request.headers.get(KEY_HEADER), self.clock.now())
        if call.asks_for_a_change:
            self.calls.append(row)

        def process() -> Reply:
            reply = self.api.process(call)
            row.applied = reply.ok
            return reply

        reply = await self.line.answer(self.faults.take(call.method, call.path), process)
        if reply is None:
            return _hang_up(request)
        row.status = reply.status
        return _response(reply)


async def _call_of(request: web.Request) -> Call:
    # The target as it was sent: the signature is over these very characters.
    path, _, query = request.raw_path.partition("?")
    return Call(
        method=request.method,
        path=path,
        query=query,
        headers=request.headers,
        body=await request.read(),
    )


def _response(reply: Reply) -> web.Response:
    return web.Response(
        status=reply.status, body=reply.body, headers={"Content-Type": reply.content_type}
    )


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.close()
    return web.Response()  # written to a closed connection: nobody reads it
