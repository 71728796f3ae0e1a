"""Reducing: opening the rest never takes money from the wallet.

The exchange's side of it (what a close pays out, what a new trade takes) is the simulated one's.
"""

import math
from dataclasses import replace
from fractions import Fraction
from uuid import UUID

from hypothesis import assume, event, given
from hypothesis import strategies as st

from marginguard.domain import margin
from marginguard.domain.model import ClosedTrade, Position, Side
from marginguard.domain.reduction import Impossible, begin_reopening, finish_reopening
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
from tests.unit.planned_reductions import FEE_TIERS, planned, reducing, trade_from
from tests.unit.strategies import NOON, a_position, price_at, sides


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
