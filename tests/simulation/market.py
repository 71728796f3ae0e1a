"""The way of the market in a seed: a real crash, or chance."""

import csv
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from marginguard.simulator.candles import Candle


def price_path(draw: random.Random, duration_s: float) -> Iterator[tuple[float, float]]:
    """Yield times and prices: a real crash, up or down, or a random walk with leaps."""
    if draw.random() < 0.6:
        yield from _crash(draw, duration_s)
        return
    price = draw.uniform(20_000.0, 120_000.0)
    at_s, spacing_s = 0.0, draw.choice((3.0, 10.0))
    sigma = draw.choice((0.0005, 0.002, 0.006))
    while at_s < duration_s:
        yield at_s, _on_grid(price)
        price *= 1.0 + draw.gauss(0.0, sigma)
        if draw.random() < 0.01:
            price *= draw.uniform(0.92, 1.08)
        at_s += spacing_s


def _crash(draw: random.Random, duration_s: float) -> Iterator[tuple[float, float]]:
    candles = _candles()
    spacing_s = draw.choice((3.0, 5.0, 15.0))
    needed = int(duration_s / (4 * spacing_s)) + 1
    first = draw.randrange(max(1, len(candles) - needed))
    prices = [corner for candle in candles[first : first + needed] for corner in candle.corners]
    scale = draw.uniform(3.0, 16.0)
    upside_down = draw.random() < 0.3
    for number, price in enumerate(prices):
        scaled = scale * prices[0] ** 2 / price if upside_down else scale * price
        yield number * spacing_s, _on_grid(scaled)


@cache
def _candles() -> tuple[Candle, ...]:
    """Return 31 minutes of 17 May 2019, when the price fell by a sixth."""
    with (Path(__file__).parent / "crash.csv").open(encoding="ascii", newline="") as file:
        return tuple(
            Candle(
                time=datetime.fromtimestamp(int(row["time"]), UTC),
                open=float(row["open"]),
                high=float(row["high"]),
                low=float(row["low"]),
                close=float(row["close"]),
            )
            for row in csv.DictReader(file)
        )


def _on_grid(price: float) -> float:
    return max(0.5, round(price * 2) / 2)
