"""The stop-loss that stays on the exchange: where it stands, and whose it is.

What the exchange takes is asked of the simulated one.
"""

from datetime import UTC, datetime
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from marginguard.domain import margin
from marginguard.domain.backstop import backstop_price, stands, stop_loss_changes
from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import MarginMode, Side
from marginguard.domain.units import CROSS, Percent, PositionId, Price, Sats
from marginguard.simulator.contract import MAX_PRICE, liquidation_price
from marginguard.simulator.trades import Trade, with_stop_loss
from tests.unit.strategies import (
    NOON,
    a_cross_position,
    a_ladder,
    a_position,
    a_rung,
    positions,
    prices,
    some_rules,
)

LEVEL = Percent(95.0)
RULES = some_rules(backstop=LEVEL)
PRICE = Price(98_000.0)

LONG = a_position(liquidation_price=Price(90_909.0))
"""Level 95 at 91,324.2, so that its backstop stands at 91,324.5."""
STOP = Price(91_324.5)

SHORT = a_position(side=Side.SHORT, liquidation_price=Price(111_111.0))
"""Level 95 at 110,497.2, so that its backstop stands at 110,497.0."""

backstops = st.floats(50, 99.9).map(Percent)
isolated = positions(mode=st.just(MarginMode.ISOLATED))


def changes(position, *, rules=RULES, ours=(), price=PRICE):
    memory = GuardMemory()
    if ours:
        memory = memory.with_stop_losses(position.id, ours, NOON)
    return stop_loss_changes([position], price, rules, memory)


def wanted(position, **how):
    """Return the price of the one change that is made, or "nothing"."""
    found = changes(position, **how)
    assert len(found) <= 1
    return found[0].price if found else "nothing"


def with_stop(price, position=LONG, **more):
    return a_position(
        side=position.side, liquidation_price=position.liquidation_price, stop_loss=price, **more
    )


def as_traded(position):
    """Return the simulated exchange's trade of these figures."""
    return Trade(
        id=UUID(int=1),
        account="one",
        side=position.side,
        quantity=position.quantity,
        leverage=position.leverage,
        margin=position.margin,
        entry_price=position.entry_price,
        entry_margin=position.entry_margin,
        liquidation=liquidation_price(
            position.side, position.quantity, position.entry_price, position.margin
        ),
        opening_fee=Sats(0),
        maintenance_margin=position.maintenance_margin,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        filled_at=datetime(2026, 1, 1, tzinfo=UTC),
        client_id=None,
    )


def reported(position):
    """Return the position with the liquidation price that the exchange would report."""
    liquidation = as_traded(position).liquidation
    shown = None if liquidation == MAX_PRICE else liquidation
    return a_position(
        id=position.id,
        side=position.side,
        quantity=position.quantity,
        entry_price=position.entry_price,
        margin=position.margin,
        leverage=position.leverage,
        liquidation_price=shown,
    )


# --- where it stands ------------------------------------------------------------------------


def test_it_stands_where_the_level_reaches_the_backstop_on_the_exchanges_grid():
    assert backstop_price(LONG, LEVEL) == 91_324.5
    assert backstop_price(SHORT, LEVEL) == 110_497.0


@given(isolated, backstops)
def test_it_is_on_the_grid_and_never_looser_than_the_backstop(position, level):
    price = backstop_price(position, level)

    assert price is not None
    assert price % 0.5 == 0
    sign = position.side.sign
    exact = margin.trigger_price(position, level)
    assert 0 <= sign * (Fraction(price) - Fraction(exact)) < Fraction(1, 2)
    farther = Price(price - sign * 0.5)
    assert farther <= 0 or margin.margin_level(position, farther) >= level


@given(isolated, backstops)
def test_a_stop_loss_there_closes_before_liquidation(position, level):
    price = backstop_price(position, level)
    liquidation = margin.exact_liquidation_price(position)

    if liquidation is not None:
        assert position.side.sign * price >= position.side.sign * liquidation


