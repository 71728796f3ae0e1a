"""Where the simulated price comes from: minute candles, a random walk, or a hand."""

import asyncio
import csv
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

from marginguard.aio import sleep_or_stop
from marginguard.domain.errors import ConfigError
from marginguard.domain.margin import to_price_step
from marginguard.domain.units import PRICE_STEP, Price
from marginguard.ports import Clock
from marginguard.simulator.candles import MINUTE, Candle
from marginguard.simulator.contract import MAX_PRICE
from marginguard.simulator.exchange import Exchange

TICK: Final = timedelta(milliseconds=20)
"""Real time between two prices of a play; a step of `TICK * speed` in market time."""

HEADER: Final = ("time", "open", "high", "low", "close")
_CORNER_SPACING: Final = MINUTE / 3
_VOLATILITY: Final = 0.0003


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A price at a market time. A corner of a candle must never be left out."""

    time: datetime
    price: Price
    corner: bool


def read_candles(path: Path) -> tuple[Candle, ...]:
    """Return the minute candles of a CSV file: `time,open,high,low,close`, time in epoch seconds.

    Raises `ConfigError` that names file, line, value and what is allowed.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [*csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"the price file {path} cannot be read: {error}") from error
    if not rows or tuple(rows[0]) != HEADER:
        raise ConfigError(f"{path}, line 1: the header must be {','.join(HEADER)}")
    candles: list[Candle] = []
    for line, row in enumerate(rows[1:], start=2):
        candle = _candle(row, f"{path}, line {line}")
        if candles and candle.time <= candles[-1].time:
            raise ConfigError(f"{path}, line {line}: time {row[0]} must be above the line before")
        candles.append(candle)
    if not candles:
        raise ConfigError(f"{path} holds no candle: at least one line after the header is needed")
    return tuple(candles)


def walk(candles: Sequence[Candle], step: timedelta) -> Iterator[Point]:
    """Yield the way of the price: every candle's corners, and between them every `step`.

    Corners are a third of a minute apart; between two the price moves evenly, in half dollars.
    """
    for candle in candles:
        marks = [
            (candle.time + number * _CORNER_SPACING, price)
            for number, price in enumerate(candle.corners)
        ]
        yield Point(time=marks[0][0], price=marks[0][1], corner=True)
        for (begin, first), (end, second) in pairwise(marks):
            yield from _between(begin, first, end, second, step)
            yield Point(time=end, price=second, corner=True)


def random_walk(
    seed: int, start: Price, begin: datetime, step: timedelta = timedelta(seconds=1)
) -> Iterator[Point]:
    """Yield an endless random walk from `start`, the same one for the same seed."""
    source = random.Random(seed)  # noqa: S311 - a repeatable walk, not a secret
    price, time = float(start), begin
    deviation = _VOLATILITY * math.sqrt(step.total_seconds())
    while True:
        yield Point(time=time, price=to_price_step(Price(price)), corner=True)
        price *= math.exp(source.gauss(0.0, deviation))
        price = min(max(price, PRICE_STEP), MAX_PRICE)
        time += step


async def play(
    exchange: Exchange,
    points: Iterable[Point],
    *,
    clock: Clock,
    stop: asyncio.Event,
    speed: float = 1.0,
    on_point: Callable[[Point], None] | None = None,
) -> None:
    """Move the exchange's price along `points`, market time passing `speed` times as fast.

    Returns after the last point, or once `stop` is set. Points that are overdue are left out,
    but never a corner. `on_point` is told of every point after it was applied.
    """
    started = clock.monotonic()
    origin: datetime | None = None
    for point in points:
        origin = origin or point.time
        due = started + (point.time - origin).total_seconds() / speed
        wait_s = due - clock.monotonic()
        if wait_s < 0 and not point.corner:
            continue
        if await sleep_or_stop(wait_s, stop):
            return
        exchange.set_price(point.price, clock.now())
        if on_point is not None:
            on_point(point)


def _between(
    begin: datetime, first: Price, end: datetime, second: Price, step: timedelta
) -> Iterator[Point]:
    time = begin + step
    while time < end:
        share = (time - begin) / (end - begin)
        price = to_price_step(Price(first + (second - first) * share))
        yield Point(time=time, price=price, corner=False)
        time += step


def _candle(row: Sequence[str], where: str) -> Candle:
    if len(row) != len(HEADER):
        raise ConfigError(f"{where}: {len(row)} columns; {','.join(HEADER)} are {len(HEADER)}")
    prices = {
        name: _price(text, f"{where}: {name}")
        for name, text in zip(HEADER[1:], row[1:], strict=True)
    }
    if prices["high"] < prices["low"]:
        raise ConfigError(f"{where}: high {row[2]} is below low {row[3]}")
    return Candle(time=_time(row[0], where), **prices)


def _time(text: str, where: str) -> datetime:
    try:
        return datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(f"{where}: time {text!r} must be whole seconds of the epoch") from error


def _price(text: str, where: str) -> Price:
    try:
        value = float(text)
    except ValueError as error:
        raise ConfigError(f"{where} {text!r} is not a number; a price is above 0") from error
    if not PRICE_STEP <= value <= MAX_PRICE:
        raise ConfigError(
            f"{where} {text!r} must be a price from {PRICE_STEP} to {MAX_PRICE:.0f} USD"
        )
    return to_price_step(Price(value))
