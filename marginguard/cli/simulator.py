"""`marginguard simulator`: a simulated exchange to try a configuration on."""

import asyncio
import ipaddress
import re
import secrets
import signal
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import click
import uvloop

from marginguard.aio import SystemClock
from marginguard.domain.errors import ConfigError, Rejected
from marginguard.domain.units import Price, Sats
from marginguard.ports import Clock
from marginguard.simulator.accounts import DEFAULT_PERMISSIONS, Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.prices import TICK, Point, play, random_walk, read_candles, walk
from marginguard.simulator.server import RunningServer, serve

_DEFAULT_PRICE = 100_000.0
_ACCOUNT_PARTS = ("KEY", "SECRET", "PASSPHRASE", "BALANCE")
_PERMISSION = re.compile("[a-z-]+(:[a-z-]+)*:(read|write)")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Market:
    """Where the price starts, how it goes on (None: by hand alone), and how fast."""

    start: Price
    points: Iterator[Point] | None = None
    speed: float = 1.0


@click.command()
@click.option("--port", required=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="KEY:SECRET:PASSPHRASE:BALANCE[:PERMISSIONS]",
    help="An account that may trade, its balance in sats. PERMISSIONS of the key are separated by"
    f" commas; if not given: {','.join(DEFAULT_PERMISSIONS)}. May be given several times.",
)
@click.option("--price", type=float, help=f"A price that stays, {_DEFAULT_PRICE:.0f} if not given.")
@click.option(
    "--prices",
    type=click.Path(path_type=Path),
    help="A CSV file of minute candles to play: time,open,high,low,close.",
)
@click.option("--speed", type=float, help="How many times real time to play --prices at (1).")
@click.option("--walk", "seed", type=int, help="The seed of a random walk.")
@click.option("--spread", type=float, default=0.0, help="USD between bid and ask (0).")
@click.option(
    "--clock-skew",
    "clock_skew_s",
    type=float,
    default=0.0,
    help="Seconds that the exchange's clock is ahead of this machine's (0; negative: behind).",
)
def simulator(
    port: int,
    host: str,
    accounts: tuple[str, ...],
    price: float | None,
    prices: Path | None,
    speed: float | None,
    seed: int | None,
    spread: float,
    clock_skew_s: float,
) -> None:
    """Serve a simulated LN Markets, kept in memory, until it is stopped.

    It is steered, unsigned, under /simulator: keep it on this machine.
    """
    market = _market(price, prices, speed, seed)
    exchange = _exchange(market, spread)
    for number, text in enumerate(accounts, start=1):
        _add_account(exchange, number, text)
    if not _is_loopback(host):
        click.echo(
            f"warning: --host {host} can be reached from other machines, and /simulator is"
            " unsigned: whoever reaches it can move the price",
            err=True,
        )
    server = serve(exchange, host=host, port=port, clock_skew_s=clock_skew_s)
    uvloop.run(_serve_until_stopped(server, exchange, market))


def _exchange(market: _Market, spread: float) -> Exchange:
    # Fresh ids on every start: a guard that remembers trades must not meet them again.
    ids = seeded_ids(secrets.randbits(64))
    try:
        return Exchange(price=market.start, ids=ids, spread=spread)
    except Rejected as error:
        raise ConfigError(f"--price: {error}") from error


async def _serve_until_stopped(
    serving: AbstractAsyncContextManager[RunningServer], exchange: Exchange, market: _Market
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with (
        serving as server,
        asyncio.TaskGroup() as tasks,
    ):
        click.echo(
            f'listening; the account of a config takes: rest_url = "{server.rest_url}",'
            f' stream_url = "{server.stream_url}"',
            err=True,
        )
        if market.points is not None:
            tasks.create_task(_play(exchange, market.points, market.speed, server.clock, stop))
        await stop.wait()


async def _play(
    exchange: Exchange, points: Iterator[Point], speed: float, clock: Clock, stop: asyncio.Event
) -> None:
    await play(exchange, points, clock=clock, stop=stop, speed=speed)
    if not stop.is_set():
        click.echo(f"the price file has ended; the price stays at {exchange.last}", err=True)


def _market(
    price: float | None, prices: Path | None, speed: float | None, seed: int | None
) -> _Market:
    given = [
        name
        for name, value in (("--price", price), ("--prices", prices), ("--walk", seed))
        if value is not None
    ]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} exclude one another: give one of them")
    if speed is not None and prices is None:
        raise ConfigError("--speed is the speed of --prices FILE: give that too")
    if prices is not None:
        return _played(prices, 1.0 if speed is None else speed)
    if seed is not None:
        start = Price(_DEFAULT_PRICE)
        return _Market(start=start, points=random_walk(seed, start, SystemClock().now()))
    return _Market(start=Price(_DEFAULT_PRICE if price is None else price))


def _played(path: Path, speed: float) -> _Market:
    if not 0 < speed < float("inf"):
        raise ConfigError(f"--speed {speed} must be a number above 0")
    candles = read_candles(path)
    return _Market(start=candles[0].open, points=walk(candles, TICK * speed), speed=speed)


def _add_account(exchange: Exchange, number: int, text: str) -> None:
    """Add the account that the `number`th --account describes. Its secrets are never shown."""
    parts = text.split(":", len(_ACCOUNT_PARTS))
    if len(parts) < len(_ACCOUNT_PARTS) or not all(parts):
        raise ConfigError(
            f"--account number {number} has {len(parts)} parts or an empty one:"
            f" {':'.join(_ACCOUNT_PARTS)} are {len(_ACCOUNT_PARTS)}, PERMISSIONS may follow,"
            " and none of the others may contain a colon"
        )
    key, secret, passphrase, balance, *given = parts
    if not (balance.isascii() and balance.isdigit()):
        raise ConfigError(f"--account number {number}: BALANCE must be whole sats, 0 or more")
    permissions = given[0].split(",") if given else DEFAULT_PERMISSIONS
    for at, permission in enumerate(permissions, start=1):
        if not _PERMISSION.fullmatch(permission):
            raise ConfigError(
                f"--account number {number}: permission number {at} must be like account:read or"
                " futures:isolated:write; BALANCE must be the fourth part"
            )
    exchange.add_account(
        Credentials(key=key, secret=secret, passphrase=passphrase),
        Sats(int(balance)),
        permissions=tuple(permissions),
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
