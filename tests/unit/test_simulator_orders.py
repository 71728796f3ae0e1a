"""Limit orders of the simulated exchange, on isolated trades and on the cross position."""

from datetime import UTC, datetime
from fractions import Fraction

import pytest

from marginguard.domain.errors import Rejected
from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats, Usd
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.contract import Limit
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.orders import CrossRequest, OrderType
from marginguard.simulator.trades import Ending, Order
from marginguard.simulator.wire import cross_order_payload, equity, trade_payload

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
RICH = Sats(100 * 100_000_000)


class Desk:
    """An account on an exchange of its own, with sats on cross margin."""

    def __init__(self, *, margin=500_000, balance=RICH, **exchange):
        self.exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1), **exchange)
        self.account = self.add_account("k", balance)
        self.book = self.exchange.cross
        self.book.deposit(self.account, Sats(margin), NOW)
        self.book.set_leverage(self.account, 10, NOW)

    def add_account(self, key, balance=RICH):
        return self.exchange.add_account(
            Credentials(key=key, secret="s", passphrase="p"), Sats(balance)
        )

    @property
    def position(self):
        return self.book.position(self.account)

    def trade(self, price, side=Side.LONG, **more):
        wanted = Order(side=side, leverage=Fraction(10), quantity=1_000, price=price, **more)
        return self.exchange.open_trade(self.account, wanted, NOW)

    def order(self, quantity, price=None):
        """Buy `quantity` USD on cross margin, or sell if it is below 0."""
        side = Side.LONG if quantity > 0 else Side.SHORT
        wanted = CrossRequest(side=side, quantity=Usd(abs(quantity)), price=price)
        return self.book.order(self.account, wanted, NOW)

    def move(self, price):
        self.exchange.set_price(Price(price), NOW)

    def waiting(self):
        return self.book.open_orders(self.account)


@pytest.mark.parametrize(
    ("price", "short_of", "there", "beyond"),
    [
        (90_000.0, 90_000.5, 90_000.0, 80_000.0),
        (110_000.0, 109_999.5, 110_000.0, 120_000.0),
        (100_000.5, 100_000.0, 100_000.5, 100_001.0),
        (99_999.5, 100_000.0, 99_999.5, 99_999.0),
    ],
)
def test_a_limit_is_reached_from_the_side_that_the_market_was_on(price, short_of, there, beyond):
    limit = Limit.placed(Price(price), last=Price(100_000.0))

    assert not limit.reached_at(Price(100_000.0))
    assert not limit.reached_at(Price(short_of))
    assert limit.reached_at(Price(there))
    assert limit.reached_at(Price(beyond))


@pytest.mark.parametrize("price", [0, -1, 100.25, 1e9, float("nan")])
def test_what_is_no_price_is_no_limit(price):
    desk = Desk()

    for place in (lambda: desk.trade(Price(price)), lambda: desk.order(1, Price(price))):
        with pytest.raises(Rejected, match="Price"):
            place()
    assert desk.exchange.open_trades(desk.account) == desk.waiting() == ()


def test_an_open_trade_holds_its_margin_and_does_not_run():
    desk = Desk()
    before = desk.account.balance

    trade = desk.trade(Price(80_000.0), client_id="mine")

    assert (trade.margin, trade.liquidation) == (125_000, 72_727.5)
    assert desk.account.balance == before - trade.margin - trade.maintenance_margin
    assert desk.exchange.open_trades(desk.account) == (trade,)
    assert desk.exchange.running_trades(desk.account) == ()
    assert equity(desk.exchange, desk.account) == RICH
    shown = trade_payload(trade, desk.exchange.last)
    assert [shown[flag] for flag in ("open", "running", "canceled", "closed")] == [
        *(True, False, False, False)
    ]
    assert (shown["type"], shown["price"], shown["filledAt"]) == ("limit", 80_000, None)
    assert (shown["pl"], shown["openingFee"]) == (0, 0)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(
    ("price", "reached"), [(95_000.0, (95_000.0, 94_000.0)), (105_000.0, (105_000.0, 106_000.0))]
)
def test_a_trade_fills_at_its_price_when_the_market_comes_there(side, price, reached):
    for last in reached:
        desk = Desk(spread=200)
        trade = desk.trade(Price(price), side)

        desk.move(last)

        (filled,) = desk.exchange.running_trades(desk.account)
        assert (filled.id, filled.entry_price) == (trade.id, price)
        assert filled.filled_at == NOW
        assert desk.exchange.open_trades(desk.account) == ()
        shown = trade_payload(filled, desk.exchange.last)
        assert (shown["open"], shown["running"], shown["type"]) == (False, True, "limit")
        assert shown["openingFee"] == filled.opening_fee > 0


