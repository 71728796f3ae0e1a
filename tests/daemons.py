"""The daemon as a process, against the simulated exchange over real sockets."""

import asyncio
import contextlib
import os
import signal
import sys
from fractions import Fraction
from pathlib import Path

from marginguard.aio import SystemClock
from marginguard.domain.model import Side
from marginguard.simulator.accounts import DEFAULT_PERMISSIONS, Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.orders import CrossRequest
from marginguard.simulator.server import serve
from marginguard.simulator.trades import Order

PATIENCE_S = 60.0
BALANCE = 10_000_000

_ACCOUNT = """
[[accounts]]
id = "{name}"
rest_url = "{rest_url}"
key = "key-{name}"
secret = "secret-of-{name}"
passphrase = "passphrase-of-{name}"
"""

_SETTINGS = """
[daemon]
interval = "{interval}"
timeout = "5s"
retry_delay = "100ms"
blind_after = "{blind_after}"
state_dir = "{state_dir}"

[exchange]
timeout = "{exchange_timeout}"
rate_scale = {rate_scale}

[actions]
base_delay = "50ms"
settle_delay = "50ms"
"""


class Market:
    """A simulated exchange with accounts that hold a 10x long of 1,000 USD at 100,000."""

    def __init__(self, *names, permissions=DEFAULT_PERMISSIONS, balance=BALANCE):
        self.clock = SystemClock()
        self.exchange = Exchange(price=100_000.0, ids=seeded_ids(1))
        self.accounts = {}
        self.trades = {}
        for name in names or ("main",):
            credentials = Credentials(
                key=f"key-{name}",
                secret=f"secret-of-{name}",
                passphrase=f"passphrase-of-{name}",
            )
            self.accounts[name] = self.exchange.add_account(
                credentials, balance, permissions=permissions
            )
            self.trades[name] = self.open(name)

    def open(self, name):
        order = Order(side=Side.LONG, leverage=Fraction(10), quantity=1_000)
        return self.exchange.open_trade(self.accounts[name], order, self.clock.now())

    def open_cross(self, name="main", *, margin=100_000, leverage=20):
        """Open a cross long of 1,000 USD, in place of the isolated trade."""
        account, now = self.accounts[name], self.clock.now()
        self.exchange.close_trade(account, self.trades[name].id, now)
        self.exchange.cross.set_leverage(account, leverage, now)
        self.exchange.cross.deposit(account, margin, now)
        self.exchange.cross.order(account, CrossRequest(side=Side.LONG, quantity=1_000), now)

    def move(self, price):
        self.exchange.set_price(price, self.clock.now())

    @contextlib.asynccontextmanager
    async def open_for_trade(self, *, rate_scale=1000):
        async with serve(self.exchange, clock=self.clock, rate_scale=rate_scale) as server:
            self.server = server
            yield server

    def calls(self, ending):
        """Return the calls that asked for a change at the path that ends so."""
        return [call for call in self.server.calls if call.path.endswith(ending)]


def write_config(
    directory,
    market,
    guards,
    *,
    database_url=None,
    extra="",
    blind_after="60s",
    interval="200ms",
    stream=False,
    rate_scale=1000,
    exchange_timeout="2s",
):
    """Write a configuration for all of the market's accounts; return its path."""
    text = _SETTINGS.format(
        state_dir=directory / "state",
        blind_after=blind_after,
        interval=interval,
        rate_scale=rate_scale,
        exchange_timeout=exchange_timeout,
    )
    if database_url is not None:
        text += f'\n[database]\nurl = "{database_url}"\n'
    text += extra
    for name in market.accounts:
        text += _ACCOUNT.format(name=name, rest_url=market.server.rest_url)
        if stream:
            text += f'stream_url = "{market.server.stream_url}"\n'
    path = Path(directory) / "config.toml"
    path.touch(mode=0o600)
    path.write_text(text + guards)
    return path


def a_guard(name="guard-1", account="main", *, threshold=60, action="close_position", more=""):
    return (
        f'\n[[guards]]\nid = "{name}"\naccount = "{account}"\nmargin_threshold = {threshold}\n'
        f'action = "{action}"\n{more}\n'
    )


class DaemonProcess:
    """`marginguard run`, its log read line by line."""

    def __init__(self, config, *arguments):
        self._command = [sys.executable, "-m", "marginguard", "run", "--config", str(config)]
        self._command += arguments
        self.lines = []
        self._heard = asyncio.Condition()

    async def __aenter__(self):
        self.process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), PATIENCE_S)
            except TimeoutError:
                self.process.kill()
        await self._reader
        await self.process.wait()

    async def _read(self):
        async for line in self.process.stderr:
            async with self._heard:
                self.lines.append(line.decode().rstrip())
                self._heard.notify_all()
        async with self._heard:
            self.lines.append("(the log ends)")
            self._heard.notify_all()

    async def until(self, event, *words):
        """Wait for a log line with `event` and all `words`; return it."""

        def found():
            return next(
                (
                    line
                    for line in self.lines
                    if f" {event} " in f" {line} " and all(word in line for word in words)
                ),
                None,
            )

        async with self._heard:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._heard.wait_for(
                        lambda: found() or self.lines[-1:] == ["(the log ends)"]
                    )
            except TimeoutError:
                pass
        line = found()
        assert line is not None, f"no {event} {words} in:\n" + "\n".join(self.lines)
        return line

    async def end(self, number=signal.SIGTERM):
        """Send a signal, wait for the end, and return the exit code."""
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)


def servers_in(directory):
    """Return the pids of the PostgreSQL processes whose command line names `directory`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
                if str(directory) in command and "postgres" in command.split("\0")[0]:
                    found.append(int(entry.name))
    return found


async def until_ended(pids):
    """Wait until the processes are gone."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            loop = asyncio.get_running_loop()
            ended = loop.create_future()
            loop.add_reader(fd, lambda: ended.done() or ended.set_result(None))  # noqa: B023
            await asyncio.wait_for(ended, PATIENCE_S)
        finally:
            loop.remove_reader(fd)
            os.close(fd)


async def until_true(condition, *, every_s=0.02):
    """Wait until `condition()` holds; for what gives no event, such as a list that grows."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the simulated exchange gives no event here
            await asyncio.sleep(every_s)
