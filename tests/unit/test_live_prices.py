"""Prices of the stream: which are passed on, when, and what takes over in silence."""

import asyncio
import contextlib
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from marginguard.domain.errors import Unreachable
from marginguard.domain.model import MarginMode, Position, PriceQuote, Side
from marginguard.lnmarkets.live_prices import FRESH_S, LivePrices
from marginguard.lnmarkets.payload import MAX_PRICE
from marginguard.lnmarkets.prices import TickerPrices
from marginguard.lnmarkets.wire import Ticker
from marginguard.ports import PriceSource
from tests.integration.canned_exchange import HandClock


class LoopClock:
    """The loop's own time, which looptime lets pass at once."""

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Desk:
    """Live prices, what they passed on, and a ticker that says what it is told to."""

    def __init__(self, clock: HandClock | LoopClock) -> None:
        self.clock = clock
        self.ticker = Ticker(last=90_000.0, index=90_000.0)
        self.asked = 0
        self.told: list[PriceQuote] = []
        self.news = asyncio.Event()
        rest = TickerPrices(self.read, clock, share_s=0.0, max_jump=5.0, stop=asyncio.Event())
        self.prices = LivePrices(rest, clock, stale_after_s=5.0)
        self.prices.listen(self.take)

    async def read(self) -> Ticker:
        self.asked += 1
        if self.ticker is None:
            raise Unreachable("no network")
        return self.ticker

    def take(self, quote: PriceQuote) -> None:
        self.told.append(quote)
        self.news.set()

    def last(self, *prices: float) -> None:
        for price in prices:
            self.prices.take_last(price, self.clock.monotonic())

    def index(self, price: float) -> None:
        self.prices.take_index(price, self.clock.monotonic())

    @property
    def heard(self) -> list[tuple[float, bool]]:
        return [(quote.last, quote.confirmed) for quote in self.told]


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def desk(clock):
    """At 100,000 since a moment ago, index and last price, with nothing told yet."""
    desk = Desk(clock)
    desk.index(100_000.0)
    desk.last(100_000.0)
    desk.told.clear()
    return desk


def position(side: Side = Side.LONG, *, pl: int, quantity: int = 1000) -> Position:
    return Position(
        id="p",
        mode=MarginMode.ISOLATED,
        side=side,
        quantity=quantity,
        entry_price=100_000.0,
        margin=500_000,
        maintenance_margin=0,
        leverage=2.0,
        pl=pl,
        liquidation_price=50_000.0,
        stop_loss=None,
        take_profit=None,
        entry_margin=500_000,
        funding_paid=0,
        cashed_in=0,
        client_id=None,
    )


async def test_every_tick_of_a_burst_is_passed_on_at_once(desk):
    """Failure 21: the newest wins, but a breach in the burst is not lost."""
    desk.last(99_000, 96_000, 97_000)
    assert desk.heard == [(99_000, True), (96_000, True), (97_000, True)]
    assert (await desk.prices.quote()).last == 97_000


async def test_every_listener_hears(desk):
    also: list[PriceQuote] = []
    desk.prices.listen(also.append)
    desk.last(99_000)
    assert also == desk.told != []


async def test_a_quote_has_the_index_and_the_age_of_its_receipt(desk, clock):
    received_s = clock.seconds
    clock.pass_time(FRESH_S)
    source: PriceSource = desk.prices
    quote = await source.quote()
    assert (quote.last, quote.index, quote.received_s) == (100_000, 100_000, received_s)
    assert desk.asked == 0


async def test_an_index_that_fell_silent_is_not_shown(desk, clock):
    clock.pass_time(6)
    desk.last(100_001)
    assert desk.told[-1].index is None


async def test_a_stale_price_is_never_given(desk, clock):
    """Failure 17, failure 19: silence makes the price stale, and REST takes over."""
    clock.pass_time(FRESH_S)
    assert (await desk.prices.quote()).last == 100_000
    clock.pass_time(0.1)
    assert (await desk.prices.quote()).last == 90_000
    assert desk.asked == 1


async def test_a_price_that_is_not_quite_new_serves_while_the_ticker_fails(desk, clock):
    desk.ticker = None
    clock.pass_time(5)
    assert (await desk.prices.quote()).last == 100_000
    clock.pass_time(0.1)
    with pytest.raises(Unreachable):
        await desk.prices.quote()


