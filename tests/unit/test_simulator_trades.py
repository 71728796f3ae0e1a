"""Isolated trades of the simulated exchange: the figures that the real one documents."""

from datetime import UTC, datetime
from fractions import Fraction
from itertools import count
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain import margin
from marginguard.domain.errors import Rejected
from marginguard.domain.model import MarginMode, Position, Side
from marginguard.domain.units import PositionId, Price, Sats, Usd
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.contract import MAX_PRICE, fee, funding_fee
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.trades import Ending, Order, Trade

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RICH = Sats(100 * 100_000_000)
_keys = (f"key{number}" for number in count())


def open_trade(
    price: float,
    *,
    side: Side = Side.LONG,
    quantity: int | None = 1_000,
    leverage: str = "10",
    balance: Sats = RICH,
    **order: object,
):
    """Return exchange, account and a trade opened at `price`."""
    exchange = Exchange(price=Price(price), ids=seeded_ids(1))
    account = exchange.add_account(
        Credentials(key=next(_keys), secret="s", passphrase="p"), balance
    )
    wanted = Order(side=side, leverage=Fraction(leverage), quantity=quantity, **order)
    return exchange, account, exchange.open_trade(account, wanted, NOW)


def position_of(trade: Trade) -> Position:
    return Position(
        id=PositionId(str(trade.id)),
        mode=MarginMode.ISOLATED,
        side=trade.side,
        quantity=trade.quantity,
        entry_price=trade.entry_price,
        margin=trade.margin,
        maintenance_margin=trade.maintenance_margin,
        leverage=trade.leverage,
        pl=Sats(0),
        liquidation_price=None,
        stop_loss=None,
        take_profit=None,
        entry_margin=trade.entry_margin,
        funding_paid=Sats(0),
        cashed_in=Sats(0),
        client_id=None,
    )


@pytest.mark.parametrize(
    ("price", "side", "leverage", "liquidation"),
    [
        (110_000, Side.LONG, "1", 55_000),
        (110_000, Side.LONG, "100", 108_911),
        (110_000, Side.SHORT, "100", 111_111),
        (100_000, Side.LONG, "10", 90_909),
    ],
)
def test_liquidation_prices_are_the_documented_ones(price, side, leverage, liquidation):
    _, _, trade = open_trade(price, side=side, leverage=leverage)

    assert trade.liquidation == liquidation


@given(
    side=st.sampled_from(Side),
    quantity=st.integers(1, 500_000),
    leverage=st.decimals(1, 100, places=2).map(str),
    half_dollars=st.integers(2_000, 400_000),
)
def test_the_liquidation_price_is_that_of_the_margin_mathematics(
    side, quantity, leverage, half_dollars
):
    _, _, trade = open_trade(
        half_dollars / 2, side=side, quantity=quantity, leverage=leverage, balance=Sats(10**15)
    )

    exact = margin.exact_liquidation_price(position_of(trade))
    expected = MAX_PRICE if exact is None else min(MAX_PRICE, margin.to_price_step(exact))
    assert trade.liquidation == expected


def test_a_short_that_cannot_be_liquidated_has_the_highest_price():
    _, _, trade = open_trade(100_000, side=Side.SHORT, leverage="1")

    assert trade.liquidation == MAX_PRICE


@pytest.mark.parametrize(
    ("side", "price", "pl"),
    [(Side.LONG, 55_000, 1818), (Side.LONG, 46_000, -1740), (Side.SHORT, 55_000, -1819)],
)
def test_pl_is_rounded_down_as_documented(side, price, pl):
    _, _, trade = open_trade(50_000, side=side, quantity=10, leverage="1")

    assert trade.pl_at(Price(price)) == pl


def test_the_margin_is_quantity_by_leverage_rounded_down():
    _, _, trade = open_trade(70_000, quantity=1_000, leverage="7.5")

    assert trade.margin == 190_476  # 1000 * 1e8 / (70000 * 7.5) is 190476.19
    assert trade.entry_margin == trade.margin
    assert trade.leverage == 7.5


