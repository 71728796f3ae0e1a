"""Quotes from a ticker that lags, leaps and fails."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from marginguard.domain.errors import Malformed, Rejected, Transient, Unreachable
from marginguard.lnmarkets import prices
from marginguard.lnmarkets.client import PublicClient
from marginguard.lnmarkets.prices import TickerPrices
from marginguard.lnmarkets.transport import Transport
from marginguard.lnmarkets.wire import Ticker
from marginguard.ports import PriceSource
from tests.integration.canned_exchange import HandClock, canned_exchange


class Market:
    """Gives the next of its ticks (the last one over and over), each after `delay_s`."""

    def __init__(self, clock: HandClock, *ticks: Ticker | Exception, delay_s: float = 0.0) -> None:
        self.clock = clock
        self.ticks = list(ticks)
        self.delay_s = delay_s
        self.asked = 0
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> Ticker:
        self.asked += 1
        self.entered.set()
        tick = self.ticks.pop(0) if len(self.ticks) > 1 else self.ticks[0]
        await self.gate.wait()
        self.clock.pass_time(self.delay_s)
        if isinstance(tick, Exception):
            raise tick
        return tick


def tick(last: float, index: float | None = None) -> Ticker:
    return Ticker(last=last, index=last if index is None else index)


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture(autouse=True)
def _no_real_pause(monkeypatch, clock):
    """The wait for the next tick passes on the clock that the tests move."""

    async def pass_at_once(delay_s: float, stop: asyncio.Event) -> bool:
        clock.pass_time(delay_s)
        return stop.is_set()

    monkeypatch.setattr(prices, "sleep_or_stop", pass_at_once)


def source(market: Market, *, share_s: float = 1.0, stop: asyncio.Event | None = None):
    return TickerPrices(
        market, market.clock, share_s=share_s, max_jump=5.0, stop=stop or asyncio.Event()
    )


async def test_a_quote_is_as_old_as_its_request(clock):
    """Failure 19: the age of a price is never understated."""
    quotes = source(Market(clock, tick(100_000, 100_010), delay_s=3.0))
    quote = await quotes.quote()
    assert (quote.last, quote.index, quote.confirmed) == (100_000, 100_010, True)
    assert quote.received_s == clock.seconds - 3.0


async def test_concurrent_callers_share_one_request(clock):
    market = Market(clock, tick(100_000), tick(100_001), delay_s=2.0)
    market.gate.clear()
    quotes = source(market, share_s=0.0)
    async with asyncio.TaskGroup() as tasks:
        callers = [tasks.create_task(quotes.quote()) for _ in range(10)]
        await market.entered.wait()
        market.gate.set()
    assert market.asked == 1
    assert {caller.result().last for caller in callers} == {100_000}


async def test_a_caller_that_follows_closely_shares_the_quote_and_its_age(clock):
    market = Market(clock, tick(100_000), tick(100_001))
    quotes = source(market, share_s=1.0)
    first = await quotes.quote()
    clock.pass_time(0.9)
    assert await quotes.quote() == first
    clock.pass_time(0.2)
    assert (await quotes.quote()).last == 100_001
    assert market.asked == 2


async def test_a_quote_is_as_old_as_its_request_was_sent_and_shared_from_then_on(clock):
    """The wait for a turn is longer than a quote is shared: it must not use that up."""
    market = Market(clock, replace(tick(100_000), waited_s=1.1), tick(100_001), delay_s=1.3)
    quotes = source(market, share_s=1.0)
    first = await quotes.quote()
    assert first.received_s == pytest.approx(clock.seconds - 0.2)
    clock.pass_time(0.7)
    assert await quotes.quote() == first
    clock.pass_time(0.2)
    assert (await quotes.quote()).last == 100_001


async def test_a_caller_that_gives_up_does_not_take_the_others_along(clock):
    market = Market(clock, tick(100_000))
    market.gate.clear()
    quotes = source(market)
    impatient = asyncio.create_task(quotes.quote())
    await market.entered.wait()
    patient = asyncio.create_task(quotes.quote())
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    market.gate.set()
    assert (await patient).last == 100_000


async def test_those_who_wait_share_a_failure_too(clock):
    """Ten guards must not wait for ten time-outs in a row."""
    market = Market(clock, Unreachable("no network"), delay_s=5.0)
    market.gate.clear()
    quotes = source(market, share_s=0.0)
    callers = [asyncio.create_task(quotes.quote()) for _ in range(10)]
    await market.entered.wait()
    market.gate.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, Unreachable) for result in results)
    assert market.asked == 1


async def test_after_a_failure_the_next_caller_asks_again(clock):
    market = Market(clock, Malformed("NaN"), tick(100_000))
    quotes = source(market)
    with pytest.raises(Malformed):
        await quotes.quote()
    clock.pass_time(1.1)
    assert (await quotes.quote()).last == 100_000


async def test_a_refused_ticker_is_worth_another_attempt(clock):
    quotes = source(Market(clock, Rejected("gone", status=404, code="NOT_FOUND")))
    with pytest.raises(Transient, match="gone"):
        await quotes.quote()


async def test_a_crash_that_the_index_shows_is_confirmed_at_once(clock):
    """Failure 20: a true crash is acted upon."""
    market = Market(clock, tick(100_000), tick(70_000, 70_500))
    quotes = source(market, share_s=0.0)
    await quotes.quote()
    clock.pass_time(1)
    quote = await quotes.quote()
    assert (quote.last, quote.confirmed) == (70_000, True)
    assert market.asked == 2


async def test_an_absurd_tick_is_replaced_by_the_next_one(clock):
    """Failure 20: the next tick, a second later, shows that it was nothing."""
    market = Market(clock, tick(100_000), tick(70_000, 100_000), tick(100_001, 100_000))
    quotes = source(market, share_s=0.0)
    await quotes.quote()
    clock.pass_time(10)
    before_s = clock.seconds
    quote = await quotes.quote()
    assert (quote.last, quote.confirmed) == (100_001, True)
    assert quote.received_s == before_s + 1.0


async def test_a_jump_that_the_next_tick_repeats_is_confirmed(clock):
    market = Market(clock, tick(100_000), tick(70_000, 100_000), tick(70_100, 100_000))
    quotes = source(market, share_s=0.0)
    await quotes.quote()
    clock.pass_time(10)
    quote = await quotes.quote()
    assert (quote.last, quote.confirmed) == (70_100, True)


async def test_a_jump_that_nothing_bears_out_is_marked_and_told(clock):
    """Failure 20: unconfirmed, it may close and may not spend."""
    market = Market(clock, tick(100_000), tick(70_000, 100_000), tick(50_000, 100_000))
    quotes = source(market, share_s=0.0)
    await quotes.quote()
    clock.pass_time(10)
    with capture_logs() as logs:
        quote = await quotes.quote()
    assert (quote.last, quote.confirmed) == (50_000, False)
    (event,) = logs
    assert (event["event"], event["log_level"]) == ("price.unconfirmed", "warning")
    assert event["accepted_before"] == 100_000
    assert "no margin is added" in event["meaning"]


@pytest.mark.parametrize("failure", [Unreachable("x"), Malformed("x"), TimeoutError()])
async def test_a_jump_whose_next_tick_fails_stays_unconfirmed(clock, failure):
    market = Market(clock, tick(100_000), tick(70_000, 100_000), failure)
    quotes = source(market, share_s=0.0)
    await quotes.quote()
    clock.pass_time(10)
    with capture_logs() as logs:
        quote = await quotes.quote()
    assert (quote.last, quote.confirmed) == (70_000, False)
    assert logs[0]["next_tick"].startswith("not read: ")
    assert logs[0]["next_tick"] != "not read: "


async def test_a_next_tick_that_lingers_is_not_waited_for(clock, monkeypatch):
    monkeypatch.setattr(prices, "_NEXT_TICK_TIMEOUT_S", 0.01)
    market = Market(clock, tick(100_000, 50_000), tick(100_000))

    async def second_hangs() -> Ticker:
        if market.asked == 1:
            await asyncio.Event().wait()
        return await market()

    quotes = TickerPrices(second_hangs, clock, share_s=0.0, max_jump=5.0, stop=asyncio.Event())
    assert not (await quotes.quote()).confirmed


async def test_a_later_reading_near_the_unconfirmed_one_confirms_it(clock):
    market = Market(
        clock, tick(100_000), tick(70_000, 100_000), Unreachable("x"), tick(70_200, 100_000)
    )
    quotes = source(market, share_s=0.0)
    await quotes.quote()
    clock.pass_time(10)
    assert not (await quotes.quote()).confirmed
    clock.pass_time(10)
    assert (await quotes.quote()).confirmed
    clock.pass_time(10)
    assert (await quotes.quote()).confirmed
    assert market.asked == 5


async def test_the_first_price_is_held_against_the_index(clock):
    market = Market(clock, tick(100_000, 50_000), tick(80_000, 50_000))
    assert not (await source(market).quote()).confirmed


async def test_a_stopping_daemon_does_not_wait_for_the_next_tick(clock):
    stop = asyncio.Event()
    stop.set()
    market = Market(clock, tick(100_000, 50_000))
    assert not (await source(market, stop=stop).quote()).confirmed
    assert market.asked == 1


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


async def test_a_quote_comes_over_the_wire():
    async with canned_exchange() as exchange:
        exchange.answer("/v3/futures/ticker", {"lastPrice": 100_000.5, "index": 100_000})
        async with Transport(exchange.url, timeout_s=5) as transport:
            quotes: PriceSource = TickerPrices(
                PublicClient(transport).ticker,
                SystemClock(),
                share_s=1.0,
                max_jump=5.0,
                stop=asyncio.Event(),
            )
            quote = await quotes.quote()
    assert (quote.last, quote.index, quote.confirmed) == (100_000.5, 100_000.0, True)