def test_an_order_at_the_last_price_fills_at_once():
    desk = Desk()

    trade = desk.trade(Price(100_000.0))
    order = desk.order(1_000, Price(100_000.0))

    assert trade.is_running
    assert (order.type, order.price, order.is_open) == (OrderType.LIMIT, 100_000, False)


@pytest.mark.parametrize(
    ("last", "ending", "price"),
    [(90_000.0, Ending.STOP_LOSS, 93_000.0), (50_000.0, Ending.STOP_LOSS, 93_000.0)],
)
def test_a_price_that_falls_through_fills_the_trade_and_then_ends_it(last, ending, price):
    desk = Desk()
    desk.trade(Price(95_000.0), stop_loss=Price(93_000.0))

    desk.move(last)

    (ended,) = desk.exchange.closed_trades(desk.account)
    assert (ended.closing.ending, ended.closing.price) == (ending, price)


def test_a_stop_loss_is_measured_against_the_limit_and_not_the_market():
    desk = Desk()

    with pytest.raises(Rejected, match="Stop-loss"):
        desk.trade(Price(95_000.0), stop_loss=Price(96_000.0))


def test_a_canceled_trade_gives_everything_back_and_never_fills():
    desk = Desk()
    before = desk.account.balance
    trade = desk.trade(Price(95_000.0))

    canceled = desk.exchange.cancel_trade(desk.account, trade.id, NOW)
    desk.move(90_000.0)

    assert desk.account.balance == before
    assert desk.exchange.canceled_trades(desk.account) == (canceled,)
    assert desk.exchange.open_trades(desk.account) == ()
    assert desk.exchange.running_trades(desk.account) == ()
    shown = trade_payload(canceled, desk.exchange.last)
    assert [shown[flag] for flag in ("open", "running", "canceled", "closed")] == [
        *(False, False, True, False)
    ]
    assert shown["closedAt"] == "2026-01-01T12:00:00.000Z"
    assert (shown["filledAt"], shown["exitPrice"], shown["openingFee"]) == (None, None, 0)


def test_only_an_open_trade_can_be_canceled_and_only_a_running_one_changed():
    desk = Desk()
    running, waiting = desk.trade(None), desk.trade(Price(95_000.0))
    canceled = desk.exchange.cancel_trade(desk.account, desk.trade(Price(96_000.0)).id, NOW)

    for trade in (running, canceled):
        with pytest.raises(Rejected, match="not open"):
            desk.exchange.cancel_trade(desk.account, trade.id, NOW)
    for trade in (waiting, canceled):
        with pytest.raises(Rejected, match="not running"):
            desk.exchange.close_trade(desk.account, trade.id, NOW)
        with pytest.raises(Rejected, match="not running"):
            desk.exchange.add_margin(desk.account, trade.id, Sats(1))


def test_canceling_all_trades_leaves_running_ones_and_other_accounts_alone():
    desk = Desk()
    other = desk.add_account("other")
    wanted = Order(side=Side.LONG, leverage=Fraction(10), quantity=10, price=Price(90_000.0))
    desk.exchange.open_trade(other, wanted, NOW)
    desk.trade(None)
    waiting = [desk.trade(Price(90_000.0)).id, desk.trade(Price(110_000.0)).id]

    canceled = desk.exchange.cancel_all_trades(desk.account, NOW)

    assert [trade.id for trade in canceled] == waiting
    assert len(desk.exchange.running_trades(desk.account)) == 1
    assert len(desk.exchange.open_trades(other)) == 1
    with pytest.raises(Rejected, match="not found"):
        desk.exchange.cancel_trade(desk.account, desk.exchange.open_trades(other)[0].id, NOW)


@pytest.mark.parametrize(("price", "last"), [(95_000.0, 94_000.0), (105_000.0, 106_000.0)])
@pytest.mark.parametrize("quantity", [1_000, -1_000])
def test_a_cross_order_fills_at_its_price_and_not_before(price, last, quantity):
    desk = Desk(spread=200)
    waiting = desk.order(quantity, Price(price))
    assert (waiting.is_open, waiting.trading_fee, waiting.filled_at) == (True, 0, None)
    assert desk.position.quantity == 0

    desk.move(last)

    assert (desk.position.quantity, desk.position.entry_price) == (quantity, price)
    (filled,) = desk.book.filled_orders(desk.account)
    assert (filled.id, filled.price, filled.is_open) == (waiting.id, price, False)
    assert filled.trading_fee == desk.position.trading_fees > 0
    assert desk.waiting() == ()


