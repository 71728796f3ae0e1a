"""The cross position of the simulated exchange: the figures that the real one documents."""

from dataclasses import replace
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats, Usd
from marginguard.simulator import cross
from marginguard.simulator.contract import MAX_PRICE
from marginguard.simulator.cross import CrossPosition, max_quantity
from tests.unit.strategies import prices, sides

FREE = Fraction(0)


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