def test_a_margin_given_instead_buys_the_whole_dollars_it_can():
    _, account, trade = open_trade(70_000, quantity=None, leverage="7.5", margin=Sats(190_600))

    assert (trade.quantity, trade.margin) == (1_000, 190_600)
    assert account.balance == RICH - 190_600 - trade.maintenance_margin


def test_opening_takes_margin_opening_fee_and_the_reserve_for_closing():
    _, account, trade = open_trade(100_000, quantity=1_000, leverage="10")

    assert trade.margin == 100_000
    assert trade.opening_fee == 1_000  # 0.1 % of 1,000,000 sats
    assert trade.maintenance_margin == 1_000 + 1_100  # and 0.1 % of 1000 USD at 90,909
    assert account.balance == RICH - 100_000 - 2_100


@pytest.mark.parametrize(("tier", "expected"), [(1, 1_000), (2, 800), (3, 700), (4, 600)])
def test_the_fee_follows_the_tier(tier, expected):
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1))
    account = exchange.add_account(
        Credentials(key="k", secret="s", passphrase="p"), RICH, fee_tier=tier
    )
    order = Order(side=Side.LONG, leverage=Fraction(10), quantity=Usd(1_000))

    assert exchange.open_trade(account, order, NOW).opening_fee == expected


def test_a_fee_is_rounded_down():
    assert fee(Usd(1), Price(70_000.0), Fraction(1, 1_000)) == 1  # 1.43


def test_closing_gives_back_margin_pl_and_what_the_fee_leaves_of_the_reserve():
    exchange, account, trade = open_trade(100_000)
    exchange.set_price(Price(110_000.0), NOW)

    ended = exchange.close_trade(account, trade.id, NOW)

    assert ended.closing.pl == 90_909
    assert ended.closing.fee == 909
    assert ended.closing.price == 110_000
    assert account.balance == RICH + 90_909 - 1_000 - 909
    assert exchange.running_trades(account) == ()
    assert exchange.closed_trades(account) == (ended,)


def test_closing_beyond_liquidation_costs_the_margin_and_the_reserve_and_no_more():
    """The spread lets a trade close at a bid that is worse than its liquidation price."""
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1), spread=2_000)
    account = exchange.add_account(Credentials(key="k", secret="s", passphrase="p"), RICH)
    order = Order(side=Side.LONG, leverage=Fraction(10), quantity=Usd(1_000))
    trade = exchange.open_trade(account, order, NOW)
    exchange.set_price(Price(92_000.0), NOW)
    before = account.balance

    ended = exchange.close_trade(account, trade.id, NOW)

    assert ended.closing.price == 91_000 < trade.liquidation
    assert ended.closing.pl == -trade.margin
    assert ended.closing.fee == trade.fee_reserve
    assert account.balance == before


def test_adding_margin_keeps_the_entry_and_moves_the_liquidation_away():
    exchange, account, trade = open_trade(100_000)
    before = account.balance

    grown = exchange.add_margin(account, trade.id, Sats(100_000))

    assert grown.margin == 200_000
    assert grown.entry_price == 100_000
    assert grown.entry_margin == 100_000
    assert grown.leverage == 5
    assert grown.liquidation == 83_333.5
    assert account.balance == before - 100_000


def test_margin_may_be_added_down_to_leverage_1_and_not_a_sat_further():
    exchange, account, trade = open_trade(100_000)

    with pytest.raises(Rejected, match="below 1") as refused:
        exchange.add_margin(account, trade.id, Sats(900_001))
    assert (refused.value.status, refused.value.code) == (400, "BAD_REQUEST")

    assert exchange.add_margin(account, trade.id, Sats(900_000)).leverage == 1


@pytest.mark.parametrize("amount", [0, -5])
def test_an_amount_of_nothing_is_refused(amount):
    exchange, account, trade = open_trade(100_000)

    with pytest.raises(Rejected):
        exchange.add_margin(account, trade.id, Sats(amount))
    with pytest.raises(Rejected):
        exchange.cash_in(account, trade.id, Sats(amount))