@given(isolated, prices, backstops)
def test_the_exchange_takes_every_stop_loss_that_is_set(position, last, level):
    position = reported(position)
    rules = some_rules(threshold=1.0, backstop=level)

    price = wanted(position, rules=rules, price=last)

    assume(price != "nothing")
    assume(price <= MAX_PRICE)
    assert with_stop_loss(as_traded(position), price, last=last).stop_loss == price


@given(isolated, prices, backstops)
def test_one_is_set_wherever_the_market_is_not_there_yet(position, last, level):
    position = reported(position)
    rules = some_rules(threshold=1.0, backstop=level)
    stop = backstop_price(position, level)

    beyond = position.side.sign * last <= position.side.sign * stop

    assert wanted(position, rules=rules, price=last) == ("nothing" if beyond else stop)


def test_beyond_the_market_none_is_set():
    assert wanted(LONG, price=STOP) == "nothing"
    assert wanted(LONG, price=Price(STOP + 0.5)) == STOP
    assert wanted(SHORT, price=Price(110_497.0)) == "nothing"
    assert wanted(SHORT, price=Price(110_496.5)) == 110_497.0


def test_it_stays_on_the_near_side_of_the_liquidation_price_that_the_exchange_reports():
    at_it = a_position(liquidation_price=STOP)
    above_it = a_position(liquidation_price=Price(STOP + 0.5))

    assert wanted(at_it) == STOP
    assert wanted(above_it) == "nothing"


# --- when it is moved -----------------------------------------------------------------------


def test_it_is_set_where_there_is_no_stop_loss():
    (change,) = changes(LONG)

    assert change.position is LONG
    assert change.reason == (
        "the level reaches backstop_threshold 95 % at 91,324.5, and there is no stop-loss"
    )


def test_it_is_left_where_it_stands():
    assert wanted(with_stop(STOP), ours=(STOP,)) == "nothing"
    assert wanted(with_stop(STOP)) == "nothing"


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("change", [-10_000, 10_000])
def test_ours_is_moved_when_margin_moves_it_either_way(side, change):
    before = a_position(side=side)
    ours = backstop_price(before, LEVEL)
    after = a_position(side=side, margin=Sats(100_000 + change), stop_loss=ours)

    moved = wanted(after, ours=(ours,), price=Price(100_000.0))

    assert moved == backstop_price(after, LEVEL)
    assert moved != ours


def test_a_tighter_one_of_the_owners_is_left_alone():
    assert wanted(with_stop(Price(STOP + 0.5))) == "nothing"
    assert wanted(with_stop(Price(STOP + 500), margin=Sats(95_000)), ours=(STOP,)) == "nothing"
    assert wanted(with_stop(Price(110_400.0), SHORT), price=Price(100_000.0)) == "nothing"


def test_a_farther_one_of_the_owners_is_replaced_and_that_is_said():
    (change,) = changes(with_stop(Price(91_000.0)))

    assert change.price == STOP
    assert change.reason.endswith("and the owner's stop-loss at 91,000.0 is farther away")
    assert wanted(with_stop(Price(110_600.0), SHORT)) == 110_497.0


@given(isolated, prices, st.integers(2, 400_000), backstops, st.booleans())
def test_no_stop_loss_of_the_owners_is_ever_loosened(position, last, steps, level, some_ours):
    owners = Price(steps * 0.5)
    position = reported(position)
    position = a_position(
        id=position.id,
        side=position.side,
        quantity=position.quantity,
        entry_price=position.entry_price,
        margin=position.margin,
        liquidation_price=position.liquidation_price,
        stop_loss=owners,
    )
    ours = (Price(owners + 0.5),) if some_ours else ()

    price = wanted(position, rules=some_rules(backstop=level), ours=ours, price=last)

    if price != "nothing":
        assert price is not None
        assert position.side.sign * price > position.side.sign * owners


