"""Prices of the simulated exchange: candles from a file, their walk, their play."""

import asyncio
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import islice, pairwise
from pathlib import Path

import pytest

from marginguard.aio import SystemClock
from marginguard.domain.errors import ConfigError
from marginguard.domain.units import Price
from marginguard.simulator.candles import Candle
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.prices import (
    Point,
    play,
    random_walk,
    read_candles,
    walk,
)

HEADER = "time,open,high,low,close"
START = datetime(2019, 5, 17, 2, tzinfo=UTC)


def candle(minute: int = 0, **prices: float) -> Candle:
    wanted = {"open": 100.0, "high": 110.0, "low": 95.0, "close": 105.0} | prices
    return Candle(time=START + timedelta(minutes=minute), **wanted)


def written(folder: Path, *lines: str) -> Path:
    path = folder / "prices.csv"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_candles_are_read_in_order(tmp_path):
    path = written(tmp_path, HEADER, "1558058400,7818.5,7830,7818.5,7828.5", "1558058460,1,2,1,1.5")

    first, second = read_candles(path)

    assert first == Candle(time=START, open=7818.5, high=7830.0, low=7818.5, close=7828.5)
    assert second.time == START + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ["line 1", HEADER]),
        (["a,b,c"], ["line 1", HEADER]),
        ([HEADER], ["no candle"]),
        ([HEADER, "1558058400,1,2,1"], ["line 2", "4 columns"]),
        ([HEADER, ""], ["line 2", "0 columns"]),
        ([HEADER, "60,1,2,1,1", "120,1,x,1,1"], ["line 3", "high", "'x'", "not a number"]),
        ([HEADER, "60,nan,2,1,1"], ["line 2", "open", "'nan'"]),
        ([HEADER, "60,1,inf,1,1"], ["line 2", "high", "'inf'"]),
        ([HEADER, "60,1,2,0,1"], ["line 2", "low", "'0'"]),
        ([HEADER, "60,1,2,1,-5"], ["line 2", "close", "'-5'"]),
        ([HEADER, "60,1,2,3,1"], ["line 2", "high 2 is below low 3"]),
        ([HEADER, "60.5,1,2,1,1"], ["line 2", "time '60.5'", "whole seconds"]),
        ([HEADER, "9" * 30 + ",1,2,1,1"], ["line 2", "time"]),
        ([HEADER, "120,1,2,1,1", "120,1,2,1,1"], ["line 3", "time 120", "above"]),
    ],
)
def test_a_broken_price_file_is_refused_by_file_line_and_value(tmp_path, lines, words):
    path = written(tmp_path, *lines)

    with pytest.raises(ConfigError) as refused:
        read_candles(path)

    for word in (str(path), *words):
        assert word in str(refused.value)


def test_a_price_file_that_cannot_be_read_is_refused(tmp_path):
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00")

    for path in (tmp_path / "none.csv", tmp_path, binary):
        with pytest.raises(ConfigError, match=path.name):
            read_candles(path)


@pytest.mark.parametrize(
    ("prices", "corners"),
    [
        ({"high": 110.0, "low": 95.0}, (100, 95, 110, 105)),
        ({"high": 102.0, "low": 95.0}, (100, 102, 95, 105)),
        ({"high": 100.0, "low": 90.0}, (100, 100, 90, 105)),
    ],
)
def test_the_nearer_extreme_comes_first(prices, corners):
    assert candle(**prices).corners == corners


def test_a_walk_moves_evenly_between_the_corners_in_half_dollars():
    points = [*walk([candle()], timedelta(seconds=5))]

    assert [(p.time - START).total_seconds() for p in points] == [*range(0, 65, 5)]
    assert [p.price for p in points[:5]] == [100, 99, 97.5, 96.5, 95]  # 98.75 and 96.25 go up
    assert [p.price for p in points if p.corner] == [100, 95, 110, 105]
    assert all(p.price % 0.5 == 0 for p in points)


def test_a_walk_never_leaves_out_a_corner_however_long_its_step():
    points = [*walk([candle(), candle(1)], timedelta(hours=1))]

    assert [p.price for p in points] == [100, 95, 110, 105] * 2
    assert all(before.time <= after.time for before, after in pairwise(points))


def test_a_random_walk_repeats_with_its_seed_and_only_then():
    def prices(seed):
        return [p.price for p in islice(random_walk(seed, Price(100_000.0), START), 200)]

    assert prices(1) == prices(1) != prices(2)
    assert prices(1)[0] == 100_000
    assert all(price > 0 and price % 0.5 == 0 for price in prices(1))
    assert len(set(prices(1))) > 100


class SteppedClock:
    """A clock that moves on by `step_s` at every look."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self.time_s = 0.0

    def now(self) -> datetime:
        return START

    def monotonic(self) -> float:
        self.time_s += self.step_s
        return self.time_s


async def test_a_play_ends_with_the_last_price():
    exchange = Exchange(price=Price(100.0), ids=seeded_ids(1))
    applied: list[Point] = []
    points = [*walk([candle(), candle(1, close=42.0)], timedelta(seconds=10))]

    async with asyncio.timeout(20):
        await play(
            exchange,
            points,
            clock=SystemClock(),
            stop=asyncio.Event(),
            speed=1_200,
            on_point=applied.append,
        )

    assert exchange.last == 42
    assert [p for p in applied if p.corner] == [p for p in points if p.corner]


async def test_a_slow_machine_loses_points_but_never_a_corner():
    exchange = Exchange(price=Price(100.0), ids=seeded_ids(1))
    applied: list[Point] = []
    points = [*walk([candle(minute) for minute in range(5)], timedelta(seconds=1))]

    await play(
        exchange,
        points,
        clock=SteppedClock(1_000.0),
        stop=asyncio.Event(),
        on_point=applied.append,
    )

    assert applied == [p for p in points if p.corner]


async def test_a_play_stops_when_told():
    exchange = Exchange(price=Price(100.0), ids=seeded_ids(1))
    stop = asyncio.Event()
    applied: list[Point] = []

    def apply_once(point: Point) -> None:
        applied.append(point)
        stop.set()

    async with asyncio.timeout(20):
        await play(
            exchange,
            random_walk(1, Price(100.0), START),
            clock=SystemClock(),
            stop=stop,
            on_point=apply_once,
        )

    assert len(applied) == 1


async def test_a_stop_wakes_a_play_that_waits():
    exchange = Exchange(price=Price(100.0), ids=seeded_ids(1))
    stop = asyncio.Event()
    points = [
        Point(time=START, price=Price(100.0), corner=True),
        Point(time=START + timedelta(days=1), price=Price(50.0), corner=True),
    ]

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(play(exchange, points, clock=SystemClock(), stop=stop))
        stop.set()

    assert exchange.last == 100


def test_the_crash_that_comes_with_the_package_has_every_minute_of_it():
    path = Path(str(files("marginguard.demo").joinpath("data/2019-05-17.csv")))

    candles = read_candles(path)

    assert candles[0].time >= START
    assert candles[-1].time <= START + timedelta(minutes=105)
    assert all(b.time - a.time == timedelta(minutes=1) for a, b in pairwise(candles))
    # From 7,740 down to 6,380 within half an hour.
    assert min(c.low for c in candles) < 0.85 * candles[0].open
