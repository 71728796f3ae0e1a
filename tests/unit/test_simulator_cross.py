"""The cross position of the simulated exchange: the figures that the real one documents."""

from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain.errors import Rejected
from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats, Usd
from marginguard.simulator import cross
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.contract import MAX_PRICE
from marginguard.simulator.cross import CrossPosition, max_quantity
from marginguard.simulator.events import CrossChanged, CrossOrderChanged
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.orders import CrossRequest, OrderType
from marginguard.simulator.wire import cross_position_payload, equity, state_payload
from tests.unit.strategies import prices, sides

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
RICH = Sats(100 * 100_000_000)
FREE = Fraction(0)


class Desk:
    """An account on an exchange of its own, with sats on cross margin."""

    def __init__(self, price=100_000.0, *, margin=500_000, leverage=10, balance=RICH, **exchange):
        self.exchange = Exchange(price=Price(price), ids=seeded_ids(1), **exchange)
        self.account = self.exchange.add_account(
            Credentials(key="k", secret="s", passphrase="p"), Sats(balance)
        )
        self.book = self.exchange.cross
        self.events = []
        self.exchange.observers.append(self.events.append)
        if margin:
            self.book.deposit(self.account, Sats(margin), NOW)
        self.book.set_leverage(self.account, leverage, NOW)

    @property
    def position(self):
        return self.book.position(self.account)

    def order(self, quantity, price=None, **more):
        """Buy `quantity` USD, or sell if it is below 0."""
        side = Side.LONG if quantity >= 0 else Side.SHORT
        wanted = CrossRequest(side=side, quantity=Usd(abs(quantity)), price=price, **more)
        return self.book.order(self.account, wanted, NOW)

    def move(self, price):
        self.exchange.set_price(Price(price), NOW)


def a_position(quantity=1_000, entry=100_000.0, margin=500_000, **changes):
    position = CrossPosition(
        id=UUID(int=1),
        account="k",
        leverage=10,
        margin=Sats(margin),
        quantity=quantity,
        entry_price=Price(entry),
    )
    return replace(position, **changes)


def filled(position, quantity, price, *, books_loss=False, fee_rate=FREE):
    return cross.with_fill(
        position,
        side=Side.LONG if quantity > 0 else Side.SHORT,
        quantity=Usd(abs(quantity)),
        price=Price(price),
        fee_rate=fee_rate,
        losing_reduction_books_loss=books_loss,
    )


@pytest.mark.parametrize(("quantity", "liquidation"), [(1_000, 66_733.5), (-1_000, 199_402.0)])
def test_the_documented_example(quantity, liquidation):
    position = a_position(quantity)

    assert position.liquidation == liquidation
    assert position.running_margin == 100_000
    assert position.maintenance_margin == 1_500


def test_margins_are_rounded_down_to_a_sat():
    position = a_position(2, 66_834.0, leverage=1)  # worth 2992.4889 sats

    assert position.running_margin == 2_992
    assert position.maintenance_margin == 4


@pytest.mark.parametrize(
    ("leverage", "most"), [(1, 15_000_000), (50, 12_525_255), (100, 10_000_000)]
)
def test_the_largest_quantity_falls_with_the_leverage(leverage, most):
    assert max_quantity(leverage) == most


def test_a_short_that_cannot_be_liquidated_has_the_highest_price():
    assert a_position(-1_000, margin=2_000_000).liquidation == MAX_PRICE


def test_a_flat_position_has_neither_entry_nor_liquidation():
    position = Desk().position

    assert (position.quantity, position.margin, position.leverage) == (0, 500_000, 10)
    assert position.entry_price is position.liquidation is None
    assert position.running_margin == position.maintenance_margin == 0


