"""The cross position of the simulated exchange: sats in and out, leverage, funding, its end."""

import pytest

from marginguard.domain.errors import Rejected
from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats
from marginguard.simulator import cross
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.orders import OrderType
from marginguard.simulator.wire import cross_position_payload, equity, state_payload
from tests.unit.cross_desk import NOW, RICH, Desk


def test_a_deposit_moves_sats_in_without_a_cap():
    desk = Desk()
    desk.order(1_000)
    before = desk.position

    after = desk.book.deposit(desk.account, Sats(5_000_000), NOW)

    assert after.margin == before.margin + 5_000_000
    assert after.liquidation < before.liquidation
    assert after.leverage == 10
    assert desk.account.balance == RICH - 5_500_000
    newest, oldest = desk.book.transfers(desk.account)
    assert (newest.amount, oldest.amount) == (5_000_000, 500_000)


def test_a_deposit_beyond_the_balance_is_refused():
    desk = Desk(balance=500_010)

    with pytest.raises(Rejected, match="Insufficient balance"):
        desk.book.deposit(desk.account, Sats(11), NOW)

    assert desk.position.margin == 500_000


@pytest.mark.parametrize("amount", [0, -1])
def test_a_transfer_of_nothing_is_refused(amount):
    desk = Desk()

    for move in (desk.book.deposit, desk.book.withdraw):
        with pytest.raises(Rejected, match="above 0"):
            move(desk.account, Sats(amount), NOW)


def test_all_but_what_the_position_needs_may_be_withdrawn():
    desk = Desk()
    desk.order(1_000)  # leaves 499,000, of which 101,500 and a sat must stay

    with pytest.raises(Rejected, match="Margin too low"):
        desk.book.withdraw(desk.account, Sats(397_500), NOW)
    after = desk.book.withdraw(desk.account, Sats(397_499), NOW)

    assert after.margin == 101_501
    assert desk.account.balance == RICH - 500_000 + 397_499
    assert desk.book.transfers(desk.account)[0].amount == -397_499


def test_a_loss_may_not_be_withdrawn_and_a_profit_counts_for_nothing():
    desk = Desk()
    desk.order(1_000)
    desk.move(80_000.0)  # a loss of 250,000

    with pytest.raises(Rejected):
        desk.book.withdraw(desk.account, Sats(147_500), NOW)
    desk.move(125_000.0)
    with pytest.raises(Rejected):
        desk.book.withdraw(desk.account, Sats(397_500), NOW)


def test_a_flat_position_gives_back_everything_and_no_more():
    desk = Desk()

    with pytest.raises(Rejected, match="Insufficient margin"):
        desk.book.withdraw(desk.account, Sats(500_001), NOW)
    desk.book.withdraw(desk.account, Sats(500_000), NOW)

    assert desk.account.balance == RICH
    assert desk.position.margin == 0


@pytest.mark.parametrize("leverage", [0, 101])
def test_a_leverage_beyond_1_to_100_is_refused(leverage):
    desk = Desk()

    with pytest.raises(Rejected, match="1 to 100"):
        desk.book.set_leverage(desk.account, leverage, NOW)


def test_leverage_changes_what_is_needed_and_not_the_liquidation():
    desk = Desk()
    desk.order(1_000)
    before = desk.position

    after = desk.book.set_leverage(desk.account, 5, NOW)

    assert after.running_margin == 200_000
    assert (after.margin, after.liquidation) == (before.margin, before.liquidation)
    with pytest.raises(Rejected, match="Margin too low"):
        desk.book.set_leverage(desk.account, 2, NOW)


def test_more_leverage_is_allowed_to_a_position_that_lacks_margin():
    desk = Desk(margin=102_501)
    desk.order(1_000)
    desk.move(91_500.0)
    assert cross.with_leverage(desk.position, 50).free_margin(Price(91_500.0)) < 0

    assert desk.book.set_leverage(desk.account, 50, NOW).leverage == 50


def test_more_leverage_is_refused_to_a_position_too_large_for_it():
    desk = Desk(margin=10**11 - 1, balance=10**12, leverage=1, price=100_000.0)
    desk.order(15_000_000)

    with pytest.raises(Rejected, match="allowed at leverage 2"):
        desk.book.set_leverage(desk.account, 2, NOW)


