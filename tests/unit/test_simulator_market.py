"""The market of the simulated exchange: its index, its candles, its funding by the clock."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from marginguard.domain.errors import Rejected
from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats, Usd
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.candles import KEPT, RANGES, Candle, CandleBook, begin_of
from marginguard.simulator.events import PriceMoved
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.funding import FundingClock
from marginguard.simulator.history import Stamps
from marginguard.simulator.orders import CrossRequest
from marginguard.simulator.trades import Order

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)  # a Thursday
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def an_exchange(**more):
    return Exchange(price=Price(100_000.0), ids=seeded_ids(1), **more)


def candle(time, *prices):
    return Candle(time=time, open=prices[0], high=prices[1], low=prices[2], close=prices[3])


def test_the_index_goes_with_the_last_price_unless_it_is_told_to_lag():
    exchange = an_exchange()
    told = []
    exchange.observers.append(told.append)

    exchange.set_price(Price(90_000.0), NOON, index=Price(99_000.0))
    assert (exchange.last, exchange.index) == (90_000, 99_000)
    exchange.set_price(Price(90_000.0), NOON)
    assert (exchange.last, exchange.index) == (90_000, 90_000)
    exchange.set_price(Price(90_000.0), NOON)

    assert [type(event) for event in told] == [PriceMoved, PriceMoved]


def test_an_index_that_is_no_price_changes_nothing():
    exchange = an_exchange()

    with pytest.raises(Rejected, match="Index"):
        exchange.set_price(Price(90_000.0), NOON, index=Price(0.3))

    assert (exchange.last, exchange.index) == (100_000, 100_000)


def test_nothing_is_liquidated_by_the_index():
    exchange = an_exchange()
    account = exchange.add_account(Credentials(key="k", secret="s", passphrase="p"), Sats(10**9))
    order = Order(side=Side.LONG, leverage=Fraction(10), quantity=Usd(1_000))
    exchange.open_trade(account, order, NOON)

    exchange.set_price(Price(100_000.0), NOON, index=Price(50_000.0))

    assert len(exchange.running_trades(account)) == 1


def test_a_candle_has_open_extremes_and_close_of_its_minute():
    book = CandleBook()
    for seconds, price in ((0, 100.0), (10, 120.0), (20, 90.0), (59.999, 95.0), (60, 99.0)):
        book.note(Price(price), NOON + timedelta(seconds=seconds))

    assert [*book.candles(MINUTE)] == [
        candle(NOON + MINUTE, 95, 99, 95, 99),
        candle(NOON, 100, 120, 90, 95),
    ]


def test_a_still_market_makes_flat_candles():
    book = CandleBook()
    book.note(Price(100.0), NOON)
    book.note(Price(110.0), NOON + 3 * MINUTE)

    assert [*book.candles(MINUTE)] == [
        candle(NOON + 3 * MINUTE, 100, 110, 100, 110),
        candle(NOON + 2 * MINUTE, 100, 100, 100, 100),
        candle(NOON + MINUTE, 100, 100, 100, 100),
        candle(NOON, 100, 100, 100, 100),
    ]


def test_coarser_candles_are_put_together_from_minutes():
    book = CandleBook()
    for minute, price in enumerate([100.0, 130.0, 80.0, 90.0, 95.0, 97.0, 70.0]):
        book.note(Price(price), NOON + minute * MINUTE)

    assert [*book.candles(RANGES["5m"])] == [
        candle(NOON + 5 * MINUTE, 95, 97, 70, 70),
        candle(NOON, 100, 130, 80, 95),
    ]
    assert [*book.candles(RANGES["1h"])] == [candle(NOON, 100, 130, 70, 70)]


@pytest.mark.parametrize(
    ("span", "begin"),
    [
        ("1m", datetime(2026, 1, 1, 12, 47, tzinfo=UTC)),
        ("45m", datetime(2026, 1, 1, 12, 45, tzinfo=UTC)),
        ("4h", datetime(2026, 1, 1, 12, tzinfo=UTC)),
        ("1d", datetime(2026, 1, 1, tzinfo=UTC)),
        ("1w", datetime(2025, 12, 29, tzinfo=UTC)),
    ],
)
def test_spans_begin_on_the_hour_at_midnight_and_on_mondays(span, begin):
    assert begin_of(NOON + 47 * MINUTE + 3 * SECOND, RANGES[span]) == begin


def test_a_clock_that_is_set_back_breaks_no_candle():
    book = CandleBook()
    book.note(Price(100.0), NOON + MINUTE)
    book.note(Price(120.0), NOON)

    assert [*book.candles(MINUTE)] == [candle(NOON + MINUTE, 100, 120, 100, 120)]


def test_only_the_last_days_of_candles_are_kept():
    book = CandleBook()
    book.note(Price(100.0), NOON)
    book.note(Price(110.0), NOON + timedelta(days=4_000))

    kept = [*book.candles(MINUTE)]
    assert len(kept) == KEPT // MINUTE
    assert kept[0].time == NOON + timedelta(days=4_000)
    assert kept[0].time - kept[-1].time == KEPT - MINUTE


def test_the_exchange_keeps_the_candles_of_its_price():
    exchange = an_exchange()
    exchange.pass_time(NOON)
    exchange.set_price(Price(110_000.0), NOON + MINUTE)
    exchange.pass_time(NOON + 2 * MINUTE)

    assert [c.close for c in exchange.market.candles.candles(MINUTE)] == [
        *(110_000, 110_000, 100_000)
    ]


def test_the_funding_clock_tells_each_time_once():
    clock = FundingClock()

    assert [*clock.due(NOON)] == []
    assert [*clock.due(NOON.replace(hour=15, minute=59, second=59))] == []
    assert [*clock.due(NOON.replace(hour=16))] == [NOON.replace(hour=16)]
    assert [*clock.due(NOON.replace(hour=17))] == []
    assert [*clock.due(NOON)] == []
    assert [time.hour for time in clock.due(NOON.replace(day=2, hour=9))] == [0, 8]


def test_funding_is_settled_when_its_time_has_come_at_the_price_of_then():
    exchange = an_exchange(funding_rate=0.001)
    account = exchange.add_account(Credentials(key="k", secret="s", passphrase="p"), Sats(10**9))
    order = Order(side=Side.LONG, leverage=Fraction(10), quantity=Usd(1_000))
    exchange.open_trade(account, order, NOON)
    exchange.cross.deposit(account, Sats(2_000_000), NOON)
    exchange.cross.order(account, CrossRequest(side=Side.LONG, quantity=Usd(1_000)), NOON)
    exchange.pass_time(NOON)

    exchange.set_price(Price(200_000.0), NOON.replace(hour=16, minute=5))

    (settlement,) = exchange.settlements
    assert settlement.time == NOON.replace(hour=16)
    assert (settlement.rate, settlement.price) == (0.001, 100_000)
    (trade,) = exchange.running_trades(account)
    assert trade.funding_fees == 1_000
    assert exchange.cross.position(account).funding_fees == 1_000


def test_a_clock_that_jumped_over_days_settles_every_time_on_its_way():
    exchange = an_exchange()
    exchange.pass_time(NOON)

    exchange.pass_time(NOON + timedelta(days=2))

    hours = [settlement.time.hour for settlement in exchange.settlements]
    assert hours == [8, 0, 16, 8, 0, 16]


def test_stamps_are_whole_milliseconds_and_never_the_same():
    stamps = Stamps()
    first = stamps.take(NOON + timedelta(microseconds=1_999))

    assert first == NOON + timedelta(milliseconds=1)
    assert stamps.take(NOON) == NOON + timedelta(milliseconds=2)
    assert stamps.take(NOON + SECOND) == NOON + SECOND