def test_opening_takes_the_fee_out_of_the_margin():
    desk = Desk()

    order = desk.order(1_000, client_id="mine")

    assert (order.type, order.price, order.trading_fee) == (OrderType.MARKET, 100_000, 1_000)
    assert order.client_id == "mine"
    assert desk.book.filled_orders(desk.account) == (order,)
    assert desk.position.margin == 499_000
    assert desk.position.trading_fees == 1_000
    assert (desk.position.quantity, desk.position.entry_price) == (1_000, 100_000)
    assert desk.account.balance == RICH - 500_000


def test_adding_weighs_the_entry_by_inverse_price():
    position = filled(a_position(), 2_000, 50_000.0)

    assert (position.quantity, position.entry_price) == (3_000, 60_000)
    assert position.margin == 500_000


def test_the_weighted_entry_is_rounded_to_the_nearest_half_dollar():
    position = filled(a_position(10), 10, 200_000.0)  # 133,333.33

    assert position.entry_price == 133_333.5


@given(side=sides, first=prices, second=prices, quantity=st.integers(1, 10**6))
def test_adding_at_one_price_keeps_the_entry_and_never_leaves_the_two_prices(
    side, first, second, quantity
):
    opened = filled(a_position(0, margin=10**12, entry_price=None), side.sign * quantity, first)

    assert filled(opened, side.sign, first).entry_price == first
    low, high = sorted((first, second))
    assert low <= filled(opened, side.sign * 7, second).entry_price <= high


@pytest.mark.parametrize("books_loss", [True, False])
@pytest.mark.parametrize(("side", "price"), [(1, 125_000.0), (-1, 80_000.0)])
def test_a_reduction_in_profit_books_its_share_into_the_margin(books_loss, side, price):
    before = a_position(side * 1_000)

    reduced = filled(before, side * -400, price, books_loss=books_loss)

    assert reduced.quantity == side * 600
    assert reduced.entry_price == 100_000
    share = {1: 80_000, -1: 100_000}[side]  # 0.4 of a profit of 200,000 or 250,000
    assert reduced.margin == 500_000 + share
    assert reduced.realised_pl == share


@pytest.mark.parametrize(
    ("side", "price", "entry"),
    # What remains of 1,000 has at the price the whole loss: 250,000 and 200,000 sats.
    [(1, 80_000.0, 120_000.0), (-1, 125_000.0, 88_235.5)],
)
def test_a_losing_reduction_carries_the_loss_in_the_entry(side, price, entry):
    before = a_position(side * 1_000)

    reduced = filled(before, side * -400, price)

    assert (reduced.quantity, reduced.entry_price) == (side * 600, entry)
    assert (reduced.margin, reduced.realised_pl) == (500_000, 0)
    # To the half dollar that the entry is rounded to.
    assert abs(reduced.pl_at(Price(price)) - before.pl_at(Price(price))) <= 2


@pytest.mark.parametrize(("side", "price"), [(1, 80_000.0), (-1, 125_000.0)])
def test_a_losing_reduction_may_book_its_share_of_the_loss_instead(side, price):
    before = a_position(side * 1_000)

    reduced = filled(before, side * -400, price, books_loss=True)

    assert (reduced.quantity, reduced.entry_price) == (side * 600, 100_000)
    share = before.pl_at(Price(price)) * 4 // 10
    assert reduced.margin == 500_000 + share
    assert reduced.realised_pl == share