def test_more_margin_than_the_balance_is_refused_and_changes_nothing():
    exchange, account, trade = open_trade(100_000, balance=Sats(102_200))

    with pytest.raises(Rejected, match="Insufficient"):
        exchange.add_margin(account, trade.id, Sats(101))

    assert account.balance == 100
    assert exchange.running_trades(account) == (trade,)


@pytest.mark.parametrize(
    "order",
    [
        {"leverage": "0.99"},
        {"leverage": "100.5"},
        {"quantity": 0},
        {"quantity": 500_001},
        {"margin": Sats(1_000)},
        {"quantity": None},
        {"quantity": None, "margin": Sats(0)},
        {"balance": Sats(102_099)},
        {"stop_loss": Price(100_000.0)},
        {"stop_loss": Price(90_908.5)},
        {"stop_loss": Price(95_000.3)},
        {"take_profit": Price(100_000.0)},
        {"take_profit": Price(-1.0)},
    ],
)
def test_an_order_that_breaks_a_rule_is_refused(order):
    with pytest.raises(Rejected) as refused:
        open_trade(100_000, **order)

    assert (refused.value.status, refused.value.code) == (400, "BAD_REQUEST")


@pytest.mark.parametrize(
    ("side", "price", "liquidation"),
    [(Side.LONG, 90_909, 90_909), (Side.LONG, 40_000, 90_909), (Side.SHORT, 150_000, 111_111)],
)
def test_a_liquidated_trade_loses_exactly_its_margin(side, price, liquidation):
    exchange, account, trade = open_trade(100_000, side=side)

    exchange.set_price(Price(float(price)), NOW)

    (ended,) = exchange.closed_trades(account)
    assert ended.closing.ending is Ending.LIQUIDATION
    assert ended.closing.pl == -trade.margin
    assert ended.closing.price == liquidation
    assert account.balance == RICH - trade.margin - trade.maintenance_margin


def test_half_a_dollar_before_liquidation_the_trade_still_runs():
    exchange, account, trade = open_trade(100_000)

    exchange.set_price(Price(90_909.5), NOW)

    assert exchange.running_trades(account) == (trade,)


def test_a_liquidated_trade_never_runs_again():
    exchange, account, trade = open_trade(100_000)
    exchange.set_price(Price(90_000.0), NOW)
    exchange.set_price(Price(120_000.0), NOW)

    for attempt in (
        lambda: exchange.add_margin(account, trade.id, Sats(1)),
        lambda: exchange.close_trade(account, trade.id, NOW),
        lambda: exchange.set_stop_loss(account, trade.id, None),
    ):
        with pytest.raises(Rejected, match="not running"):
            attempt()
    assert exchange.running_trades(account) == ()
    assert len(exchange.closed_trades(account)) == 1


@pytest.mark.parametrize(
    ("side", "stop", "price"),
    [
        (Side.LONG, 95_000.0, 95_000.0),
        (Side.LONG, 95_000.0, 50_000.0),
        (Side.SHORT, 105_000.0, 2e5),
    ],
)
def test_a_stop_loss_ends_the_trade_at_its_price_before_liquidation_does(side, stop, price):
    exchange, account, trade = open_trade(100_000, side=side)
    exchange.set_stop_loss(account, trade.id, Price(stop))

    exchange.set_price(Price(price), NOW)

    (ended,) = exchange.closed_trades(account)
    assert (ended.closing.ending, ended.closing.price) == (Ending.STOP_LOSS, stop)
    assert ended.closing.pl == trade.pl_at(Price(stop))


def test_a_removed_stop_loss_does_not_fire():
    exchange, account, trade = open_trade(100_000, stop_loss=Price(95_000.0))
    exchange.set_stop_loss(account, trade.id, None)

    exchange.set_price(Price(94_000.0), NOW)

    assert len(exchange.running_trades(account)) == 1


