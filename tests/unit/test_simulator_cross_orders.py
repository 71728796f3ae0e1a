"""The cross position of the simulated exchange: what orders make of it."""

import pytest

from marginguard.domain.errors import Rejected
from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats
from marginguard.simulator.events import CrossChanged, CrossOrderChanged
from marginguard.simulator.orders import CrossRequest, OrderType
from tests.unit.cross_desk import NOW, RICH, Desk


def test_a_flat_position_has_neither_entry_nor_liquidation():
    position = Desk().position

    assert (position.quantity, position.margin, position.leverage) == (0, 500_000, 10)
    assert position.entry_price is position.liquidation is None
    assert position.running_margin == position.maintenance_margin == 0


def test_opening_takes_the_fee_out_of_the_margin():
    desk = Desk()

    order = desk.order(1_000, client_id="mine")

    assert (order.type, order.price, order.trading_fee) == (OrderType.MARKET, 100_000, 1_000)
    assert order.client_id == "mine"
    assert desk.book.filled_orders(desk.account) == (order,)
    assert desk.position.margin == 499_000
    assert desk.position.trading_fees == 1_000
    assert (desk.position.quantity, desk.position.entry_price) == (1_000, 100_000)
    assert desk.account.balance == RICH - 500_000


@pytest.mark.parametrize(("price", "pl"), [(80_000.0, -250_000), (125_000.0, 200_000)])
def test_closing_books_profit_and_loss_and_leaves_the_margin_free(price, pl):
    desk = Desk()
    desk.order(1_000)
    desk.move(price)

    order = desk.book.close(desk.account, NOW)

    fee = {80_000.0: 1_250, 125_000.0: 800}[price]
    assert (order.side, order.quantity, order.price) == (Side.SHORT, 1_000, price)
    assert order.trading_fee == fee
    assert (desk.position.quantity, desk.position.entry_price) == (0, None)
    assert desk.position.margin == 499_000 + pl - fee
    assert desk.position.realised_pl == pl
    assert desk.position.leverage == 10


def test_a_reversal_books_the_old_position_and_enters_the_new_one_at_the_price():
    desk = Desk()
    desk.order(1_000)
    desk.move(80_000.0)

    order = desk.order(-1_500)

    assert order.trading_fee == 1_875
    assert (desk.position.quantity, desk.position.entry_price) == (-500, 80_000)
    assert desk.position.margin == 499_000 - 250_000 - 1_875


def test_a_reversal_that_the_margin_does_not_cover_is_refused_whole():
    desk = Desk(margin=110_000)
    desk.order(1_000)
    before = desk.position

    with pytest.raises(Rejected, match="Margin too low"):
        desk.order(-3_000)

    assert desk.position == before
    assert len(desk.book.filled_orders(desk.account)) == 1


def test_a_reversal_to_a_smaller_position_must_be_covered_too():
    desk = Desk(margin=110_000)
    desk.order(1_000)
    desk.move(91_000.0)  # closing leaves 8,890 sats, and 100 USD need 11,153

    with pytest.raises(Rejected, match="Margin too low"):
        desk.order(-1_100)

    assert desk.position.quantity == 1_000


def test_a_spread_takes_no_more_than_the_margin_and_liquidates_what_it_leaves():
    desk = Desk(margin=150_000, spread=4_000)
    desk.order(1_000)
    desk.move(88_700.0)  # 43 USD above liquidation, and market orders sell 2,000 below

    order = desk.order(-999)

    liquidation, reduction, _ = desk.book.filled_orders(desk.account)
    assert reduction == order
    assert (reduction.price, reduction.trading_fee) == (86_700, 0)
    assert (liquidation.type, liquidation.quantity) == (OrderType.LIQUIDATION, 1)
    assert (desk.position.quantity, desk.position.margin) == (0, 0)
    assert desk.position.realised_pl == -149_020


@pytest.mark.parametrize(
    ("setting", "entry", "margin"),
    [
        ({}, 120_000, 498_500),
        ({"losing_reduction_books_loss": False}, 120_000, 498_500),
        ({"losing_reduction_books_loss": True}, 100_000, 398_500),
    ],
)
def test_the_exchange_is_told_what_a_losing_reduction_does(setting, entry, margin):
    desk = Desk(**setting)
    desk.order(1_000)
    desk.move(80_000.0)

    desk.order(-400)

    assert (desk.position.quantity, desk.position.entry_price) == (600, entry)
    assert desk.position.margin == margin


def test_there_is_nothing_to_close_when_flat():
    desk = Desk()

    with pytest.raises(Rejected, match="no position"):
        desk.book.close(desk.account, NOW)


@pytest.mark.parametrize(("margin", "covered"), [(102_500, False), (102_501, True)])
def test_opening_needs_more_than_running_and_maintenance_margin_after_the_fee(margin, covered):
    desk = Desk(margin=margin)

    if covered:
        desk.order(1_000)
        assert desk.position.free_margin(Price(100_000.0)) == 1
    else:
        with pytest.raises(Rejected, match="Margin too low"):
            desk.order(1_000)


def test_a_quantity_above_the_limit_of_the_leverage_is_refused():
    desk = Desk(margin=10_000_000_000 - 1, leverage=100)
    desk.order(10_000_000)

    with pytest.raises(Rejected, match="10000000 USD allowed at leverage 100"):
        desk.order(1)

    desk.order(-1)
    assert desk.position.quantity == 9_999_999


@pytest.mark.parametrize("quantity", [0, -1])
def test_an_order_of_nothing_is_refused(quantity):
    desk = Desk()

    with pytest.raises(Rejected, match="at least 1"):
        desk.book.order(desk.account, CrossRequest(side=Side.LONG, quantity=quantity), NOW)


def test_a_reduction_is_never_refused_for_want_of_margin():
    desk = Desk(margin=102_501)
    desk.order(1_000)
    desk.move(92_000.0)

    desk.order(-500)

    assert desk.position.quantity == 500


def test_events_tell_of_orders_and_of_the_position():
    desk = Desk(leverage=20)
    desk.order(1_000)
    waiting = desk.order(-500, price=Price(120_000.0))
    desk.book.cancel(desk.account, waiting.id, NOW)
    desk.exchange.settle_funding(0.0001, NOW)
    desk.book.withdraw(desk.account, Sats(1), NOW)
    desk.move(60_000.0)

    positions = [event.event for event in desk.events if isinstance(event, CrossChanged)]
    assert positions == [
        *("deposit", "leverage", "new", "limit", "cancel", "funding", "withdraw", "liquidation")
    ]
    orders = [event.order for event in desk.events if isinstance(event, CrossOrderChanged)]
    assert [order.type for order in orders] == ["market", "limit", "limit", "liquidation"]
    assert [order.is_open for order in orders] == [False, True, False, False]
