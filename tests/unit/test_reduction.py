"""Reducing: how much is cut, and that opening the rest never takes money from the wallet.

The exchange's side of it (what a close pays out, what a new trade takes) is the simulated one's.
"""

import math
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import assume, event, example, given
from hypothesis import strategies as st

from marginguard.domain import margin
from marginguard.domain.model import ActionKind, ClosedTrade, MarginMode, Position, Side
from marginguard.domain.records import ActionStatus, PositionState, Reopening
from marginguard.domain.reduction import (
    Impossible,
    Reduction,
    begin_reopening,
    finish_reopening,
    plan_reduction,
)
from marginguard.domain.units import Percent, PositionId, Price, Sats, Usd
from marginguard.simulator.contract import MAX_PRICE
from marginguard.simulator.refusals import Rejected
from marginguard.simulator.trades import (
    Ending,
    Order,
    closed,
    exit_reached,
    open_trade,
    payout,
    with_funding,
    with_margin_added,
)
from tests.unit.strategies import (
    NOON,
    a_cross_position,
    a_position,
    an_action,
    price_at,
    sides,
)

SLIPPAGE = Percent(0.5)
LONG = a_position(maintenance_margin=Sats(2_100))
SHORT = a_position(side=Side.SHORT, maintenance_margin=Sats(1_900))
FEE_TIERS = [Fraction(tier, 10_000) for tier in (0, 6, 7, 8, 10)]
SECOND = timedelta(seconds=1)


def planned(position, price, percentage=50.0, *, slippage=SLIPPAGE, min_improvement=10.0):
    return plan_reduction(
        position,
        Price(price),
        Percent(percentage),
        slippage=Percent(slippage),
        min_improvement=Percent(min_improvement),
    )


def reducing(position, price, reopening, **changes):
    """Return the record of a reduction whose close was just asked for."""
    return an_action(
        ActionKind.REDUCE_POSITION,
        position=position,
        before=PositionState.of(position, Price(price)),
        reopening=reopening,
        status=ActionStatus.SENT,
        **changes,
    )


def half_done(position=LONG, price=92_500.0, *, percentage=50.0, pl=None, **changes):
    """Return the record of a reduction whose trade is closed at `price`."""
    reduction = planned(position, price, percentage)
    assert isinstance(reduction, Reduction), reduction
    record = reducing(position, price, replace(reduction.reopening, **changes))
    if pl is None:
        pl = margin.profit_and_loss(position, Price(price))
    return after_close(record, price, pl)


def after_close(record, price, pl):
    ended = ClosedTrade(id=record.position_id, exit_price=Price(price), pl=pl, closed_at=NOON)
    return replace(record, reopening=begin_reopening(record, ended, NOON + SECOND))


def finished(record, price=92_500.0, *, after=2 * SECOND, slippage=SLIPPAGE):
    return finish_reopening(record, Price(price), NOON + after, slippage=slippage)


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


# --- never money from the wallet ------------------------------------------------------------