async def test_without_a_tick_the_ticker_is_asked(clock):
    desk = Desk(clock)
    assert (await desk.prices.quote()).last == 90_000


async def test_a_failure_of_both_is_a_failure(desk, clock):
    clock.pass_time(6)
    desk.ticker = None
    with pytest.raises(Unreachable):
        await desk.prices.quote()


async def test_the_change_to_rest_and_back_is_told_once_each_way(desk, clock):
    with capture_logs() as logs:
        clock.pass_time(6)
        await desk.prices.quote()
        await desk.prices.quote()
        desk.last(90_001, 90_002)
        clock.pass_time(6)
        await desk.prices.quote()
    assert [(log["event"], log["log_level"]) for log in logs] == [
        ("price.stream_stale", "warning"),
        ("price.stream_back", "info"),
        ("price.stream_stale", "warning"),
    ]


async def test_an_absurd_tick_is_dropped_when_the_next_is_near_the_one_before(desk):
    """Failure 20: one absurd tick does nothing."""
    desk.last(60_000)
    assert desk.heard == []
    assert (await desk.prices.quote()).last == 100_000
    desk.last(100_001)
    assert desk.heard == [(100_001, True)]


async def test_a_jump_that_the_next_tick_bears_out_brings_both(desk):
    """Failure 20, failure 21: a true crash is acted upon, at its extreme."""
    desk.last(80_000, 81_000)
    assert desk.heard == [(80_000, True), (81_000, True)]


async def test_a_jump_that_the_index_shows_is_passed_on_at_once(desk):
    desk.index(80_500)
    desk.last(80_000)
    assert desk.heard == [(80_000, True)]


async def test_an_index_that_follows_bears_a_jump_out(desk):
    desk.last(80_000)
    desk.index(80_500)
    assert desk.heard == [(80_000, True)]


async def test_an_index_that_lags_vetoes_nothing(desk):
    """Failure 20: the index may lag in a real crash."""
    desk.last(80_000)
    desk.index(99_999)
    assert desk.heard == []
    desk.last(80_001)
    assert desk.heard == [(80_000, True), (80_001, True)]


async def test_an_index_of_long_ago_bears_nothing_out(clock):
    desk = Desk(clock)
    desk.index(80_000)
    clock.pass_time(6)
    desk.last(80_000)
    assert desk.heard == []


@pytest.mark.parametrize(("side", "pl"), [(Side.LONG, -250_000), (Side.SHORT, 250_000)])
async def test_the_pl_of_a_position_read_afterwards_bears_a_jump_out(desk, side, pl):
    """Failure 20: the exchange's own P&L says 80,000 too."""
    desk.last(80_000)
    desk.prices.bear_out(position(side, pl=pl))
    assert desk.heard == [(80_000, True)]


async def test_the_pl_of_a_position_read_just_before_bears_a_jump_out(desk, clock):
    desk.prices.bear_out(position(pl=-250_000))
    clock.pass_time(4)
    desk.last(80_000)
    assert desk.heard == [(80_000, True)]


async def test_the_pl_of_a_position_read_long_ago_bears_nothing_out(desk, clock):
    desk.prices.bear_out(position(pl=-250_000))
    clock.pass_time(6)
    desk.last(80_000)
    assert desk.heard == []


async def test_a_pl_at_the_price_before_neither_bears_out_nor_refutes(desk):
    desk.last(80_000)
    desk.prices.bear_out(position(pl=0))
    assert desk.heard == []
    desk.last(80_000.5)
    assert len(desk.heard) == 2


async def test_what_rest_confirmed_needs_no_second_proof(desk, clock):
    """Both sources know what the other believes."""
    clock.pass_time(6)
    desk.ticker = Ticker(last=80_000.0, index=80_000.0)
    assert (await desk.prices.quote()).confirmed
    desk.last(80_001)
    assert desk.heard == [(80_001, True)]


async def test_doubt_that_is_past_its_time_is_passed_on_by_the_next_tick(desk, clock):
    """Failure 20: no doubt holds a crash up for longer, even if the loop is late."""
    desk.last(80_000)
    clock.pass_time(1.0)
    desk.last(60_000)
    assert desk.heard == [(60_000, False)]


async def test_after_doubt_was_passed_on_all_goes_on_unconfirmed_until_borne_out(desk, clock):
    desk.last(80_000)
    clock.pass_time(1.0)
    with capture_logs() as logs:
        desk.last(60_000, 45_000, 45_100, 45_200)
    assert desk.heard == [(60_000, False), (45_000, False), (45_100, True), (45_200, True)]
    assert [log["event"] for log in logs] == ["price.unconfirmed"]


