"""Which price is believed after a jump."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain import margin
from marginguard.domain.model import MarginMode, Position, Side
from marginguard.domain.sanity import Belief, bears_out, is_confirmed, jumps

prices = st.floats(min_value=0.5, max_value=1e9)


def confirmed(last: float, *, index: float, accepted=None, unconfirmed=None) -> bool:
    return is_confirmed(
        last=last, index=index, accepted=accepted, unconfirmed=unconfirmed, max_jump=5.0
    )


@pytest.mark.parametrize(
    ("price", "expected"),
    [(100_000, False), (105_000, False), (95_000, False), (105_000.5, True), (94_999.5, True)],
)
def test_a_jump_is_more_than_the_percentage_of_the_reference(price, expected):
    assert jumps(price, 100_000, 5.0) is expected


def test_a_price_near_the_accepted_one_is_believed_whatever_the_index_says():
    assert confirmed(100_100, index=50_000, accepted=100_000)


def test_a_crash_that_the_index_shows_too_is_believed():
    """Failure 20: a true crash is acted upon."""
    assert confirmed(80_000, index=80_500, accepted=100_000)


def test_one_absurd_tick_is_not_believed():
    """Failure 20: one absurd tick needs something that bears it out."""
    assert not confirmed(80_000, index=100_000, accepted=100_000)


def test_a_second_reading_near_the_absurd_one_bears_it_out():
    assert confirmed(80_100, index=100_000, accepted=100_000, unconfirmed=80_000)


def test_a_second_reading_as_far_from_the_first_confirms_nothing():
    assert not confirmed(60_000, index=100_000, accepted=100_000, unconfirmed=80_000)


def test_the_first_price_is_measured_against_the_index():
    assert confirmed(100_000, index=101_000)
    assert not confirmed(100_000, index=120_000)


@given(last=prices, index=prices, accepted=st.none() | prices, unconfirmed=st.none() | prices)
def test_a_further_witness_never_takes_belief_away(last, index, accepted, unconfirmed):
    alone = confirmed(last, index=index)
    together = confirmed(last, index=index, accepted=accepted, unconfirmed=unconfirmed)
    assert together or not alone


@given(price=prices)
def test_a_price_never_jumps_from_itself(price):
    assert not jumps(price, price, 0.0)


def position(side: Side, *, pl: int, quantity: int = 1000, entry: float = 100_000.0) -> Position:
    return Position(
        id="p",
        mode=MarginMode.ISOLATED,
        side=side,
        quantity=quantity,
        entry_price=entry,
        margin=100_000,
        maintenance_margin=0,
        leverage=10.0,
        pl=pl,
        liquidation_price=None,
        stop_loss=None,
        take_profit=None,
        entry_margin=100_000,
        funding_paid=0,
        cashed_in=0,
        client_id=None,
    )


@pytest.mark.parametrize(
    ("side", "pl", "price"),
    [
        (Side.LONG, -250_000, 80_000),  # 1000e8 * (1/100,000 - 1/80,000)
        (Side.SHORT, 250_000, 80_000),
        (Side.LONG, 200_000, 125_000),
        (Side.SHORT, -200_000, 125_000),
        (Side.LONG, 0, 100_000),
    ],
)
def test_a_pl_speaks_for_the_price_it_was_made_at_and_for_no_other(side, pl, price):
    """Failure 20: the position's own P&L bears a jump out."""
    assert bears_out(position(side, pl=pl), price, 0.01)
    assert bears_out(position(side, pl=pl), price * 1.049, 5.0)
    assert not bears_out(position(side, pl=pl), price * 1.06, 5.0)
    assert not bears_out(position(side, pl=pl), price * 0.94, 5.0)


def test_a_pl_too_coarse_to_tell_prices_apart_speaks_for_none():
    """One USD at a hundred million: a whole sat is the whole position."""
    coarse = position(Side.LONG, pl=0, quantity=1, entry=100_000_000.0)
    assert not bears_out(coarse, 100_000_000.0, 5.0)


def test_a_pl_that_no_price_gives_speaks_for_none():
    assert not bears_out(position(Side.SHORT, pl=-1_000_001), 1e8, 99.0)


@given(
    side=st.sampled_from(Side),
    quantity=st.integers(100, 500_000),
    entry=st.floats(10_000, 200_000),
    price=st.floats(10_000, 200_000),
)
def test_the_pl_that_a_price_gives_speaks_for_that_price(side, quantity, entry, price):
    held = position(side, pl=0, quantity=quantity, entry=entry)
    held = dataclasses.replace(held, pl=margin.profit_and_loss(held, price))
    assert bears_out(held, price, 1.0)


def test_what_is_in_doubt_is_no_witness_for_itself():
    belief = Belief(5.0)
    belief.saw_index(100_000, 0.0)
    assert belief.judge(100_000, 0.0)
    assert not belief.judge(80_000, 1.0)
    assert not belief.reconsider(80_000, 1.0)
    assert belief.accepted == 100_000


def test_a_price_that_is_believed_later_becomes_the_accepted_one():
    belief = Belief(5.0)
    assert not belief.judge(80_000, 0.0)
    belief.saw_index(80_100, 1.0)
    assert belief.reconsider(80_000, 1.0)
    assert belief.accepted == 80_000


def test_an_absurd_price_long_before_does_not_bear_out_the_next_one():
    """Failure 20: only two prices in a row are no accident."""
    belief = Belief(5.0)
    belief.saw_index(100_000, 0.0)
    assert [belief.judge(price, 1.0) for price in (100_000, 80_000, 100_001, 80_000)] == [
        True,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(("age_s", "expected"), [(5.0, True), (5.1, False)])
def test_witnesses_speak_for_a_while(age_s, expected):
    by_index, by_position = Belief(5.0), Belief(5.0)
    by_index.saw_index(80_000, 10.0)
    by_position.saw_position(position(Side.LONG, pl=-250_000), 10.0)
    assert by_index.judge(80_000, 10.0 + age_s) is expected
    assert by_position.judge(80_000, 10.0 + age_s) is expected