@st.composite
def held_trades(draw):
    """A trade of the simulated exchange with a history, and a price at which it still runs."""
    fill = Price(draw(st.integers(2_000, 1_000_000)) * 0.5)
    side = draw(sides)
    order = Order(
        side=side,
        quantity=Usd(draw(st.integers(2, 500_000))),
        leverage=Fraction(draw(st.integers(100, 10_000)), 100),
    )
    opened_at = draw(st.sampled_from(FEE_TIERS))
    try:
        trade = open_trade(
            order,
            trade_id=UUID(int=1),
            account="one",
            fill=fill,
            limit=None,
            fee_rate=opened_at,
            now=NOON,
        )
    except Rejected:
        assume(condition=False)
    if draw(st.booleans()):
        paid = draw(st.integers(1, max(1, trade.margin // 3)))
        assume(paid < trade.margin)
        trade = with_funding(trade, Sats(paid))
    if draw(st.booleans()):
        room = margin.room_to_add(seen(trade))
        trade = with_margin_added(trade, Sats(draw(st.integers(0, room)))) if room else trade
    level = draw(st.floats(0, 99))
    price = Price(round(price_at(seen(trade), level) * 2) / 2)
    assume(0 < price < MAX_PRICE)
    assume(exit_reached(trade, price) is None)
    return trade, price


def seen(trade) -> Position:
    """Return the trade as the exchange reports it."""
    return a_position(
        id=PositionId(str(trade.id)),
        side=trade.side,
        quantity=trade.quantity,
        entry_price=trade.entry_price,
        margin=trade.margin,
        maintenance_margin=trade.maintenance_margin,
        entry_margin=trade.entry_margin,
        leverage=trade.leverage,
        liquidation_price=None if trade.liquidation == MAX_PRICE else trade.liquidation,
        funding_paid=trade.funding_fees,
    )


def ended_at(trade, price, tier):
    ended = closed(trade, Ending.CLOSE, price, fee_rate=tier, at=NOON)
    shown = ClosedTrade(
        id=PositionId(str(trade.id)), exit_price=price, pl=ended.closing.pl, closed_at=NOON
    )
    return ended, shown


def order_for(plan):
    """Return the order as the exchange reads it off the wire."""
    return Order(
        side=plan.side,
        quantity=plan.quantity,
        leverage=Fraction(str(plan.leverage)),
        stop_loss=plan.stop_loss,
        take_profit=plan.take_profit,
    )


def trade_from(plan, fill, tier):
    return open_trade(
        order_for(plan),
        trade_id=UUID(int=2),
        account="one",
        fill=fill,
        limit=None,
        fee_rate=tier,
        now=NOON,
    )


def slipped(price, percent, share):
    """Return a price step up to `percent` % off `price`: `share` -1 is lowest, 1 highest."""
    exact = Fraction(price) * (1 + Fraction(str(percent)) / 100 * Fraction(share))
    steps = exact * 2
    return Price((math.ceil(steps) if share < 0 else math.floor(steps)) / 2)


shares = st.sampled_from([-1, 0, 1]) | st.integers(-20, 20).map(lambda n: Fraction(n, 20))


@given(
    held=held_trades(),
    percentage=st.floats(1, 99),
    slippage=st.sampled_from([0.01, 0.1, 0.5, 2.0, 10.0]),
    tier=st.sampled_from(FEE_TIERS),
    exit_slips=st.floats(-0.01, 0.01),
    moves=shares,
    fills=shares,
)
def test_the_rest_never_takes_more_than_the_close_brought(
    held, percentage, slippage, tier, exit_slips, moves, fills
):
    """Never money from the wallet, wherever within `reopen_slippage` both orders are filled.

    The trade may have been opened at another fee tier, topped up, and have paid funding.
    """
    trade, price = held
    reduction = planned(seen(trade), price, percentage, slippage=slippage, min_improvement=0)
    if isinstance(reduction, Impossible):
        event("not begun")
        return
    exit_price = Price(max(1, round(price * (1 + exit_slips) * 2)) / 2)
    ended, shown = ended_at(trade, exit_price, tier)
    record = reducing(seen(trade), price, reduction.reopening)
    record = replace(record, reopening=begin_reopening(record, shown, NOON))
    market = slipped(exit_price, slippage, moves)
    plan = finish_reopening(record, market, NOON, slippage=Percent(slippage))
    if isinstance(plan, Impossible):
        event("stays closed")
        return
    event("opened again")
    fill = slipped(market, slippage, fills)

    opened = trade_from(replace(plan, stop_loss=None, take_profit=None), fill, tier)

    assert opened.cost <= payout(ended)
    assert plan.quantity == reduction.reopening.quantity
    assert 1 <= plan.leverage <= 100


def test_a_long_that_was_topped_up_pays_a_closing_fee_beyond_its_reserve():
    """Its liquidation price of the opening is above the price: the reserve is too small."""
    trade = open_trade(
        Order(side=Side.LONG, quantity=Usd(100_000), leverage=Fraction(50)),
        trade_id=UUID(int=1),
        account="one",
        fill=Price(100_000.0),
        limit=None,
        fee_rate=FEE_TIERS[-1],
        now=NOON,
    )
    trade = with_margin_added(trade, Sats(90_000_000))
    ended, shown = ended_at(trade, Price(60_000.0), FEE_TIERS[-1])

    record = reducing(seen(trade), 60_000.0, planned(seen(trade), 60_000.0).reopening)

    assert begin_reopening(record, shown, NOON).margin <= payout(ended)


def test_a_short_that_paid_funding_pays_a_closing_fee_beyond_its_reserve():
    trade = open_trade(
        Order(side=Side.SHORT, quantity=Usd(100_000), leverage=Fraction(2)),
        trade_id=UUID(int=1),
        account="one",
        fill=Price(100_000.0),
        limit=None,
        fee_rate=FEE_TIERS[-1],
        now=NOON,
    )
    trade = with_funding(trade, Sats(25_000_000))
    ended, shown = ended_at(trade, Price(120_000.0), FEE_TIERS[-1])

    record = reducing(seen(trade), 120_000.0, planned(seen(trade), 120_000.0).reopening)

    assert begin_reopening(record, shown, NOON).margin <= payout(ended)


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


def test_an_isolated_trade_alone_is_opened_again():
    assert planned(a_cross_position(mode=MarginMode.CROSS), 90_000.0).reopening is None
    assert planned(LONG, 92_500.0).reopening is not None