async def test_a_price_passed_on_in_doubt_is_passed_on_again_when_borne_out(desk, clock):
    """Failure 20: spending waits for the confirmation, and then may go on."""
    desk.last(80_000)
    clock.pass_time(1.0)
    desk.last(60_000)
    desk.prices.bear_out(position(pl=-666_667))
    assert desk.heard == [(60_000, False), (60_000, True)]
    assert (await desk.prices.quote()).confirmed


async def test_a_price_in_doubt_that_grew_old_is_never_passed_on_as_confirmed(desk, clock):
    """Failure 19: a witness that comes late does not make an old price a new one."""
    desk.last(80_000)
    clock.pass_time(1.0)
    desk.last(60_000)
    clock.pass_time(5.1)
    desk.index(60_000)
    assert desk.heard == [(60_000, False)]


async def test_a_new_doubt_has_its_full_time(desk, clock):
    desk.last(80_000)
    clock.pass_time(0.9)
    desk.last(100_000, 60_000)
    clock.pass_time(0.9)
    desk.last(30_000)
    assert desk.heard == [(100_000, True)]


@contextlib.asynccontextmanager
async def running_desk():
    """The prices' own tasks, on a loop whose time passes at once; at 100,000."""
    desk, stop = Desk(LoopClock()), asyncio.Event()
    desk.index(100_000.0)
    desk.last(100_000.0)
    desk.told.clear()
    desk.news.clear()
    task = asyncio.create_task(desk.prices.run(stop))
    yield desk
    stop.set()
    await task


@pytest.mark.looptime
async def test_a_jump_that_nothing_confirms_is_passed_on_after_a_second():
    """Failure 20: unconfirmed after 1 s it is told and passed on, marked."""
    async with running_desk() as running:
        began_s = asyncio.get_running_loop().time()
        with capture_logs() as logs:
            running.last(80_000)
            await running.news.wait()
        assert running.heard == [(80_000, False)]
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(1.0, abs=0.01)
        assert not (await running.prices.quote()).confirmed
        assert [log["event"] for log in logs] == ["price.unconfirmed"]


@pytest.mark.looptime
async def test_prices_that_jump_about_do_not_extend_the_doubt():
    """Failure 20: a true crash is never held up for more than a second."""
    async with running_desk() as running:
        began_s = asyncio.get_running_loop().time()
        for price in (80_000, 60_000, 45_000, 33_000):
            running.last(price)
            await asyncio.sleep(0.24)
        await running.news.wait()
        assert running.heard == [(33_000, False)]
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(1.0, abs=0.01)


@pytest.mark.looptime
async def test_a_doubt_that_ended_is_not_passed_on():
    async with running_desk() as running:
        running.last(80_000, 100_000, 100_001)
        await asyncio.sleep(3)
        assert running.heard == [(100_000, True), (100_001, True)]


@pytest.mark.looptime
async def test_a_doubt_that_rest_settled_meanwhile_ends_confirmed():
    async with running_desk() as running:
        running.last(80_000)
        running.ticker = Ticker(last=80_000.0, index=80_100.0)
        await running.prices._ticker.quote()
        await running.news.wait()
        assert running.heard == [(80_000, True)]


@pytest.mark.looptime
async def test_silence_is_told_though_nobody_asks_for_a_price():
    """Failure 17: a silent topic is noticed by itself, every time it falls silent."""
    async with running_desk() as running:
        with capture_logs() as logs:
            await asyncio.sleep(4.9)
            assert logs == []
            await asyncio.sleep(20)
            assert [log["event"] for log in logs] == ["price.stream_stale"]
            running.last(100_001)
            await asyncio.sleep(20)
    assert [log["event"] for log in logs] == [
        "price.stream_stale",
        "price.stream_back",
        "price.stream_stale",
    ]


@pytest.mark.looptime
async def test_a_listener_that_fails_ends_the_prices_loudly():
    desk = Desk(LoopClock())

    def fail(_quote: PriceQuote) -> None:
        raise RuntimeError("a bug")

    desk.prices.listen(fail)
    desk.last(MAX_PRICE / 2)
    with pytest.raises(ExceptionGroup):
        await desk.prices.run(asyncio.Event())
