"""A daemon that is frozen while it reads the price of a breach, and thawed when that is over.

`python -m tests.freezing` does it for two minutes (or `--seconds`), prices being good for as long
as they are by default.
"""

import argparse
import asyncio
import signal
import time

from tests.daemons import DaemonProcess, Market, a_guard, until_true, write_config
from tests.postgres import TestServer, reachable_directory

BREACHED = 94_000.0  # 64 % of the margin of a 10x long at 100,000
CALM = 100_000.0
TICKER = "/v3/futures/ticker"
CLOSE = "/trade/close"


class Ticker:
    """The exchange's ticker, which can stop the daemon just before it answers it."""

    def __init__(self, market):
        self._faults, self._take = market.server.faults, market.server.faults.take
        self._faults.take = self._asked
        self.asked = 0
        self.stopped = asyncio.Event()
        self._victim = None

    def stop_at_the_next_question(self, process):
        self._victim = process

    def _asked(self, method, path):
        if path == TICKER:
            self.asked += 1
            if self._victim is not None:
                self._victim.send_signal(signal.SIGSTOP)
                self._victim = None
                self.stopped.set()
        return self._take(method, path)


async def freeze(directory, database_url, *, seconds, stale_after=None):
    """Freeze a daemon for so long; return what it warned of right after the thaw.

    Fails unless it sends nothing for the price that it had asked for before, reads anew, and
    then acts on a breach as ever. `stale_after` is how old a price may be; None: as shipped.
    """
    market = Market()
    async with market.open_for_trade():
        config = write_config(directory, market, a_guard(), database_url=database_url)
        text = config.read_text()
        if stale_after is not None:
            text = text.replace("[exchange]", f'[exchange]\nstale_after = "{stale_after}"')
        config.write_text(text)
        ticker = Ticker(market)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            ticker.stop_at_the_next_question(daemon.process)
            market.move(BREACHED)
            await asyncio.wait_for(ticker.stopped.wait(), 60)
            before, asked = len(daemon.lines), ticker.asked
            await asyncio.sleep(seconds)  # the time that it stands still is what is tried here
            market.move(CALM)
            daemon.process.send_signal(signal.SIGCONT)
            await until_true(lambda: ticker.asked >= asked + 3)
            assert not market.calls(CLOSE), "it acted on a price from before it was frozen"
            warned = daemon.lines[before:]
            market.move(BREACHED)
            await daemon.until("action.done", "close_position")
            assert await daemon.end() == 0
    assert len(market.calls(CLOSE)) == 1
    return warned


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.freezing", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long it is frozen")
    seconds = parser.parse_args().seconds
    began_s = time.monotonic()
    with (
        reachable_directory() as server_dir,
        TestServer(server_dir) as server,
        reachable_directory() as directory,
        server.database() as url,
    ):
        warned = asyncio.run(freeze(directory, url, seconds=seconds))
    print(*warned, sep="\n")
    print(
        f"frozen for {seconds:g} s, {time.monotonic() - began_s:.0f} s in all:"
        " nothing was sent for what was seen before; the next breach was closed as ever"
    )


if __name__ == "__main__":
    main()
