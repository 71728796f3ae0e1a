"""Which price is believed after a jump."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain.sanity import is_confirmed, jumps

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
