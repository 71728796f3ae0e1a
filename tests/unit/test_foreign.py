"""What is noticed of what others do to a position, and that funding is not taken for it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain.foreign import foreign_change
from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats, Usd
from tests.unit.strategies import a_cross_position, a_position, positions

BEFORE = a_position(funding_paid=Sats(700), cashed_in=Sats(40))


def found(*, margin=0, funding=0, cashed_in=0, **changes):
    after = replace(
        BEFORE,
        margin=Sats(BEFORE.margin + margin),
        funding_paid=Sats(BEFORE.funding_paid + funding),
        cashed_in=Sats(BEFORE.cashed_in + cashed_in),
        **changes,
    )
    return foreign_change(BEFORE, after)


def test_a_position_left_alone_is_not_changed():
    assert found() is None
    assert found(pl=Sats(-5), liquidation_price=Price(1.0), stop_loss=Price(91_000.0)) is None


@given(positions(), st.integers(-10_000, 10_000), st.booleans())
def test_one_settlement_of_funding_is_no_change(position, funding, goes_into_the_margin):
    taken = funding if funding > 0 or goes_into_the_margin else 0
    after = replace(position, margin=Sats(position.margin - taken), funding_paid=Sats(funding))

    assert foreign_change(position, after) is None


def test_margin_added_or_taken_out_is_told_in_sats():
    assert found(margin=5_000) == "5,000 sats of margin were added"
    assert found(margin=-5_000, cashed_in=5_000) == "5,000 sats of margin were taken out"
    assert found(margin=1) == "1 sats of margin were added"
    assert found(margin=-1) == "1 sats of margin were taken out"


def test_beside_funding_margin_added_or_taken_out_is_still_noticed():
    assert found(margin=5_000 - 300, funding=300) == "4,700 sats of margin were added"
    assert found(margin=-5_300, cashed_in=5_000, funding=300) == (
        "5,000 sats of margin were taken out"
    )
    assert found(margin=5_000, funding=-300) == "4,700 sats of margin were added"
    assert found(margin=-1, funding=-300) == "1 sats of margin were taken out"


@given(st.integers(1, 10**6), st.integers(-1_000, 1_000), st.sampled_from([-1, 1]))
def test_what_is_more_than_the_funding_is_always_noticed(change, funding, sign):
    moved = sign * (abs(funding) + change)

    assert ("added" if sign > 0 else "taken out") in found(margin=moved, funding=funding)


def test_a_cut_an_increase_and_a_turn_are_told():
    cross = a_cross_position(side=Side.LONG)

    def cross_became(**changes):
        return foreign_change(cross, replace(cross, **changes))

    assert cross_became(quantity=Usd(400)) == "it was long 1,000 USD and is long 400 USD"
    assert cross_became(quantity=Usd(2_500)) == "it was long 1,000 USD and is long 2,500 USD"
    assert cross_became(side=Side.SHORT) == "it was long 1,000 USD and is short 1,000 USD"


@pytest.mark.parametrize("entry", [99_999.5, 105_000.0])
def test_an_entry_price_that_moved_is_told(entry):
    """Taking out profit moves it, and with it the level, though the margin stays as it was."""
    assert found(entry_price=Price(entry)) == f"its entry price was 100,000.0 and is {entry:,.1f}"