def test_a_stop_loss_is_allowed_at_liquidation_and_not_beyond_it():
    exchange, account, trade = open_trade(100_000)

    assert exchange.set_stop_loss(account, trade.id, Price(90_909.0)).stop_loss == 90_909
    with pytest.raises(Rejected):
        exchange.set_stop_loss(account, trade.id, Price(90_908.5))


@pytest.mark.parametrize(
    ("side", "path", "stops"),
    [
        (Side.LONG, [102_000, 99_000, 101_000, 110_000], [96_900, 96_900, 96_900, 104_500]),
        (Side.SHORT, [98_000, 101_000, 99_000, 90_000], [102_900, 102_900, 102_900, 94_500]),
    ],
)
def test_a_trailing_stop_follows_the_best_price_and_never_moves_back(side, path, stops):
    exchange, account, trade = open_trade(100_000, side=side)
    exchange.set_trailing_stop(account, trade.id, Fraction("0.05"))

    seen = []
    for price in path:
        exchange.set_price(Price(float(price)), NOW)
        seen.append(exchange.running_trades(account)[0].stop_loss)

    assert seen == stops


def test_a_trailing_stop_ends_the_trade_at_the_price_that_it_has_come_to():
    exchange, account, trade = open_trade(100_000)
    set_to = exchange.set_trailing_stop(account, trade.id, Fraction("0.05"))
    assert (set_to.stop_loss, set_to.trailing_distance) == (95_000, Fraction("0.05"))
    exchange.set_price(Price(110_000.0), NOW)

    exchange.set_price(Price(104_500.0), NOW)

    (ended,) = exchange.closed_trades(account)
    assert (ended.closing.ending, ended.closing.price) == (Ending.STOP_LOSS, 104_500)


@pytest.mark.parametrize("price", [None, 96_000.0])
def test_a_fixed_stop_loss_or_none_ends_the_trailing(price):
    exchange, account, trade = open_trade(100_000)
    exchange.set_trailing_stop(account, trade.id, Fraction("0.05"))
    exchange.set_stop_loss(account, trade.id, price)

    exchange.set_price(Price(110_000.0), NOW)

    (trade,) = exchange.running_trades(account)
    assert (trade.stop_loss, trade.trailing_distance) == (price, None)


@pytest.mark.parametrize(("side", "stop"), [(Side.LONG, 99_999.0), (Side.SHORT, 100_001.0)])
def test_a_trailing_stop_off_the_price_step_is_put_farther_away(side, stop):
    exchange, account, trade = open_trade(100_000, side=side)

    # 0.6 USD behind the market: nearer to 0.5 than to 1.
    trailing = exchange.set_trailing_stop(account, trade.id, Fraction("0.000006"))

    assert trailing.stop_loss == stop


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("distance", ["-0.05", "0", "1", "5", "1e305", "0.12"])
def test_a_trailing_distance_that_is_no_share_or_beyond_liquidation_is_refused(side, distance):
    exchange, account, trade = open_trade(100_000, side=side)

    with pytest.raises(Rejected):
        exchange.set_trailing_stop(account, trade.id, Fraction(distance))

    assert exchange.running_trades(account) == (trade,)


@pytest.mark.parametrize(
    ("side", "target", "price"),
    [(Side.LONG, 105_000.0, 120_000.0), (Side.SHORT, 95_000.0, 50_000.0)],
)
def test_a_take_profit_ends_the_trade_at_its_price(side, target, price):
    exchange, account, trade = open_trade(100_000, side=side)
    exchange.set_take_profit(account, trade.id, Price(target))

    exchange.set_price(Price(price), NOW)

    (ended,) = exchange.closed_trades(account)
    assert (ended.closing.ending, ended.closing.price) == (Ending.TAKE_PROFIT, target)


