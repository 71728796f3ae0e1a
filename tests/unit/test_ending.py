"""What ended a position, as far as its closed trade tells."""

from datetime import timedelta
from fractions import Fraction

import pytest

from marginguard.domain.ending import Ending, ending_of
from marginguard.domain.model import ClosedTrade, Side
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.trades import Order
from tests.simulation.figures import closed_trade, positions_of
from tests.unit.strategies import NOON, a_cross_position, a_position

SHORT = {"side": Side.SHORT, "margin": 100_000}


def closed(exit_price, pl=None, **changes):
    return ClosedTrade(id="trade-1", exit_price=exit_price, pl=pl, closed_at=NOON, **changes)


@pytest.mark.parametrize(
    ("position", "end", "ending"),
    [
        # A long of 1,000 USD at 100,000 with 100,000 sats: liquidated at 90,909.09.
        ({}, closed(90_909.0, -100_000), Ending.LIQUIDATED),
        ({}, closed(90_909.5, -99_995), Ending.LIQUIDATED),
        ({}, closed(None, -100_000), Ending.LIQUIDATED),
        ({}, closed(90_911.0, -99_977), Ending.CLOSED),
        ({}, closed(95_000.0, -52_632), Ending.CLOSED),
        # Its funding came out of the margin after it was last read.
        ({}, closed(95_000.0, -52_632, margin=52_632), Ending.LIQUIDATED),
        ({"stop_loss": 95_000.0}, closed(95_000.0, -52_632), Ending.STOP_LOSS),
        ({"stop_loss": 95_000.0}, closed(94_800.0, -54_853), Ending.STOP_LOSS),
        ({"stop_loss": 95_000.0}, closed(95_000.5, -52_626), Ending.CLOSED),
        ({"stop_loss": 95_000.0}, closed(90_909.0, -100_000), Ending.LIQUIDATED),
        ({"stop_loss": 90_909.5}, closed(90_909.5, -99_995), Ending.STOP_LOSS),
        ({"take_profit": 105_000.0}, closed(105_000.0, 47_619), Ending.TAKE_PROFIT),
        ({"take_profit": 105_000.0}, closed(104_999.5, 47_614), Ending.CLOSED),
        # A short of the same size is liquidated at 111,111.11.
        (SHORT, closed(111_111.0, -99_999), Ending.LIQUIDATED),
        (SHORT, closed(111_000.0, -99_099), Ending.CLOSED),
        ({**SHORT, "stop_loss": 105_000.0}, closed(105_000.0, -47_620), Ending.STOP_LOSS),
        ({**SHORT, "take_profit": 95_000.0}, closed(94_000.0, 63_829), Ending.TAKE_PROFIT),
    ],
)
def test_an_isolated_trade_is_told_by_its_figures(position, end, ending):
    assert ending_of(a_position(**position), end) is ending


@pytest.mark.parametrize(
    ("liquidated", "ending"), [(True, Ending.LIQUIDATED), (False, Ending.CLOSED)]
)
def test_of_the_cross_position_the_exchange_tells_by_the_kind_of_the_order(liquidated, ending):
    assert ending_of(a_cross_position(), closed(70_000.0, liquidated=liquidated)) is ending


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("leverage", [3, 7, 33, 100])
def test_the_simulated_exchange_tells_a_liquidation_and_a_stop_loss_apart(side, leverage):
    exchange = Exchange(price=100_000.0, ids=seeded_ids(1))
    account = exchange.add_account(Credentials(key="k", secret="s", passphrase="p"), 10_000_000)
    near = 100_000.0 - side.sign * 500
    for stop_loss in (None, near):
        order = Order(side=side, leverage=Fraction(leverage), quantity=777, stop_loss=stop_loss)
        exchange.open_trade(account, order, NOON)
    before = {one.id: one for one in positions_of(exchange, account)}
    exchange.set_price(100_000.0 - side.sign * 60_000, NOON + timedelta(minutes=1))

    ends = {
        before[str(trade.id)].stop_loss: ending_of(before[str(trade.id)], closed_trade(trade))
        for trade in exchange.closed_trades(account)
    }

    assert ends == {None: Ending.LIQUIDATED, near: Ending.STOP_LOSS}