@pytest.mark.parametrize(
    ("side", "price", "liquidation"), [(1, 50_000.0, 66_778.0), (-1, 250_000.0, 199_005.0)]
)
def test_liquidation_takes_the_margin_and_nothing_else(side, price, liquidation):
    """The fee of opening was paid before: 497,500 sats of 499,000 are there to be lost."""
    desk = Desk()
    desk.order(side * 1_000)
    assert desk.position.liquidation == liquidation

    desk.move(liquidation + side * 0.5)
    assert desk.position.quantity == side * 1_000
    desk.move(price)

    assert (desk.position.quantity, desk.position.margin) == (0, 0)
    assert desk.position.entry_price is desk.position.liquidation is None
    assert desk.position.realised_pl == -499_000
    order, _ = desk.book.filled_orders(desk.account)
    assert (order.type, order.price) == (OrderType.LIQUIDATION, liquidation)
    assert (order.side, order.quantity) == (Side.SHORT if side > 0 else Side.LONG, 1_000)
    assert desk.account.balance == RICH - 500_000


def test_a_liquidated_position_never_runs_again_by_itself():
    desk = Desk()
    desk.order(1_000)
    desk.move(60_000.0)
    desk.move(150_000.0)

    assert desk.position.quantity == 0
    with pytest.raises(Rejected):
        desk.order(1)
    with pytest.raises(Rejected):
        desk.book.close(desk.account, NOW)


@pytest.mark.parametrize(
    ("side", "rate", "paid"), [(1, 0.0001, 100), (-1, 0.0001, -100), (1, -0.0001, -100)]
)
def test_funding_comes_out_of_the_margin_and_into_it(side, rate, paid):
    desk = Desk()
    desk.order(side * 1_000)
    before = desk.position

    desk.exchange.settle_funding(rate, NOW)

    assert desk.position.margin == before.margin - paid
    assert desk.position.funding_fees == paid
    assert desk.account.balance == RICH - 500_000
    (entry,) = desk.book.funding_fees(desk.account)
    (settlement,) = desk.exchange.settlements
    assert (entry.fee, entry.settlement_id) == (paid, settlement.id)
    assert entry.time == settlement.time


def test_a_flat_position_has_no_part_in_funding():
    desk = Desk()

    desk.exchange.settle_funding(0.01, NOW)

    assert desk.position.margin == 500_000
    assert desk.book.funding_fees(desk.account) == ()


@pytest.mark.parametrize("rate", [0.5, 0.498])
def test_funding_that_the_margin_cannot_bear_liquidates(rate):
    """Paid in full it leaves too little, and at 0.5 it cannot be paid in full."""
    desk = Desk()
    desk.order(1_000)

    desk.exchange.settle_funding(rate, NOW)

    assert desk.position.quantity == desk.position.margin == 0
    assert desk.position.funding_fees == min(499_000, rate * 1_000_000)


def test_funding_beyond_the_margin_liquidates_even_in_profit():
    desk = Desk()
    desk.order(1_000)
    desk.move(150_000.0)

    desk.exchange.settle_funding(0.9, NOW)

    assert desk.position.quantity == desk.position.margin == 0
    assert desk.position.funding_fees == 499_000


POSITION_FIELDS = {
    *("id", "quantity", "margin", "leverage", "entryPrice", "liquidation", "initialMargin"),
    *("maintenanceMargin", "runningMargin", "totalPl", "deltaPl", "fundingFees", "tradingFees"),
    "updatedAt",
}


def test_the_payload_has_every_field():
    desk = Desk()
    flat = cross_position_payload(desk.position, desk.exchange.last)
    desk.order(-1_000)
    desk.move(125_000.0)
    desk.book.deposit(desk.account, Sats(10), NOW)
    desk.move(130_000.0)

    running = cross_position_payload(desk.position, desk.exchange.last)

    assert set(flat) == set(running) == POSITION_FIELDS
    assert flat["entryPrice"] is flat["liquidation"] is None
    assert flat["runningMargin"] == flat["initialMargin"] == flat["totalPl"] == 0
    assert (running["quantity"], running["entryPrice"]) == (-1_000, 100_000)
    assert running["totalPl"] == -230_770
    assert running["deltaPl"] == -230_770 + 200_000  # since the deposit at 125,000
    assert running["initialMargin"] == running["runningMargin"] == 100_000
    assert running["tradingFees"] == 1_000


def test_the_state_shows_positions_that_were_touched_and_equity_counts_them():
    desk = Desk(margin=0, leverage=1)
    fresh = Exchange(price=Price(1.0), ids=seeded_ids(1))
    fresh.add_account(Credentials(key="k", secret="s", passphrase="p"), Sats(1))
    desk.book.deposit(desk.account, Sats(2_000_000), NOW)
    desk.order(1_000)
    desk.move(125_000.0)

    (shown,) = state_payload(desk.exchange)["crossPositions"]

    assert (shown["account"], shown["quantity"]) == ("k", 1_000)
    assert equity(desk.exchange, desk.account) == RICH - 1_000 + 200_000
    assert state_payload(fresh)["crossPositions"] == []
