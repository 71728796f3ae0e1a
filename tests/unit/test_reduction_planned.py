"""Reducing: how much is cut, what is opened again, and when nothing is begun."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain import margin
from marginguard.domain.model import MarginMode, Side
from marginguard.domain.records import Reopening
from marginguard.domain.reduction import Impossible, Reduction
from marginguard.domain.units import Price, Sats, Usd
from tests.unit.planned_reductions import (
    LONG,
    SHORT,
    after_close,
    finished,
    half_done,
    planned,
    reducing,
)
from tests.unit.strategies import a_cross_position, price_at

# --- how much is cut ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("percentage", "cut"),
    [(50, 500), (10, 100), (0.01, 1), (33.3, 333), (16.1, 161), (33.34, 334), (99.9, 999)],
)
def test_the_cut_is_the_percentage_rounded_up_to_a_whole_dollar(percentage, cut):
    position = a_cross_position(quantity=Usd(1_000))

    assert planned(position, 90_000.0, percentage) == Reduction(quantity=cut, reopening=None)


@given(
    st.integers(1, 10_000_000),
    st.floats(0.001, 99.999) | st.integers(1, 99).map(float),
)
def test_a_cut_is_never_less_than_asked_nor_a_dollar_more_nor_all_of_it(quantity, percentage):
    found = planned(a_cross_position(quantity=Usd(quantity)), 90_000.0, percentage)

    exact = quantity * Fraction(str(percentage)) / 100
    if isinstance(found, Impossible):
        assert exact > quantity - 1
        assert "is all of it: close it instead" in found.reason
    else:
        assert exact <= found.quantity < exact + 1
        assert 1 <= found.quantity < quantity


@pytest.mark.parametrize("position", [LONG, a_cross_position()])
def test_a_position_of_one_dollar_is_not_reduced(position):
    found = planned(replace(position, quantity=Usd(1)), 99_999.0, 1.0)

    assert isinstance(found, Impossible)


def test_the_cross_position_is_cut_whatever_its_level():
    underwater = a_cross_position(margin=Sats(1_000))

    assert planned(underwater, 60_000.0) == Reduction(quantity=Usd(500), reopening=None)


# --- what is opened again -------------------------------------------------------------------


def test_the_rest_keeps_its_side_stop_loss_and_take_profit():
    position = replace(SHORT, stop_loss=Price(110_000.0), take_profit=Price(90_000.0))

    found = planned(position, 108_000.0, 30.0)

    assert found == Reduction(
        quantity=Usd(300),
        reopening=Reopening(
            side=Side.SHORT,
            quantity=Usd(700),
            stop_loss=Price(110_000.0),
            take_profit=Price(90_000.0),
        ),
    )


@pytest.mark.parametrize("position", [LONG, SHORT])
@pytest.mark.parametrize("min_improvement", [0, 10, 50, 200])
@pytest.mark.parametrize("percentage", [5, 20, 50, 80])
def test_liquidation_ends_up_farther_away_by_the_least_improvement_or_nothing_is_begun(
    position, min_improvement, percentage
):
    price = price_at(position, 80)
    found = planned(position, price, percentage, min_improvement=min_improvement)

    if isinstance(found, Impossible):
        assert f"not min_improvement {min_improvement} % better" in found.reason
        return
    record = after_close(
        reducing(position, price, found.reopening), price, margin.profit_and_loss(position, price)
    )
    plan = finished(record, price)
    opened = replace(
        position,
        entry_price=price,
        quantity=plan.quantity,
        margin=Sats(math.floor(plan.quantity * 10**8 / price / plan.leverage)),
    )
    before = margin.liquidation_distance(position, price)
    after = margin.liquidation_distance(opened, price)
    assert after >= before * (1 + min_improvement / 100)


def test_both_sides_of_the_least_improvement_are_met():
    price = price_at(LONG, 80)

    assert isinstance(planned(LONG, price, 50, min_improvement=50), Reduction)
    found = planned(LONG, price, 10, min_improvement=50)
    assert isinstance(found, Impossible)
    assert found.reason.startswith("liquidation would be ")


def test_where_the_rest_would_take_a_leverage_above_100_nothing_is_begun():
    found = planned(LONG, price_at(LONG, 97), 5)

    assert isinstance(found, Impossible)
    assert "above 100" in found.reason


@pytest.mark.parametrize(("pl", "opened"), [(-93_420, True), (-93_450, False)])
def test_leverage_100_is_the_highest(pl, opened):
    """500 USD at 92,500 are worth 540,540 sats, of which a hundredth and the costs are left."""
    found = finished(half_done(pl=Sats(pl)))

    assert isinstance(found, Reopening) is opened
    assert found.leverage <= 100 if opened else "above 100" in found.reason


def test_where_the_close_brings_too_little_nothing_is_begun():
    found = planned(LONG, price_at(LONG, 99.9), 5)

    assert found == Impossible(reason="what the close brings does not pay for opening the rest")


def test_a_short_that_cannot_be_liquidated_is_not_reduced():
    unbounded = replace(SHORT, margin=Sats(1_000_000))

    found = planned(unbounded, 120_000.0)

    assert isinstance(found, Impossible)
    assert "cannot be liquidated" in found.reason


def test_an_isolated_trade_alone_is_opened_again():
    assert planned(a_cross_position(mode=MarginMode.CROSS), 90_000.0).reopening is None
    assert planned(LONG, 92_500.0).reopening is not None