@pytest.mark.parametrize("stop", [None, Price(90_000.0), STOP, Price(97_000.0)])
@pytest.mark.parametrize("rules", [RULES, some_rules()])
def test_a_trailing_stop_is_never_touched(stop, rules):
    trailing = with_stop(stop, trailing_stop=True)

    assert wanted(trailing, rules=rules, ours=(stop,) if stop else ()) == "nothing"


def test_the_cross_position_gets_none():
    cross = a_cross_position(liquidation_price=Price(66_733.5))

    assert cross.id == CROSS
    assert wanted(cross) == "nothing"


# --- when it is removed ---------------------------------------------------------------------


def test_where_none_is_wanted_any_more_only_ours_is_removed():
    theirs = Price(91_500.0)

    assert wanted(with_stop(STOP), rules=some_rules(), ours=(STOP,)) is None
    assert wanted(with_stop(theirs), rules=some_rules(), ours=(STOP,)) == "nothing"
    assert wanted(with_stop(STOP), rules=some_rules()) == "nothing"
    assert wanted(LONG, rules=some_rules(), ours=(STOP,)) == "nothing"


def test_either_of_two_that_may_stand_there_is_ours():
    maybe = Price(91_400.0)

    assert wanted(with_stop(maybe), rules=some_rules(), ours=(STOP, maybe)) is None
    assert wanted(with_stop(maybe), ours=(Price(90_000.0), maybe)) == STOP


# --- for whom -------------------------------------------------------------------------------


def test_a_guard_that_only_alerts_touches_no_stop_loss():
    assert wanted(LONG, rules=some_rules(backstop=LEVEL, auto_execution=False)) == "nothing"


def test_a_position_that_the_guard_does_not_look_after_keeps_what_it_has():
    rules = some_rules(backstop=LEVEL, selected=frozenset({PositionId("another")}))

    assert wanted(LONG, rules=rules) == "nothing"


def test_a_position_of_its_own_ladder_has_its_own_backstop_through_a_reduction():
    own = {PositionId("first"): a_ladder(a_rung(50, *()), backstop=Percent(60.0))}
    rules = some_rules(backstop=LEVEL, individual=own, selected=frozenset({PositionId("first")}))
    memory = GuardMemory().followed(PositionId("first"), LONG.id, margin=Sats(9), at=NOON)

    (change,) = stop_loss_changes([LONG], PRICE, rules, memory)

    assert change.price == backstop_price(LONG, Percent(60.0))


def test_a_stop_loss_of_ours_that_a_reduction_carried_over_is_still_ours():
    """Else it would pass for a tighter one of the owner's, and close the trade too early."""
    first = PositionId("first")
    memory = GuardMemory().with_stop_losses(first, (Price(95_000.0),), NOON)
    memory = memory.followed(first, LONG.id, margin=Sats(9), at=NOON)

    (change,) = stop_loss_changes([with_stop(Price(95_000.0))], PRICE, RULES, memory)

    assert change.price == STOP


# --- whether it stands ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "found"),
    [(None, False), (STOP - 0.5, False), (STOP, True), (STOP + 0.5, True)],
)
def test_it_stands_where_a_stop_loss_closes_at_the_backstop_or_before(stop, found):
    assert stands(with_stop(stop), LEVEL) is found


def test_on_a_short_nearer_to_the_market_is_lower():
    assert stands(with_stop(Price(110_497.0), SHORT), LEVEL)
    assert stands(with_stop(Price(110_000.0), SHORT), LEVEL)
    assert not stands(with_stop(Price(110_497.5), SHORT), LEVEL)


def test_a_short_that_never_gets_there_has_none():
    """With more margin than the position is worth, as on no isolated trade."""
    beyond = a_position(side=Side.SHORT, margin=Sats(1_200_000))

    assert backstop_price(beyond, LEVEL) is None
    assert wanted(beyond) == "nothing"
    assert not stands(with_stop(Price(150_000.0), SHORT, margin=Sats(1_200_000)), LEVEL)
