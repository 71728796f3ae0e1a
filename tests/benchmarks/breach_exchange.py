"""The simulated exchange of `bench_breach`: a process of its own, steered over a pipe.

Its clock is the monotonic one, which all processes of a machine share. So the time at which a
call came in can be held against the times that the daemon's process took.
"""

import asyncio
import contextlib
import multiprocessing
import time
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import uvloop

from marginguard.domain.model import Side
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.server import serve
from marginguard.simulator.trades import Order

CALM = 100_000.0
BREACH = 97_000.0
"""Here a 25x long from `CALM` has used up 77 % of its margin, and is not liquidated."""

CREDENTIALS = Credentials(key="key-main", secret="secret-main", passphrase="passphrase-main")
_LEVERAGE = Fraction(25)
_QUANTITY = 1_000
_BALANCE = 1_000_000_000
# The stream cuts a connection that a thousand messages wait for.
_OPEN_AT_ONCE = 50


class MonotonicClock:
    """The time of day at the start, and from there on the monotonic clock's."""

    def __init__(self):
        self._zero = datetime.now(UTC) - timedelta(seconds=time.monotonic())

    def now(self):
        return self._zero + timedelta(seconds=time.monotonic())

    def monotonic(self):
        return time.monotonic()

    def monotonic_at(self, at):
        return (at - self._zero).total_seconds()


class ExchangeProcess:
    """The exchange as the benchmark sees it; an async context manager."""

    def __init__(self, *, rate_scale):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, rate_scale), daemon=True)

    async def __aenter__(self):
        await asyncio.to_thread(self._process.start)
        self.rest_url, self.stream_url = await asyncio.to_thread(self._pipe.recv)
        return self

    async def __aexit__(self, *_):
        self._pipe.send(None)
        await asyncio.to_thread(self._process.join)

    async def open(self, count):
        """Open so many longs, each as in `BREACH`."""
        await self._ask("open", count)

    async def move(self, price):
        """Move the price; return when, in monotonic seconds."""
        return await self._ask("move", price)

    async def running(self):
        """Return how many trades run."""
        return await self._ask("running")

    async def closes(self):
        """Return the closes asked for: when each came in, of which trade, and the answer."""
        return await self._ask("closes")

    async def _ask(self, name, *arguments):
        self._pipe.send((name, arguments))
        return await asyncio.to_thread(self._pipe.recv)


class _Steering:
    def __init__(self, exchange, clock):
        self._exchange = exchange
        self._clock = clock
        self._account = exchange.add_account(CREDENTIALS, _BALANCE)

    async def open(self, _server, count):
        for number in range(count):
            order = Order(side=Side.LONG, leverage=_LEVERAGE, quantity=_QUANTITY)
            self._exchange.open_trade(self._account, order, self._clock.now())
            if number % _OPEN_AT_ONCE == _OPEN_AT_ONCE - 1:
                await asyncio.sleep(0.01)

    async def move(self, _server, price):
        moved_s = time.monotonic()
        self._exchange.set_price(price, self._clock.now())
        return moved_s

    async def running(self, _server):
        return len(self._exchange.running_trades(self._account))

    async def closes(self, server):
        return [
            (self._clock.monotonic_at(row.time), row.body["id"], row.status)
            for row in server.calls
            if row.path.endswith("/trade/close")
        ]


def _run(pipe, rate_scale):
    with contextlib.suppress(KeyboardInterrupt, EOFError):
        uvloop.run(_serve(pipe, rate_scale))


async def _serve(pipe, rate_scale):
    clock = MonotonicClock()
    exchange = Exchange(price=CALM, ids=seeded_ids(1))
    steering = _Steering(exchange, clock)
    async with serve(exchange, clock=clock, rate_scale=rate_scale) as server:
        pipe.send((server.rest_url, server.stream_url))
        while (command := await asyncio.to_thread(pipe.recv)) is not None:
            name, arguments = command
            pipe.send(await getattr(steering, name)(server, *arguments))
