"""The margin mathematics: known values, and what must hold for every position and price."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor, inf, nextafter

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from marginguard.domain import margin
from marginguard.domain.contracts import INVERSE, LINEAR
from marginguard.domain.model import MarginMode, RiskLevel, Side
from marginguard.domain.units import Percent, Price, Sats, Usd
from tests.unit.strategies import (
    a_cross_position,
    a_position,
    modes,
    positions,
    price_at,
    prices,
    thresholds,
)

isolated = st.just(MarginMode.ISOLATED)
targets = st.one_of(st.integers(1, 99).map(float), st.floats(0.5, 99.5)).map(Percent)
distances = st.floats(0.01, 95.0).map(Percent)


def added(position, amount):
    return replace(position, margin=Sats(position.margin + amount))


def exact_loss(position, price):
    return (
        position.side.sign
        * position.quantity
        * 10**8
        * (1 / Fraction(price) - 1 / Fraction(position.entry_price))
    )


def exact_distance(position, price):
    liquidation = margin.exact_liquidation_price(position)
    if liquidation is None:
        return None
    return 100 * position.side.sign * (Fraction(price) - liquidation) / Fraction(price)


# --- the exchange's worked examples ---------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "entry", "leverage", "liquidation"),
    [
        (Side.LONG, 110_000.0, 1, 55_000),
        (Side.LONG, 110_000.0, 100, 108_911),
        (Side.SHORT, 110_000.0, 100, 111_111),
        (Side.LONG, 100_000.0, 10, 90_909),
    ],
)
def test_isolated_liquidation_is_the_exchanges_worked_example(side, entry, leverage, liquidation):
    position = a_position(
        side=side,
        entry_price=Price(entry),
        margin=Sats(floor(1_000 * 10**8 / Fraction(entry) / leverage)),
    )

    # The exchange's examples print whole dollars.
    assert abs(margin.liquidation_price(position) - liquidation) < 1


@pytest.mark.parametrize(("side", "liquidation"), [(Side.LONG, 66_733.5), (Side.SHORT, 199_402.0)])
def test_cross_liquidation_is_the_exchanges_worked_example(side, liquidation):
    position = a_cross_position(side=side)

    assert margin.to_price_step(margin.exact_liquidation_price(position)) == liquidation


def test_a_short_at_leverage_1_has_no_liquidation():
    position = a_position(side=Side.SHORT, margin=Sats(1_000_000))

    assert margin.liquidation_price(position) is None
    assert margin.liquidation_distance(position, Price(400_000.0)) is None
    assessed = margin.assess(position, Price(400_000.0), Percent(80.0))
    assert assessed.liquidation_price is None
    assert assessed.trigger_price == pytest.approx(500_000)


def test_one_long_worked_through_by_hand():
    # 1,000 USD, 10x at 100,000: at 92,500 the loss is 1e11 * (1/92500 - 1/100000) = 81,081.08.
    position = a_position()

    assert margin.profit_and_loss(position, Price(92_500.0)) == -81_082
    assert margin.equity(position, Price(92_500.0)) == 18_918
    assert margin.margin_level(position, Price(92_500.0)) == pytest.approx(81.082)
    assert margin.trigger_price(position, Percent(80.0)) == pytest.approx(100_000 / 1.08)
    assert margin.liquidation_distance(position, Price(92_500.0)) == pytest.approx(1.7199, abs=1e-5)
    # ceil(81,082 * 100 / 40) = 202,705 of buffer, of which 100,000 are there.
    assert margin.margin_to_reach_level(position, Price(92_500.0), Percent(40.0)) == margin.Remedy(
        amount=Sats(102_705), capped=False
    )
    # Liquidation at 74,000 takes ceil(1e11 * (1/74000 - 1/100000)) = 351,352 of buffer.
    assert margin.margin_to_reach_distance(
        position, Price(92_500.0), Percent(20.0)
    ) == margin.Remedy(amount=Sats(251_352), capped=False)


def test_a_linear_long_worked_through_by_hand():
    # 5 units at 100 with a margin of 50: liquidated at 90; 80 % are used up at 92.
    position = a_position(quantity=Usd(5), entry_price=Price(100.0), margin=Sats(50))

    assert margin.liquidation_price(position, LINEAR) == 90
    assert margin.trigger_price(position, Percent(80.0), LINEAR) == 92
    assert margin.margin_level(position, Price(92.0), LINEAR) == 80
    assert margin.equity(position, Price(92.0), LINEAR) == 10
    assert margin.margin_to_reach_level(position, Price(92.0), Percent(40.0), LINEAR).amount == 50
    # At leverage 1 a linear position holds quantity * entry = 500.
    assert margin.room_to_add(position, LINEAR) == 450
    assert margin.margin_to_reach_level(
        position, Price(30.0), Percent(50.0), LINEAR
    ) == margin.Remedy(amount=Sats(450), capped=True)


@pytest.mark.parametrize(
    ("level", "risk"),
    [
        (0.0, RiskLevel.SAFE),
        (69.99, RiskLevel.SAFE),
        (70.0, RiskLevel.LOW),
        (79.99, RiskLevel.LOW),
        (80.0, RiskLevel.MEDIUM),
        (90.0, RiskLevel.HIGH),
        (94.99, RiskLevel.HIGH),
        (95.0, RiskLevel.CRITICAL),
        (130.0, RiskLevel.CRITICAL),
    ],
)
def test_risk_levels_begin_at_70_80_90_and_95(level, risk):
    assert margin.risk_level(Percent(level)) is risk


@pytest.mark.parametrize(
    ("price", "step"),
    [(100.2, 100.0), (100.25, 100.5), (100.3, 100.5), (Fraction(301, 3), 100.5), (99.75, 100.0)],
)
def test_a_price_goes_to_the_nearest_step(price, step):
    assert margin.to_price_step(price) == step


# --- the level ------------------------------------------------------------------------------


@given(positions(), prices)
def test_the_level_is_0_at_entry_and_in_profit(position, price):
    assert margin.margin_level(position, position.entry_price) == 0
    if exact_loss(position, price) <= 0:
        assert margin.margin_level(position, price) == 0


@given(positions())
def test_the_level_is_100_at_the_liquidation_price(position):
    liquidation = margin.liquidation_price(position)
    assume(liquidation is not None)

    assert margin.margin_level(position, liquidation) == 100


@given(positions(), prices, prices)
def test_the_level_never_falls_as_the_price_moves_against_the_position(position, one, other):
    better, worse = sorted((one, other), reverse=position.side is Side.LONG)

    assert margin.margin_level(position, better) <= margin.margin_level(position, worse)


@given(positions(), prices)
def test_a_level_is_never_lower_than_exact_nor_higher_than_a_sat_and_a_rounding(position, price):
    loss = max(Fraction(0), exact_loss(position, price))
    of_whole_sats = Fraction(100 * ceil(loss), position.buffer)

    level = Fraction(margin.margin_level(position, price))

    assert 100 * loss / position.buffer <= of_whole_sats <= level
    assert level <= of_whole_sats * (1 + Fraction(1, 2**51))


@given(positions(mode=st.just(MarginMode.CROSS), min_buffer=-10_000), prices)
def test_a_position_without_a_buffer_is_at_100_and_critical(position, price):
    position = replace(position, margin=Sats(min(position.margin, position.maintenance_margin)))

    assessed = margin.assess(position, price, Percent(80.0))

    assert assessed.level == 100
    assert assessed.risk is RiskLevel.CRITICAL


def test_a_cross_level_counts_only_the_margin_beyond_maintenance():
    position = a_cross_position(margin=Sats(101_500))

    assert position.buffer == 100_000
    assert margin.margin_level(position, Price(92_500.0)) == pytest.approx(81.082)


@given(positions(), prices)
def test_equity_is_the_margin_plus_the_profit_and_loss_rounded_down(position, price):
    assert margin.equity(position, price) == floor(position.margin - exact_loss(position, price))


@given(positions(mode=isolated))
def test_an_isolated_position_is_worth_nothing_at_its_liquidation_price(position):
    liquidation = margin.liquidation_price(position)
    assume(liquidation is not None)

    assert margin.equity(position, liquidation) == 0


# --- the portfolio --------------------------------------------------------------------------


def test_a_portfolio_sets_the_profit_of_one_against_the_loss_of_another():
    long = a_position()
    short = a_position(side=Side.SHORT, quantity=Usd(500))

    # At 92,500: -81,082 + 40,540 = -40,542 of 200,000.
    assert margin.portfolio_level((long, short), Price(92_500.0)) == pytest.approx(20.271)
    assert margin.portfolio_level((long,), Price(92_500.0)) == margin.margin_level(
        long, Price(92_500.0)
    )
    assert margin.portfolio_level((), Price(92_500.0)) == 0


@given(st.lists(positions(), min_size=1, max_size=4), prices)
def test_a_portfolio_level_is_never_lower_than_exact(held, price):
    buffer = sum(position.buffer for position in held)
    loss = sum(exact_loss(position, price) for position in held)

    level = margin.portfolio_level(iter(held), price)

    assert level >= 100 * max(Fraction(0), loss) / buffer


def test_a_portfolio_without_a_buffer_is_at_100():
    eaten = a_cross_position(margin=Sats(1_000))

    assert margin.portfolio_level((eaten,), Price(200_000.0)) == 100


# --- prices ---------------------------------------------------------------------------------


@given(positions(), thresholds)
@example(a_position(quantity=Usd(1), margin=Sats(100)), nextafter(50.0, inf))
@example(a_position(side=Side.SHORT, quantity=Usd(1), margin=Sats(100)), nextafter(50.0, inf))
def test_the_trigger_price_inverts_the_level(position, threshold):
    """At the trigger price the level is the threshold or the whole sat of loss above it."""
    trigger = margin.trigger_price(position, threshold)
    assume(trigger is not None)

    level = margin.margin_level(position, trigger)

    assert level >= threshold
    loss = ceil(Fraction(position.buffer) * Fraction(threshold) / 100)
    # One sat more where only the next float beyond reaches the threshold.
    assert level <= nextafter(100 * (loss + 1) / position.buffer, inf)


@given(positions(), st.integers(1, 99))
def test_the_trigger_price_is_exact_for_whole_thresholds(position, threshold):
    trigger = margin.trigger_price(position, Percent(float(threshold)))
    assume(trigger is not None)

    loss = ceil(Fraction(position.buffer * threshold, 100))

    assert margin.profit_and_loss(position, trigger) == -loss


@given(positions(), thresholds)
def test_the_trigger_comes_before_liquidation(position, threshold):
    liquidation = margin.liquidation_price(position)
    trigger = margin.trigger_price(position, threshold)
    assume(liquidation is not None)

    assert trigger is not None
    if position.side is Side.LONG:
        assert liquidation <= trigger <= position.entry_price
    else:
        assert position.entry_price <= trigger <= liquidation


@given(positions())
def test_a_liquidation_price_is_never_farther_from_the_market_than_exact(position):
    exact = margin.exact_liquidation_price(position)
    shown = margin.liquidation_price(position)
    assume(exact is not None)

    assert position.side.sign * (shown - exact) >= 0
    assert abs(shown - exact) <= exact * Fraction(1, 2**52)


@given(positions(), prices)
def test_a_distance_is_never_larger_than_exact_and_never_negative(position, price):
    exact = exact_distance(position, price)
    shown = margin.liquidation_distance(position, price)
    assume(exact is not None)

    assert shown >= 0
    assert shown <= max(Fraction(0), exact)
    assert shown == pytest.approx(float(max(Fraction(0), exact)), rel=1e-12)


def test_the_distance_is_0_beyond_liquidation():
    assert margin.liquidation_distance(a_position(), Price(80_000.0)) == 0


def test_without_a_buffer_the_liquidation_price_lies_in_the_profit():
    """A maintenance margin above the margin is made up for by a profit alone."""
    long = a_cross_position(margin=Sats(500))
    short = a_cross_position(side=Side.SHORT, margin=Sats(500))

    # 1,000 sats of profit: 1e11 / (1e6 - 1000) and 1e11 / (1e6 + 1000).
    assert margin.liquidation_price(long) == pytest.approx(100_100.1, abs=0.1)
    assert margin.liquidation_price(short) == pytest.approx(99_900.1, abs=0.1)
    assert margin.trigger_price(long, Percent(80.0)) == margin.liquidation_price(long)


# --- remedies -------------------------------------------------------------------------------


@given(positions(), prices, targets)
def test_a_level_remedy_reaches_its_target_and_one_sat_less_does_not(position, price, target):
    remedy = margin.margin_to_reach_level(position, price, target)
    reached = margin.margin_level(added(position, remedy.amount), price)

    if remedy.capped:
        assert reached > target
        assert remedy.amount == margin.room_to_add(position)
        return
    assert reached <= target
    if remedy.amount > 0:
        assert margin.margin_level(added(position, remedy.amount - 1), price) > target


@given(positions(), prices, distances)
def test_a_distance_remedy_puts_liquidation_far_enough_and_one_sat_less_does_not(
    position, price, distance
):
    remedy = margin.margin_to_reach_distance(position, price, distance)
    reached = exact_distance(added(position, remedy.amount), price)

    if remedy.capped:
        assert reached is not None
        assert reached < distance
        return
    assert reached is None or reached >= distance
    if remedy.amount > 0:
        assert exact_distance(added(position, remedy.amount - 1), price) < distance


@given(positions(min_buffer=-10_000), prices, targets, distances)
def test_a_remedy_gives_a_position_without_a_buffer_one(position, price, target, distance):
    by_level = margin.margin_to_reach_level(position, price, target)
    by_distance = margin.margin_to_reach_distance(position, price, distance)

    if not by_level.capped:
        assert margin.margin_level(added(position, by_level.amount), price) <= target
    assert added(position, by_distance.amount).buffer >= 1


def test_a_position_without_a_buffer_but_in_profit_still_gets_margin():
    position = a_cross_position(margin=Sats(1_500))

    remedy = margin.margin_to_reach_level(position, Price(110_000.0), Percent(50.0))

    assert remedy.amount == 1
    assert margin.margin_level(added(position, 1), Price(110_000.0)) == 0


@given(positions(mode=isolated))
def test_the_room_to_add_is_the_last_whole_sat_before_leverage_falls_below_1(position):
    """Failure 13: leverage would fall below 1 on an isolated trade, so the amount is capped."""

    def leverage(amount):
        return (
            position.quantity
            * 10**8
            / ((position.margin + amount) * Fraction(position.entry_price))
        )

    room = margin.room_to_add(position)

    assert leverage(room) >= 1
    assert leverage(room + 1) < 1


def test_there_is_no_room_beyond_leverage_1_and_never_a_negative_one():
    assert margin.room_to_add(a_position(margin=Sats(1_000_000))) == 0
    assert margin.room_to_add(a_position(margin=Sats(1_000_007))) == 0


@given(positions(mode=st.just(MarginMode.CROSS)), prices, targets)
def test_a_cross_deposit_has_no_cap(position, price, target):
    assert margin.room_to_add(position) is None
    assert not margin.margin_to_reach_level(position, price, target).capped


def test_a_capped_remedy_says_so():
    # Half the value gone at 50,000: 2,000,000 sats of buffer would be needed, 1,000,000 allowed.
    remedy = margin.margin_to_reach_level(a_position(), Price(50_000.0), Percent(50.0))

    assert remedy == margin.Remedy(amount=Sats(900_000), capped=True)


@given(positions(), prices, targets)
def test_a_remedy_is_in_whole_sats(position, price, target):
    """Failure 14: whole sats, towards safety."""
    assert type(margin.margin_to_reach_level(position, price, target).amount) is int
    assert type(margin.profit_and_loss(position, price)) is int


@pytest.mark.parametrize("target", [0.0, -10.0])
def test_a_target_level_that_cannot_be_reached_is_refused(target):
    with pytest.raises(ValueError, match="above 0"):
        margin.margin_to_reach_level(a_position(), Price(90_000.0), Percent(target))


@pytest.mark.parametrize("distance", [0.0, 100.0, 150.0])
def test_a_distance_that_no_margin_gives_is_refused(distance):
    with pytest.raises(ValueError, match="between 0 and 100"):
        margin.margin_to_reach_distance(a_position(), Price(90_000.0), Percent(distance))


@given(positions(mode=modes), prices)
def test_linear_contracts_go_through_the_same_functions(position, price):
    # A margin within the linear notional value, which is what the strategy's is not.
    position = replace(position, margin=Sats(position.maintenance_margin + position.quantity))
    liquidation = margin.liquidation_price(position, LINEAR)
    remedy = margin.margin_to_reach_level(position, price, Percent(50.0), LINEAR)

    assert margin.margin_level(position, position.entry_price, LINEAR) == 0
    if liquidation is not None:
        assert margin.margin_level(position, liquidation, LINEAR) == 100
    if not remedy.capped:
        after = added(position, remedy.amount)
        assert margin.margin_level(after, price, LINEAR) <= 50


# --- an assessment --------------------------------------------------------------------------


@given(positions(), prices, thresholds)
def test_an_assessment_holds_what_the_functions_say(position, price, threshold):
    assessed = margin.assess(position, price, threshold)

    assert assessed.position is position
    assert assessed.price == price
    assert assessed.level == margin.margin_level(position, price, INVERSE)
    assert assessed.risk is margin.risk_level(assessed.level)
    assert assessed.liquidation_price == margin.liquidation_price(position)
    assert assessed.liquidation_distance == margin.liquidation_distance(position, price)
    assert assessed.trigger_price == margin.trigger_price(position, threshold)


def test_a_position_without_a_threshold_has_no_trigger_price():
    assert margin.assess(a_position(), Price(95_000.0), None).trigger_price is None


@given(positions(), st.integers(1, 94), st.integers(1, 5))
def test_more_margin_moves_trigger_and_liquidation_away(position, threshold, thousandths):
    more = added(position, max(1, position.margin * thousandths // 1000))
    before = margin.assess(position, price_at(position, 50), Percent(float(threshold)))
    after = margin.assess(more, price_at(position, 50), Percent(float(threshold)))

    assert after.level <= before.level
    if after.trigger_price is not None:
        assert position.side.sign * (before.trigger_price - after.trigger_price) >= 0
    if after.liquidation_price is not None:
        assert position.side.sign * (before.liquidation_price - after.liquidation_price) >= 0


# --- levels as people see them --------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (0.0, "0.0"),
        (80.0, "80.0"),
        (80.01, "80.1"),
        (79.96, "80.0"),
        (60.1, "60.1"),
        (nextafter(81.1, 100), "81.1"),
        (1e9, "1000000000.0"),
    ],
)
def test_a_level_is_shown_with_one_decimal_rounded_up(level, shown):
    assert margin.show_level(Percent(level)) == shown


def test_a_level_just_below_the_threshold_is_shown_below_it():
    assert margin.show_level(Percent(79.96), Percent(80.0)) == "79.96"
    assert margin.show_level(Percent(79.9), Percent(80.0)) == "79.9"
    assert margin.show_level(Percent(80.0), Percent(80.0)) == "80.0"
    assert margin.show_level(Percent(79.999999), Percent(80.0)) == "79.999999"


@given(st.floats(0, 1e6).map(Percent), thresholds)
@example(80.00000000000001, 80.00000000000001)
@example(nextafter(80, 0), 80.0)
def test_a_level_is_never_shown_lower_nor_on_the_other_side_of_the_threshold(level, threshold):
    shown = Decimal(margin.show_level(level, threshold))

    assert shown >= Decimal(repr(nextafter(level, 0)))
    assert float(margin.show_level(level)) < level + 0.1 + 1e-9
    assert (shown >= Decimal(repr(threshold))) == (level >= threshold)
