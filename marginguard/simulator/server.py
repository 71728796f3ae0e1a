"""The simulated exchange over HTTP: REST under `/v3`, its steering under `/simulator`.

The stream is at `/v1` on the same port.
"""

import math
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from aiohttp import web

from marginguard.aio import SystemClock
from marginguard.domain.errors import ConfigError
from marginguard.ports import Clock
from marginguard.simulator.auth import KEY_HEADER
from marginguard.simulator.calls import Call, CallRow, Reply, row_of
from marginguard.simulator.control import Control
from marginguard.simulator.exchange import Exchange
from marginguard.simulator.faults import FaultBook, FaultyLine
from marginguard.simulator.limits import EXCHANGE_LIMITS, CallLimits, Limits
from marginguard.simulator.rest import RestApi
from marginguard.simulator.stream_server import StreamServer

STREAM_PATH: Final = "/v1"
MAX_CLOCK_SKEW_S: Final = 31_536_000.0
"""The most that the exchange's clock may differ from the machine's: a year."""

_SHUTDOWN_TIMEOUT_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningServer:
    """A simulated exchange that listens. `calls` grows with every call that asks for a change.

    `clock` is the exchange's, which a skew sets apart from the machine's.
    """

    host: str
    port: int
    clock: Clock
    faults: FaultBook
    calls: Sequence[CallRow]

    @property
    def base_url(self) -> str:
        """The address that `/v3` and `/simulator` are under."""
        return f"http://{self._authority}"

    @property
    def rest_url(self) -> str:
        """What an account's `rest_url` must be to trade here."""
        return f"{self.base_url}/v3"

    @property
    def stream_url(self) -> str:
        """What an account's `stream_url` must be to listen here."""
        return f"ws://{self._authority}{STREAM_PATH}"

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@asynccontextmanager
async def serve(
    exchange: Exchange,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    clock: Clock | None = None,
    limits: Limits = EXCHANGE_LIMITS,
    rate_scale: float = 1.0,
    clock_skew_s: float = 0.0,
) -> AsyncIterator[RunningServer]:
    """Serve `exchange` until the block ends. Port 0 takes a free one: read `port`.

    `rate_scale` multiplies the rates in `limits`, for market time that runs faster than real
    time. The exchange's clock is `clock_skew_s` seconds ahead of `clock` (negative: behind).
    Raises `ConfigError` when it cannot listen there or a number is not one to work with.
    """
    limits = limits.scaled(rate_scale)
    clock = _SkewedClock(clock or SystemClock(), _checked_skew(clock_skew_s))
    stream = StreamServer(exchange, clock, limits)
    line = FaultyLine()
    handler = _Handler(exchange, stream, line, clock, limits)
    runner = web.AppRunner(
        handler.application(),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
    )
    async with AsyncExitStack() as closing:
        closing.push_async_callback(runner.cleanup)
        await runner.setup()
        bound = await _listen(runner, host, port)
        stream.start()
        closing.push_async_callback(stream.close)
        closing.push_async_callback(line.close)
        yield RunningServer(
            host=host, port=bound, clock=clock, faults=handler.faults, calls=handler.calls
        )


class _SkewedClock:
    """A clock that is off: `skew` ahead of another one."""

    def __init__(self, clock: Clock, skew: timedelta) -> None:
        self._clock = clock
        self._skew = skew

    def now(self) -> datetime:
        return self._clock.now() + self._skew

    def monotonic(self) -> float:
        return self._clock.monotonic()


def _checked_skew(skew_s: float) -> timedelta:
    if not (math.isfinite(skew_s) and abs(skew_s) <= MAX_CLOCK_SKEW_S):
        raise ConfigError(
            f"the clock skew is {skew_s} s: it must be a number from"
            f" {-MAX_CLOCK_SKEW_S:.0f} to {MAX_CLOCK_SKEW_S:.0f}"
        )
    return timedelta(seconds=skew_s)


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


class _Handler:
    """Which request goes where."""

    def __init__(
        self,
        exchange: Exchange,
        stream: StreamServer,
        line: FaultyLine,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self.faults = FaultBook()
        self.calls: list[CallRow] = []
        self._api = RestApi(exchange, clock)
        self._control = Control(exchange, stream, self.faults, self.calls, clock)
        self._stream = stream
        self._line = line
        self._clock = clock
        self._limits = CallLimits(limits)

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get(STREAM_PATH, self._handle_stream)
        app.router.add_route("*", "/simulator/{rest:.*}", self._handle_control)
        app.router.add_route("*", "/{rest:.*}", self._handle_exchange)
        return app

    async def _handle_stream(self, request: web.Request) -> web.StreamResponse:
        served = await self._stream.handle(request)
        return _response(served) if isinstance(served, Reply) else served

    async def _handle_control(self, request: web.Request) -> web.Response:
        return _response(self._control.process(await _call_of(request)))

    async def _handle_exchange(self, request: web.Request) -> web.Response:
        call = await _call_of(request)
        key = request.headers.get(KEY_HEADER)
        row = row_of(call, key, self._clock.now())
        if call.asks_for_a_change:
            self.calls.append(row)

        def process() -> Reply:
            reply = self._api.process(call)
            row.applied = reply.ok
            return reply

        wait_s = self._limits.take(key, request.remote or "", self._clock.monotonic())
        reply: Reply | None
        if wait_s > 0:
            reply = Reply.over_limit("Too many requests", wait_s)
        else:
            fault = self.faults.take(call.method, call.path)
            reply = await self._line.answer(fault, process)
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
    return web.Response(status=reply.status, body=reply.body, headers=reply.headers)


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.close()
    return web.Response()  # written to a closed connection: nobody reads it
