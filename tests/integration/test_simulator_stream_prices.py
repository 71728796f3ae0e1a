"""The simulated exchange's stream over real WebSockets: the pushes of the market."""

import asyncio
import itertools

import pytest

from tests.integration.streamed_market import FUNDING_MS, LAST_PRICE, MARKET, NOW_MS, Market


@pytest.fixture
async def market():
    async with Market().serving(rate_scale=100) as market:
        yield market


async def test_a_change_of_price_is_pushed_at_once_on_every_topic_of_the_market(market):
    topics = [f"{MARKET}/{name}" for name in ("lastPrice", "index", "ticker", "buckets")]
    async with market.stream() as stream:
        await stream.subscribe(*topics)
        market.move(99_000.5)
        data = {}
        while data.get(topics[-1], {}).get("buckets", [{}])[0].get("askPrice") != 99_000.5:
            frame = await stream.receive()
            data[frame["params"]["topic"]] = frame["params"]["data"]

    assert data == {
        f"{MARKET}/lastPrice": {"time": NOW_MS, "lastPrice": 99_000.5},
        f"{MARKET}/index": {"time": NOW_MS, "index": 99_000.5},
        f"{MARKET}/ticker": {
            "time": NOW_MS,
            "lastPrice": 99_000.5,
            "index": 99_000.5,
            "funding": {"rate": 0.0001, "time": FUNDING_MS},
        },
        f"{MARKET}/buckets": {
            "time": NOW_MS,
            "buckets": [
                {"minSize": 1, "maxSize": 500_000, "askPrice": 99_000.5, "bidPrice": 99_000.5}
            ],
        },
    }


async def test_every_price_is_pushed_in_order(market):
    prices = [100_000 + step for step in range(1, 200)]
    async with market.stream() as stream:
        await stream.subscribe(LAST_PRICE)
        for price in prices:
            market.move(float(price))
        seen = []
        while not seen or seen[-1] != prices[-1]:
            seen.append((await stream.push(LAST_PRICE))["lastPrice"])

    assert [price for price in seen if price != 100_000] == prices


async def test_a_market_that_stands_still_is_pushed_as_a_heartbeat(market):
    async with market.stream() as stream:
        await stream.subscribe(LAST_PRICE)
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(3):
            await stream.push(LAST_PRICE)
            times.append(loop.time())

    assert all(later - earlier > 0.1 for earlier, later in itertools.pairwise(times))


async def test_nothing_is_pushed_that_was_not_asked_for(market):
    async with market.stream() as stream, market.stream() as listening:
        await stream.authenticate()
        await listening.subscribe(LAST_PRICE)
        market.open_trade()
        market.move(99_000)
        while (await listening.push(LAST_PRICE))["lastPrice"] != 99_000:
            pass
        await stream.ask("ping")

        assert stream.pushed == []


async def test_the_minute_that_runs_is_pushed_as_a_candle(market):
    topic = f"{MARKET}/ohlc/1m"
    async with market.stream() as stream:
        await stream.subscribe(topic)
        for price in (100_500, 99_500, 99_900):
            market.move(price)
        while (candle := await stream.push(topic))["close"] != 99_900:
            pass

    assert candle == {
        "time": NOW_MS,
        "open": candle["open"],
        "high": 100_500,
        "low": 99_500,
        "close": 99_900,
        "volume": 0,
    }