def test_a_cash_in_takes_profit_first_by_moving_the_entry():
    exchange, account, trade = open_trade(100_000)
    exchange.set_price(Price(110_000.0), NOW)  # a profit of 90,909 sats
    before = account.balance

    taken = exchange.cash_in(account, trade.id, Sats(40_000))

    assert account.balance == before + 40_000
    assert (taken.cashed_in_pl, taken.cashed_in_margin) == (40_000, 0)
    assert taken.margin == trade.margin
    # The entry is on the half-dollar grid, so that the profit left is right to a step of it.
    assert 50_909 - 5 <= taken.pl_at(Price(110_000.0)) <= 50_909
    assert taken.entry_margin == trade.entry_margin


def test_a_cash_in_beyond_the_profit_takes_margin():
    exchange, account, trade = open_trade(100_000, stop_loss=Price(90_909.0))
    exchange.set_price(Price(110_000.0), NOW)

    taken = exchange.cash_in(account, trade.id, Sats(110_909))

    assert (taken.cashed_in_pl, taken.cashed_in_margin) == (90_909, 20_000)
    assert taken.entry_price == 110_000
    assert taken.margin == 80_000
    assert taken.stop_loss is None  # it would lie beyond the new liquidation price


@pytest.mark.parametrize("amount", [95_000, 100_000, 1_000_000])
def test_a_cash_in_that_passes_leverage_100_is_refused(amount):
    exchange, account, trade = open_trade(100_000)

    with pytest.raises(Rejected, match="above 100"):
        exchange.cash_in(account, trade.id, Sats(amount))


@pytest.mark.parametrize(
    ("side", "rate", "paid"),
    [
        (Side.LONG, 0.0001, 100),
        (Side.SHORT, 0.0001, -100),
        (Side.LONG, -0.0001, -100),
        (Side.SHORT, -0.0001, 100),
    ],
)
def test_funding_is_paid_from_the_margin_and_received_into_the_balance(side, rate, paid):
    exchange, account, trade = open_trade(100_000, side=side)
    before = account.balance

    exchange.settle_funding(rate, NOW)

    (settled,) = exchange.running_trades(account)
    assert settled.funding_fees == paid
    assert settled.margin == trade.margin - max(0, paid)
    assert account.balance == before + max(0, -paid)
    nearer = trade.side.sign * (settled.liquidation - trade.liquidation)
    assert (nearer > 0) if paid > 0 else (nearer == 0)


def test_a_fraction_of_a_sat_of_funding_goes_to_the_exchange():
    # 1 USD is 1428.57 sats, 0.1 % of which is 1.43.
    def paid(rate: Fraction) -> Sats:
        return funding_fee(Side.LONG, Usd(1), rate=rate, price=Price(70_000.0))

    assert paid(Fraction(1, 1_000)) == 2
    assert paid(Fraction(-1, 1_000)) == -1


def test_funding_that_brings_liquidation_past_the_price_liquidates():
    exchange, account, trade = open_trade(100_000)
    exchange.set_price(Price(91_000.0), NOW)

    exchange.settle_funding(0.02, NOW)

    (ended,) = exchange.closed_trades(account)
    assert ended.closing.ending is Ending.LIQUIDATION
    assert ended.closing.pl == -ended.margin
    assert ended.closing.price == ended.liquidation > trade.liquidation


def test_a_trade_that_cannot_pay_its_funding_is_liquidated():
    exchange, account, _ = open_trade(100_000)

    exchange.settle_funding(0.5, NOW)

    (ended,) = exchange.closed_trades(account)
    assert ended.closing.ending is Ending.LIQUIDATION
    assert (ended.funding_fees, ended.closing.pl) == (99_999, -1)


def test_a_trade_of_another_account_is_not_found():
    exchange, _, trade = open_trade(100_000)
    other = exchange.add_account(Credentials(key="o", secret="s", passphrase="p"), RICH)

    with pytest.raises(Rejected) as refused:
        exchange.close_trade(other, trade.id, NOW)

    assert (refused.value.status, refused.value.code) == (404, "NOT_FOUND")


def test_an_unknown_trade_is_not_found():
    exchange, account, _ = open_trade(100_000)

    with pytest.raises(Rejected) as refused:
        exchange.close_trade(account, UUID(int=0), NOW)

    assert refused.value.status == 404
