"""Reducing: the second step, and the stop-loss and take-profit that it carries over."""

import math
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from marginguard.domain import margin
from marginguard.domain.model import ClosedTrade
from marginguard.domain.records import Reopening
from marginguard.domain.reduction import Impossible, Reduction, begin_reopening
from marginguard.domain.units import Price, Sats
from tests.unit.planned_reductions import (
    FEE_TIERS,
    LONG,
    SECOND,
    SHORT,
    finished,
    half_done,
    planned,
    reducing,
    trade_from,
)
from tests.unit.strategies import NOON, an_action, price_at

# --- the second step ------------------------------------------------------------------------


def test_once_the_trade_is_closed_the_plan_says_how_and_what_it_brought():
    record = half_done()

    plan = record.reopening
    assert (plan.closed_price, plan.closed_at) == (92_500.0, NOON + SECOND)
    # 100,000 less a loss of 81,082; the fee of 1,082 sats at most has a reserve of 1,050 at least.
    assert plan.margin == 100_000 - 81_082 - 32
    assert plan.leverage is None


def test_where_the_exchange_does_not_tell_the_pl_it_is_worked_out():
    record = reducing(LONG, 92_500.0, planned(LONG, 92_500.0).reopening)

    without = begin_reopening(
        record, ClosedTrade(id=LONG.id, exit_price=Price(92_500.0), pl=None, closed_at=None), NOON
    )

    assert without.margin == half_done().reopening.margin


@pytest.mark.parametrize("price", [None, 92_500.0])
def test_where_the_exchange_does_not_tell_the_exit_price_that_of_the_read_has_to_do(price):
    record = reducing(LONG, 92_500.0, planned(LONG, 92_500.0).reopening)
    shown = ClosedTrade(id=LONG.id, exit_price=price, pl=Sats(-81_082), closed_at=None)

    assert begin_reopening(record, shown, NOON).closed_price == 92_500.0


def test_a_step_that_is_not_a_reduction_of_a_trade_has_no_second_half():
    shown = ClosedTrade(id=LONG.id, exit_price=None, pl=None, closed_at=None)

    with pytest.raises(ValueError, match="second step"):
        begin_reopening(an_action(), shown, NOON)
    with pytest.raises(ValueError, match="not closed yet"):
        finished(reducing(LONG, 92_500.0, planned(LONG, 92_500.0).reopening))


def test_the_leverage_spends_what_the_close_brought_less_fees_and_slippage():
    plan = finished(half_done())

    notional = 500 * 10**8 / 92_500
    assert plan.quantity == 500
    assert plan.leverage == pytest.approx(notional / (18_886 - 1_150) / 0.995, rel=0.01)
    assert plan.leverage * 100 == round(plan.leverage * 100)
    assert plan.margin == half_done().reopening.margin


@pytest.mark.parametrize("after", [timedelta(0), 60 * SECOND, -60 * SECOND])
def test_within_a_minute_of_the_plan_the_rest_is_opened(after):
    assert isinstance(finished(half_done(), after=after), Reopening)


@pytest.mark.parametrize("after", [61 * SECOND, timedelta(days=1), -61 * SECOND])
def test_after_a_minute_the_rest_stays_closed(after):
    """Counted from the plan, whichever way a wall clock jumps."""
    assert finished(half_done(), after=after) == Impossible(
        reason="more than 60 s have passed since it was planned"
    )


@pytest.mark.parametrize("price", [92_037.5, 92_962.5, 92_500.0])
def test_within_the_slippage_the_rest_is_opened(price):
    assert isinstance(finished(half_done(), price), Reopening)


@pytest.mark.parametrize("price", [92_037.0, 92_963.0, 80_000.0])
def test_where_the_price_moved_farther_the_rest_stays_closed(price):
    found = finished(half_done(), price)

    assert isinstance(found, Impossible)
    assert "more than reopen_slippage 0.5 %" in found.reason


def test_where_the_close_brought_too_little_the_rest_stays_closed():
    nothing = finished(half_done(pl=Sats(-99_990)))
    little = finished(half_done(pl=Sats(-97_000)))

    assert nothing == Impossible(reason="what the close brings does not pay for opening the rest")
    assert isinstance(little, Impossible)
    assert "above 100" in little.reason


def test_with_more_than_the_rest_is_worth_leverage_is_1():
    rich = replace(LONG, margin=Sats(1_000_000))

    plan = finished(half_done(rich, 60_000.0, percentage=90.0), 60_000.0)

    assert plan.leverage == 1


# --- stop-loss and take-profit --------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "carried"),
    [(92_499.5, True), (92_500.0, False), (93_000.0, False), (91_000.0, True), (80_000.0, False)],
)
def test_a_stop_loss_is_carried_over_where_it_is_still_valid(stop, carried):
    plan = finished(half_done(stop_loss=Price(stop)))

    assert plan.stop_loss == (stop if carried else None)


@pytest.mark.parametrize(
    ("profit", "carried"), [(92_500.5, True), (92_500.0, False), (92_000.0, False)]
)
def test_a_take_profit_is_carried_over_where_it_is_still_valid(profit, carried):
    plan = finished(half_done(take_profit=Price(profit)))

    assert plan.take_profit == (profit if carried else None)


def test_on_a_short_it_is_the_other_way_round():
    price = 108_500.0
    kept = finished(
        half_done(SHORT, price, stop_loss=Price(109_000.0), take_profit=Price(108_000.0)), price
    )
    lost = finished(
        half_done(SHORT, price, stop_loss=Price(108_500.0), take_profit=Price(108_500.0)), price
    )

    assert (kept.stop_loss, kept.take_profit) == (109_000.0, 108_000.0)
    assert (lost.stop_loss, lost.take_profit) == (None, None)


@given(
    st.sampled_from([LONG, SHORT]),
    st.floats(50, 90),
    st.none() | st.integers(100_000, 300_000),
    st.none() | st.integers(100_000, 300_000),
)
@example(LONG, 80.0, None, None)
def test_what_is_carried_over_is_what_the_exchange_takes(position, level, stop, profit):
    price = Price(round(price_at(position, level) * 2) / 2)
    found = planned(position, price, 60)
    assume(isinstance(found, Reduction))
    carried = {
        "stop_loss": None if stop is None else Price(stop * 0.5),
        "take_profit": None if profit is None else Price(profit * 0.5),
    }
    plan = finished(half_done(position, price, percentage=60, **carried), price)
    liquidation = margin.exact_liquidation_price(
        replace(
            position,
            entry_price=price,
            quantity=plan.quantity,
            margin=Sats(
                math.floor(plan.quantity * 10**8 / Fraction(price) / Fraction(plan.leverage))
            ),
        )
    )
    # The exchange rounds its liquidation price to the half dollar.
    assume(plan.stop_loss is None or abs(plan.stop_loss - liquidation) > 1)

    opened = trade_from(plan, price, FEE_TIERS[-1])

    assert (opened.stop_loss, opened.take_profit) == (plan.stop_loss, plan.take_profit)
