"""The simulated exchange of `bench_guards`: a process of its own, with many accounts."""

import asyncio
import contextlib
import multiprocessing
import random

import uvloop

from tests.daemons import Market

POSITIONS = 3
TICKS_PER_S = 4
_STEPS = 20
"""How many price steps of 0.5 the price strays from where it began: nothing ever breaches."""


class ExchangeProcess:
    """An exchange with `accounts` accounts of `POSITIONS` trades each; an async context manager.

    Its price moves `TICKS_PER_S` times a second.
    """

    def __init__(self, *, accounts, rate_scale):
        context = multiprocessing.get_context("spawn")
        self.names = [f"account-{number}" for number in range(accounts)]
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(theirs, self.names, rate_scale), daemon=True
        )

    async def __aenter__(self):
        await asyncio.to_thread(self._process.start)
        self.rest_url, self.stream_url = await asyncio.to_thread(self._pipe.recv)
        return self

    async def __aexit__(self, *_):
        self._pipe.send(None)
        await asyncio.to_thread(self._process.join)

    @property
    def pid(self):
        return self._process.pid


def _run(pipe, names, rate_scale):
    with contextlib.suppress(KeyboardInterrupt, EOFError):
        uvloop.run(_serve(pipe, names, rate_scale))


async def _serve(pipe, names, rate_scale):
    market = Market(*names)  # each with one trade
    for name in names:
        for _ in range(POSITIONS - 1):
            market.open(name)
    async with market.open_for_trade(rate_scale=rate_scale) as server:
        pipe.send((server.rest_url, server.stream_url))
        moving = asyncio.create_task(_move(market))
        await asyncio.to_thread(pipe.recv)
        moving.cancel()


async def _move(market):
    source = random.Random(1)
    while True:
        await asyncio.sleep(1 / TICKS_PER_S)
        market.move(100_000.0 + 0.5 * source.randrange(-_STEPS, _STEPS + 1))
