"""Whether a breach is ever missed while the exchange and its stream misbehave.

Run it as `python -m tests.benchmarks.soak_stream --minutes 10 [--seed N]`. The real daemon guards
a trade that is opened anew for every breach, at the exchange's own limits. Sockets are cut and
silenced, and reads answered with 429 and 503, at random. A breach lasts 3.5 s; the trade must be
closed when it ends. Exits with 1 if one was missed.
"""

import argparse
import asyncio
import random
import sys
import time

import aiohttp

from marginguard.simulator.faults import Fault, FaultKind
from tests.daemons import DaemonProcess, Market, a_guard, write_config
from tests.postgres import TestServer, reachable_directory

BREACH_S = 3.5
CALM = 100_000.0
BREACHED = 94_000.0
READS = (
    "/v3/futures/isolated/trades/running",
    "/v3/futures/cross/position",
    "/v3/account",
    "/v3/futures/ticker",
)


class Trouble:
    """Misbehaves at random until cancelled, and counts what it did."""

    def __init__(self, market, source):
        self._market = market
        self._source = source
        self.counts = {"kill": 0, "silence": 0, "429": 0, "503": 0}

    async def make(self):
        async with aiohttp.ClientSession() as session:
            while True:
                await asyncio.sleep(self._source.uniform(1.0, 6.0))
                kind = self._source.choice(list(self.counts))
                self.counts[kind] += 1
                if kind in {"429", "503"}:
                    self._answer_once(int(kind))
                    continue
                await self._steer(session, kind)
                if kind == "silence":
                    await asyncio.sleep(self._source.uniform(2.0, 12.0))
                    await self._steer(session, "resume")

    def _answer_once(self, status):
        path = self._source.choice(READS)
        self._market.server.faults.add(
            Fault(method="GET", path=path, fault=FaultKind.STATUS, times=1, status=status)
        )

    async def _steer(self, session, fault):
        url = f"{self._market.server.base_url}/simulator/stream"
        async with session.post(url, json={"fault": fault}) as answer:
            answer.raise_for_status()


async def jitter(market, source, held):
    """Keep the price moving a little around `held['price']`."""
    while True:
        market.move(held["price"] + source.randrange(-20, 21) * 0.5)
        await asyncio.sleep(0.25)


async def breaches(market, source, minutes):
    """Breach again and again; return how many breaches there were and the missed ones."""
    held = {"price": CALM}
    moving = asyncio.create_task(jitter(market, source, held))
    until = time.monotonic() + 60 * minutes
    count, missed = 0, []
    try:
        while time.monotonic() < until:
            trade = market.open("main")
            await asyncio.sleep(source.uniform(2.0, 9.0))
            held["price"] = BREACHED
            market.move(BREACHED)
            await asyncio.sleep(BREACH_S)
            count += 1
            account = market.accounts["main"]
            if any(running.id == trade.id for running in market.exchange.running_trades(account)):
                missed.append(time.monotonic())
                market.exchange.close_trade(account, trade.id, market.clock.now())
                print(f"missed: breach {count}", flush=True)
            held["price"] = CALM
            market.move(CALM)
    finally:
        moving.cancel()
    return count, missed


async def soak(directory, url, *, minutes, seed):
    source = random.Random(seed)
    market = Market(balance=10**12)
    market.exchange.close_trade(
        market.accounts["main"], market.trades["main"].id, market.clock.now()
    )
    async with market.open_for_trade(rate_scale=1):
        config = write_config(
            directory,
            market,
            a_guard(),
            database_url=url,
            interval="1s",
            rate_scale=1,
            stream=True,
        )
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            trouble = Trouble(market, source)
            making = asyncio.create_task(trouble.make())
            try:
                count, missed = await breaches(market, source, minutes)
            finally:
                making.cancel()
            code = await daemon.end()
            if missed:
                (directory.parent / "soak-daemon.log").write_text("\n".join(daemon.lines))
    print(
        f"{count} breaches of {BREACH_S:g} s in {minutes:g} minutes (seed {seed}),"
        f" {len(missed)} missed; trouble made: {trouble.counts}; the daemon ended with {code}"
    )
    return not missed and code == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with (
        reachable_directory() as state_dir,
        TestServer(state_dir) as server,
        reachable_directory() as directory,
        server.database() as url,
    ):
        fine = asyncio.run(soak(directory, url, minutes=arguments.minutes, seed=arguments.seed))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