@given(
    side=sides,
    quantity=st.integers(100, 100_000),
    percent=st.integers(1, 90),
    fall=st.integers(1, 20),
)
def test_both_kinds_of_losing_reduction_are_worth_the_same(side, quantity, percent, fall):
    before = a_position(side.sign * quantity, margin=10**10)
    price = Price(100_000.0 * (100 - side.sign * fall) / 100)
    cut = -side.sign * max(1, quantity * percent // 100)

    carried = filled(before, cut, price)
    booked = filled(before, cut, price, books_loss=True)

    def worth(position):
        return position.margin + position.pl_at(price)

    # A quarter of a dollar of the entry of what remains, and a sat for each rounding.
    rest = abs(carried.quantity) * 100_000_000
    rounding = rest * Fraction(1, 4) / Fraction(carried.entry_price) ** 2 * Fraction(101, 100)
    assert abs(worth(carried) - worth(before)) <= rounding + 1
    assert abs(worth(booked) - worth(before)) <= 2


@pytest.mark.parametrize(
    ("quantity", "price", "loss"),
    # No entry, however high or low, is that far from the price for the 1 USD that remains.
    [(1_000, 60_000.0, -666_000), (-10_000_000, 200_000.0, -4_999_999_500)],
)
def test_a_loss_too_large_for_what_remains_to_carry_is_booked(quantity, price, loss):
    before = a_position(quantity, margin=10**11)
    rest = 1 if quantity > 0 else -1

    reduced = filled(before, rest - quantity, price)

    assert (reduced.quantity, reduced.entry_price) == (rest, 100_000)
    assert reduced.realised_pl == loss
    assert reduced.margin == 10**11 + loss


@pytest.mark.parametrize(("price", "pl"), [(80_000.0, -250_000), (125_000.0, 200_000)])
def test_closing_books_profit_and_loss_and_leaves_the_margin_free(price, pl):
    desk = Desk()
    desk.order(1_000)
    desk.move(price)

    order = desk.book.close(desk.account, NOW)

    fee = {80_000.0: 1_250, 125_000.0: 800}[price]
    assert (order.side, order.quantity, order.price) == (Side.SHORT, 1_000, price)
    assert order.trading_fee == fee
    assert (desk.position.quantity, desk.position.entry_price) == (0, None)
    assert desk.position.margin == 499_000 + pl - fee
    assert desk.position.realised_pl == pl
    assert desk.position.leverage == 10


def test_a_reversal_books_the_old_position_and_enters_the_new_one_at_the_price():
    desk = Desk()
    desk.order(1_000)
    desk.move(80_000.0)

    order = desk.order(-1_500)

    assert order.trading_fee == 1_875
    assert (desk.position.quantity, desk.position.entry_price) == (-500, 80_000)
    assert desk.position.margin == 499_000 - 250_000 - 1_875


def test_a_reversal_that_the_margin_does_not_cover_is_refused_whole():
    desk = Desk(margin=110_000)
    desk.order(1_000)
    before = desk.position

    with pytest.raises(Rejected, match="Margin too low"):
        desk.order(-3_000)

    assert desk.position == before
    assert len(desk.book.filled_orders(desk.account)) == 1


def test_a_reversal_to_a_smaller_position_must_be_covered_too():
    desk = Desk(margin=110_000)
    desk.order(1_000)
    desk.move(91_000.0)  # closing leaves 8,890 sats, and 100 USD need 11,153

    with pytest.raises(Rejected, match="Margin too low"):
        desk.order(-1_100)

    assert desk.position.quantity == 1_000


def test_a_spread_takes_no_more_than_the_margin_and_liquidates_what_it_leaves():
    desk = Desk(margin=150_000, spread=4_000)
    desk.order(1_000)
    desk.move(88_700.0)  # 43 USD above liquidation, and market orders sell 2,000 below

    order = desk.order(-999)

    liquidation, reduction, _ = desk.book.filled_orders(desk.account)
    assert reduction == order
    assert (reduction.price, reduction.trading_fee) == (86_700, 0)
    assert (liquidation.type, liquidation.quantity) == (OrderType.LIQUIDATION, 1)
    assert (desk.position.quantity, desk.position.margin) == (0, 0)
    assert desk.position.realised_pl == -149_020


@pytest.mark.parametrize(
    ("setting", "entry", "margin"),
    [
        ({}, 120_000, 498_500),
        ({"losing_reduction_books_loss": False}, 120_000, 498_500),
        ({"losing_reduction_books_loss": True}, 100_000, 398_500),
    ],
)
def test_the_exchange_is_told_what_a_losing_reduction_does(setting, entry, margin):
    desk = Desk(**setting)
    desk.order(1_000)
    desk.move(80_000.0)

    desk.order(-400)

    assert (desk.position.quantity, desk.position.entry_price) == (600, entry)
    assert desk.position.margin == margin


def test_there_is_nothing_to_close_when_flat():
    desk = Desk()

    with pytest.raises(Rejected, match="no position"):
        desk.book.close(desk.account, NOW)


@pytest.mark.parametrize(("margin", "covered"), [(102_500, False), (102_501, True)])
def test_opening_needs_more_than_running_and_maintenance_margin_after_the_fee(margin, covered):
    desk = Desk(margin=margin)

    if covered:
        desk.order(1_000)
        assert desk.position.free_margin(Price(100_000.0)) == 1
    else:
        with pytest.raises(Rejected, match="Margin too low"):
            desk.order(1_000)


def test_a_quantity_above_the_limit_of_the_leverage_is_refused():
    desk = Desk(margin=10_000_000_000 - 1, leverage=100)
    desk.order(10_000_000)

    with pytest.raises(Rejected, match="10000000 USD allowed at leverage 100"):
        desk.order(1)

    desk.order(-1)
    assert desk.position.quantity == 9_999_999


@pytest.mark.parametrize("quantity", [0, -1])
def test_an_order_of_nothing_is_refused(quantity):
    desk = Desk()

    with pytest.raises(Rejected, match="at least 1"):
        desk.book.order(desk.account, CrossRequest(side=Side.LONG, quantity=quantity), NOW)


def test_a_reduction_is_never_refused_for_want_of_margin():
    desk = Desk(margin=102_501)
    desk.order(1_000)
    desk.move(92_000.0)

    desk.order(-500)

    assert desk.position.quantity == 500


def test_a_deposit_moves_sats_in_without_a_cap():
    desk = Desk()
    desk.order(1_000)
    before = desk.position

    after = desk.book.deposit(desk.account, Sats(5_000_000), NOW)

    assert after.margin == before.margin + 5_000_000
    assert after.liquidation < before.liquidation
    assert after.leverage == 10
    assert desk.account.balance == RICH - 5_500_000
    newest, oldest = desk.book.transfers(desk.account)
    assert (newest.amount, oldest.amount) == (5_000_000, 500_000)


def test_a_deposit_beyond_the_balance_is_refused():
    desk = Desk(balance=500_010)

    with pytest.raises(Rejected, match="Insufficient balance"):
        desk.book.deposit(desk.account, Sats(11), NOW)

    assert desk.position.margin == 500_000


@pytest.mark.parametrize("amount", [0, -1])
def test_a_transfer_of_nothing_is_refused(amount):
    desk = Desk()

    for move in (desk.book.deposit, desk.book.withdraw):
        with pytest.raises(Rejected, match="above 0"):
            move(desk.account, Sats(amount), NOW)


def test_all_but_what_the_position_needs_may_be_withdrawn():
    desk = Desk()
    desk.order(1_000)  # leaves 499,000, of which 101,500 and a sat must stay

    with pytest.raises(Rejected, match="Margin too low"):
        desk.book.withdraw(desk.account, Sats(397_500), NOW)
    after = desk.book.withdraw(desk.account, Sats(397_499), NOW)

    assert after.margin == 101_501
    assert desk.account.balance == RICH - 500_000 + 397_499
    assert desk.book.transfers(desk.account)[0].amount == -397_499


def test_a_loss_may_not_be_withdrawn_and_a_profit_counts_for_nothing():
    desk = Desk()
    desk.order(1_000)
    desk.move(80_000.0)  # a loss of 250,000

    with pytest.raises(Rejected):
        desk.book.withdraw(desk.account, Sats(147_500), NOW)
    desk.move(125_000.0)
    with pytest.raises(Rejected):
        desk.book.withdraw(desk.account, Sats(397_500), NOW)


def test_a_flat_position_gives_back_everything_and_no_more():
    desk = Desk()

    with pytest.raises(Rejected, match="Insufficient margin"):
        desk.book.withdraw(desk.account, Sats(500_001), NOW)
    desk.book.withdraw(desk.account, Sats(500_000), NOW)

    assert desk.account.balance == RICH
    assert desk.position.margin == 0


@pytest.mark.parametrize("leverage", [0, 101])
def test_a_leverage_beyond_1_to_100_is_refused(leverage):
    desk = Desk()

    with pytest.raises(Rejected, match="1 to 100"):
        desk.book.set_leverage(desk.account, leverage, NOW)


def test_leverage_changes_what_is_needed_and_not_the_liquidation():
    desk = Desk()
    desk.order(1_000)
    before = desk.position

    after = desk.book.set_leverage(desk.account, 5, NOW)

    assert after.running_margin == 200_000
    assert (after.margin, after.liquidation) == (before.margin, before.liquidation)
    with pytest.raises(Rejected, match="Margin too low"):
        desk.book.set_leverage(desk.account, 2, NOW)


def test_more_leverage_is_allowed_to_a_position_that_lacks_margin():
    desk = Desk(margin=102_501)
    desk.order(1_000)
    desk.move(91_500.0)
    assert cross.with_leverage(desk.position, 50).free_margin(Price(91_500.0)) < 0

    assert desk.book.set_leverage(desk.account, 50, NOW).leverage == 50


def test_more_leverage_is_refused_to_a_position_too_large_for_it():
    desk = Desk(margin=10**11 - 1, balance=10**12, leverage=1, price=100_000.0)
    desk.order(15_000_000)

    with pytest.raises(Rejected, match="allowed at leverage 2"):
        desk.book.set_leverage(desk.account, 2, NOW)


@pytest.mark.parametrize(
    ("side", "price", "liquidation"), [(1, 50_000.0, 66_778.0), (-1, 250_000.0, 199_005.0)]
)
def test_liquidation_takes_the_margin_and_nothing_else(side, price, liquidation):
    """The fee of opening was paid before: 497,500 sats of 499,000 are there to be lost."""
    desk = Desk()
    desk.order(side * 1_000)
    assert desk.position.liquidation == liquidation

    desk.move(liquidation + side * 0.5)
    assert desk.position.quantity == side * 1_000
    desk.move(price)

    assert (desk.position.quantity, desk.position.margin) == (0, 0)
    assert desk.position.entry_price is desk.position.liquidation is None
    assert desk.position.realised_pl == -499_000
    order, _ = desk.book.filled_orders(desk.account)
    assert (order.type, order.price) == (OrderType.LIQUIDATION, liquidation)
    assert (order.side, order.quantity) == (Side.SHORT if side > 0 else Side.LONG, 1_000)
    assert desk.account.balance == RICH - 500_000


def test_a_liquidated_position_never_runs_again_by_itself():
    desk = Desk()
    desk.order(1_000)
    desk.move(60_000.0)
    desk.move(150_000.0)

    assert desk.position.quantity == 0
    with pytest.raises(Rejected):
        desk.order(1)
    with pytest.raises(Rejected):
        desk.book.close(desk.account, NOW)


@pytest.mark.parametrize(
    ("side", "rate", "paid"), [(1, 0.0001, 100), (-1, 0.0001, -100), (1, -0.0001, -100)]
)
def test_funding_comes_out_of_the_margin_and_into_it(side, rate, paid):
    desk = Desk()
    desk.order(side * 1_000)
    before = desk.position

    desk.exchange.settle_funding(rate, NOW)

    assert desk.position.margin == before.margin - paid
    assert desk.position.funding_fees == paid
    assert desk.account.balance == RICH - 500_000
    (entry,) = desk.book.funding_fees(desk.account)
    (settlement,) = desk.exchange.settlements
    assert (entry.fee, entry.settlement_id) == (paid, settlement.id)
    assert entry.time == settlement.time


def test_a_flat_position_has_no_part_in_funding():
    desk = Desk()

    desk.exchange.settle_funding(0.01, NOW)

    assert desk.position.margin == 500_000
    assert desk.book.funding_fees(desk.account) == ()


@pytest.mark.parametrize("rate", [0.5, 0.498])
def test_funding_that_the_margin_cannot_bear_liquidates(rate):
    """Paid in full it leaves too little, and at 0.5 it cannot be paid in full."""
    desk = Desk()
    desk.order(1_000)

    desk.exchange.settle_funding(rate, NOW)

    assert desk.position.quantity == desk.position.margin == 0
    assert desk.position.funding_fees == min(499_000, rate * 1_000_000)


def test_funding_beyond_the_margin_liquidates_even_in_profit():
    desk = Desk()
    desk.order(1_000)
    desk.move(150_000.0)

    desk.exchange.settle_funding(0.9, NOW)

    assert desk.position.quantity == desk.position.margin == 0
    assert desk.position.funding_fees == 499_000


def test_events_tell_of_orders_and_of_the_position():
    desk = Desk(leverage=20)
    desk.order(1_000)
    waiting = desk.order(-500, price=Price(120_000.0))
    desk.book.cancel(desk.account, waiting.id, NOW)
    desk.exchange.settle_funding(0.0001, NOW)
    desk.book.withdraw(desk.account, Sats(1), NOW)
    desk.move(60_000.0)

    positions = [event.event for event in desk.events if isinstance(event, CrossChanged)]
    assert positions == [
        *("deposit", "leverage", "new", "limit", "cancel", "funding", "withdraw", "liquidation")
    ]
    orders = [event.order for event in desk.events if isinstance(event, CrossOrderChanged)]
    assert [order.type for order in orders] == ["market", "limit", "limit", "liquidation"]
    assert [order.is_open for order in orders] == [False, True, False, False]


POSITION_FIELDS = {
    *("id", "quantity", "margin", "leverage", "entryPrice", "liquidation", "initialMargin"),
    *("maintenanceMargin", "runningMargin", "totalPl", "deltaPl", "fundingFees", "tradingFees"),
    "updatedAt",
}


def test_the_payload_has_every_field():
    desk = Desk()
    flat = cross_position_payload(desk.position, desk.exchange.last)
    desk.order(-1_000)
    desk.move(125_000.0)
    desk.book.deposit(desk.account, Sats(10), NOW)
    desk.move(130_000.0)

    running = cross_position_payload(desk.position, desk.exchange.last)

    assert set(flat) == set(running) == POSITION_FIELDS
    assert flat["entryPrice"] is flat["liquidation"] is None
    assert flat["runningMargin"] == flat["initialMargin"] == flat["totalPl"] == 0
    assert (running["quantity"], running["entryPrice"]) == (-1_000, 100_000)
    assert running["totalPl"] == -230_770
    assert running["deltaPl"] == -230_770 + 200_000  # since the deposit at 125,000
    assert running["initialMargin"] == running["runningMargin"] == 100_000
    assert running["tradingFees"] == 1_000


def test_the_state_shows_positions_that_were_touched_and_equity_counts_them():
    desk = Desk(margin=0, leverage=1)
    fresh = Exchange(price=Price(1.0), ids=seeded_ids(1))
    fresh.add_account(Credentials(key="k", secret="s", passphrase="p"), Sats(1))
    desk.book.deposit(desk.account, Sats(2_000_000), NOW)
    desk.order(1_000)
    desk.move(125_000.0)

    (shown,) = state_payload(desk.exchange)["crossPositions"]

    assert (shown["account"], shown["quantity"]) == ("k", 1_000)
    assert equity(desk.exchange, desk.account) == RICH - 1_000 + 200_000
    assert state_payload(fresh)["crossPositions"] == []