def test_a_cross_order_reduces_the_position():
    desk = Desk()
    desk.order(1_000)
    desk.order(-400, Price(110_000.0))

    desk.move(111_000.0)

    assert (desk.position.quantity, desk.position.entry_price) == (600, 100_000)
    assert desk.position.realised_pl == 36_363


def test_orders_on_the_way_fill_in_the_order_in_which_the_market_reaches_them():
    desk = Desk(margin=5_000_000)
    for price in (90_000.0, 98_000.0, 94_000.0):
        desk.order(1_000, Price(price))

    desk.move(80_000.0)

    newest_first = [order.price for order in desk.book.filled_orders(desk.account)]
    assert newest_first == [90_000, 94_000, 98_000]


def test_the_market_liquidates_before_it_reaches_an_order_beyond():
    desk = Desk(margin=110_000)
    desk.order(1_000)  # liquidated at about 90,000
    order = desk.order(-1_000, Price(85_000.0))

    desk.move(80_000.0)

    kinds = [order.type for order in desk.book.filled_orders(desk.account)]
    assert kinds == [OrderType.LIQUIDATION, OrderType.MARKET]
    assert desk.position.margin == 0
    # The position that it was to close is gone, and there is no margin to open another with.
    assert desk.waiting() == ()
    (canceled,) = desk.book.canceled_orders(desk.account)
    assert canceled.id == order.id


def test_an_order_on_the_way_saves_the_position_from_the_liquidation_beyond():
    desk = Desk(margin=110_000)
    desk.order(1_000)
    desk.order(-1_000, Price(95_000.0))

    desk.move(80_000.0)

    assert desk.position.quantity == 0
    assert desk.position.margin == 110_000 - 1_000 - 52_632 - 1_052
    assert desk.position.realised_pl == -52_632


def test_an_order_that_the_margin_does_not_cover_is_canceled_when_it_is_reached():
    desk = Desk(margin=50_000)
    order = desk.order(1_000, Price(95_000.0))

    desk.move(94_000.0)

    assert desk.position.quantity == 0
    assert desk.position.margin == 50_000
    (canceled,) = desk.book.canceled_orders(desk.account)
    assert (canceled.id, canceled.canceled_at is None) == (order.id, False)
    assert desk.waiting() == desk.book.filled_orders(desk.account) == ()


def test_a_canceled_cross_order_never_fills():
    desk = Desk()
    order = desk.order(1_000, Price(95_000.0))

    canceled = desk.book.cancel(desk.account, order.id, NOW)
    desk.move(90_000.0)

    assert (canceled.is_open, canceled.filled_at) == (False, None)
    assert canceled.canceled_at is not None
    assert desk.position.quantity == 0
    with pytest.raises(Rejected, match="not open"):
        desk.book.cancel(desk.account, order.id, NOW)


def test_a_cross_order_of_another_account_is_not_found():
    desk = Desk()
    order = desk.order(1_000, Price(95_000.0))

    with pytest.raises(Rejected) as refused:
        desk.book.cancel(desk.add_account("other"), order.id, NOW)

    assert (refused.value.status, refused.value.code) == (404, "NOT_FOUND")


def test_canceling_all_cross_orders_leaves_the_position_alone():
    desk = Desk()
    desk.order(1_000)
    waiting = [desk.order(-100, Price(price)).id for price in (110_000.0, 90_000.0)]

    canceled = desk.book.cancel_all(desk.account, NOW)

    assert [order.id for order in canceled] == waiting
    assert desk.waiting() == ()
    assert desk.position.quantity == 1_000


def test_a_cross_order_payload_has_every_field():
    desk = Desk()
    shown = cross_order_payload(desk.order(-1_000, Price(110_000.5)))

    assert shown.pop("id")
    assert shown == {
        "type": "limit",
        "side": "sell",
        "quantity": 1_000,
        "price": 110_000.5,
        "tradingFee": 0,
        "open": True,
        "filled": False,
        "canceled": False,
        "createdAt": "2026-01-01T12:00:00.000Z",
        "filledAt": None,
        "canceledAt": None,
        "clientId": None,
    }
