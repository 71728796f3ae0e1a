"""How a read tells whether an action took effect.

Failure 2: an addition of margin that timed out is told by the margin net of funding and cash-in;
what cannot be told is not guessed.
"""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain.model import (
    ActionKind,
    ClosedTrade,
    CrossOrder,
    OrderType,
    Side,
    Transfer,
)
from marginguard.domain.proof import (
    Proof,
    prove_added_margin,
    prove_close,
    prove_close_of_ours,
    prove_cut,
    prove_deposit,
    prove_reopened,
    prove_stop_loss,
)
from marginguard.domain.records import Reopening
from marginguard.domain.units import PositionId, Price, Sats, Usd
from tests.unit.strategies import NOON, a_cross_position, a_position, a_state, an_action

CLOSED = ClosedTrade(
    id=PositionId("trade-1"), exit_price=Price(91_000.0), pl=Sats(-98_902), closed_at=NOON
)


def after(*, margin, funding=0, cashed_in=0):
    """The read after an addition of 5,000 to a margin of 100,000, 700 of funding paid before."""
    running = a_position(
        margin=Sats(margin), funding_paid=Sats(700 + funding), cashed_in=Sats(40 + cashed_in)
    )
    before = a_state(funding_paid=Sats(700), cashed_in=Sats(40))
    return prove_added_margin(before, Sats(5_000), running)


def test_a_close_is_applied_once_the_trade_is_in_the_closed_list():
    assert prove_close(None, CLOSED) is Proof.APPLIED


def test_a_close_is_not_applied_while_the_trade_still_runs():
    """Failure 1: the trade is closed again only if it still runs."""
    assert prove_close(a_position(), None) is Proof.NOT_APPLIED
    assert prove_close(a_position(), CLOSED) is Proof.NOT_APPLIED


def test_a_trade_that_neither_runs_nor_is_closed_is_unclear():
    """Failure 9: a list that lacks it is not yet proof of a close."""
    assert prove_close(None, None) is Proof.UNCLEAR


def test_an_addition_to_a_position_that_ended_is_gone():
    """Failure 11: the position was closed or liquidated first."""
    assert prove_added_margin(a_state(), Sats(5_000), None) is Proof.GONE


@pytest.mark.parametrize(
    ("margin", "proof"),
    [(105_000, Proof.APPLIED), (100_000, Proof.NOT_APPLIED)],
)
def test_with_nothing_else_going_on_the_margin_tells(margin, proof):
    assert after(margin=margin) is proof


@pytest.mark.parametrize(
    ("margin", "proof"),
    [(104_700, Proof.APPLIED), (99_700, Proof.NOT_APPLIED), (100_000, Proof.UNCLEAR)],
)
def test_funding_paid_meanwhile_came_out_of_the_margin(margin, proof):
    assert after(margin=margin, funding=300) is proof


@pytest.mark.parametrize(
    ("margin", "proof"), [(99_000, Proof.APPLIED), (94_000, Proof.NOT_APPLIED)]
)
def test_funding_paid_beyond_the_amount_added_still_tells(margin, proof):
    assert after(margin=margin, funding=6_000) is proof


@pytest.mark.parametrize(
    ("margin", "proof"),
    [
        (105_000, Proof.APPLIED),
        (105_300, Proof.APPLIED),
        (100_000, Proof.NOT_APPLIED),
        (100_300, Proof.NOT_APPLIED),
        (100_150, Proof.NOT_APPLIED),
        (99_999, Proof.UNCLEAR),
        (100_301, Proof.UNCLEAR),
    ],
)
def test_funding_received_may_have_gone_into_the_margin_or_not(margin, proof):
    assert after(margin=margin, funding=-300) is proof


@pytest.mark.parametrize("margin", [105_000, 106_000])
def test_funding_received_that_could_pass_for_the_amount_is_unclear(margin):
    assert after(margin=margin, funding=-6_000) is Proof.UNCLEAR


@pytest.mark.parametrize(
    ("margin", "proof"),
    [(103_000, Proof.APPLIED), (98_000, Proof.NOT_APPLIED), (100_000, Proof.UNCLEAR)],
)
def test_margin_taken_out_meanwhile_is_allowed_for(margin, proof):
    """Failure 12: the user took margin meanwhile."""
    assert after(margin=margin, cashed_in=2_000) is proof


@pytest.mark.parametrize(
    ("margin", "proof"),
    [
        (103_000, Proof.UNCLEAR),
        (104_999, Proof.UNCLEAR),
        (108_000, Proof.APPLIED),
    ],
)
def test_margin_that_the_user_added_meanwhile_never_reads_as_not_applied(margin, proof):
    """Failure 12: the user added margin meanwhile, which no field tells apart."""
    assert after(margin=margin) is proof


def test_cash_in_and_funding_together():
    assert after(margin=102_700, cashed_in=2_000, funding=300) is Proof.APPLIED
    assert after(margin=97_700, cashed_in=2_000, funding=300) is Proof.NOT_APPLIED


settlements = st.lists(st.integers(-4_000, 4_000), max_size=3)


@given(
    amount=st.integers(1, 10_000),
    settled=settlements,
    received_goes_into_the_margin=st.booleans(),
    cashed_in=st.integers(0, 5_000),
    applied=st.booleans(),
)
def test_one_funding_settlement_and_cash_in_never_lead_to_a_false_verdict(
    amount, settled, received_goes_into_the_margin, cashed_in, applied
):
    """Whatever the exchange does with funding received, the verdict is the truth or unclear."""
    settled = settled[:1]
    taken = sum(s for s in settled if s > 0 or received_goes_into_the_margin)
    before = a_state()
    running = replace(
        a_position(),
        margin=Sats(before.margin - taken - cashed_in + (amount if applied else 0)),
        funding_paid=Sats(sum(settled)),
        cashed_in=Sats(cashed_in),
    )

    proof = prove_added_margin(before, Sats(amount), running)

    assert proof in {Proof.APPLIED if applied else Proof.NOT_APPLIED, Proof.UNCLEAR}
    if all(s >= 0 for s in settled):
        assert proof is not Proof.UNCLEAR


@given(amount=st.integers(1, 10_000), settled=settlements, into_margin=st.booleans())
def test_no_number_of_settlements_makes_an_addition_that_did_not_happen_look_applied(
    amount, settled, into_margin
):
    taken = sum(s for s in settled if s > 0 or into_margin)
    running = replace(a_position(), margin=Sats(100_000 - taken), funding_paid=Sats(sum(settled)))

    assert prove_added_margin(a_state(), Sats(amount), running) is not Proof.APPLIED


# --- reductions, deposits, stop-losses ------------------------------------------------------

OWN_STOP, OWN_PROFIT, OWN_LIQUIDATION = Price(92_000.0), Price(97_000.0), Price(90_909.0)
REOPENING = Reopening(side=Side.LONG, quantity=Usd(500), stop_loss=OWN_STOP, take_profit=OWN_PROFIT)


def close_of_ours(exit_price, *, outcome=None, running=None, closed=True):
    record = an_action(
        ActionKind.REDUCE_POSITION,
        before=a_state(stop_loss=OWN_STOP, liquidation_price=OWN_LIQUIDATION),
        reopening=REOPENING,
        outcome=outcome,
    )
    shown = replace(CLOSED, exit_price=exit_price) if closed else None
    return prove_close_of_ours(record, running, shown)


def test_the_first_step_of_a_reduction_is_proved_by_the_closed_list():
    assert close_of_ours(Price(OWN_STOP + 100)) is Proof.APPLIED
    assert close_of_ours(Price(OWN_STOP + 100), running=a_position()) is Proof.NOT_APPLIED
    assert close_of_ours(None, closed=False) is Proof.UNCLEAR


@pytest.mark.parametrize(
    "own_end", [OWN_STOP, OWN_STOP - 250, OWN_PROFIT, OWN_PROFIT + 250, OWN_LIQUIDATION]
)
@pytest.mark.parametrize("outcome", [None, "ambiguous", "not_sent"])
def test_a_trade_that_ended_by_itself_is_not_opened_again(own_end, outcome):
    """Failure 11: stopped out or liquidated first."""
    assert close_of_ours(own_end, outcome=outcome) is Proof.GONE


def test_a_close_that_the_exchange_answered_is_ours_at_any_price():
    assert close_of_ours(OWN_STOP, outcome="done") is Proof.APPLIED


ORDER = CrossOrder(
    id="order-1",
    type=OrderType.MARKET,
    side=Side.SHORT,
    quantity=Usd(500),
    price=Price(92_000.0),
    trading_fee=Sats(5),
    created_at=NOON,
    filled_at=NOON,
    client_id="mg-1",
)


@pytest.mark.parametrize("running", [None, a_cross_position(), a_cross_position(quantity=Usd(7))])
def test_an_order_with_our_tag_proves_the_cut_whatever_the_position_shows(running):
    assert prove_cut(a_state(a_cross_position()), ORDER, running) is Proof.APPLIED


def test_without_the_order_only_an_unchanged_quantity_says_that_nothing_was_cut():
    before = a_state(a_cross_position())

    assert prove_cut(before, None, a_cross_position()) is Proof.NOT_APPLIED
    assert prove_cut(before, None, a_cross_position(quantity=Usd(500))) is Proof.UNCLEAR
    assert prove_cut(before, None, a_cross_position(side=Side.SHORT)) is Proof.UNCLEAR
    assert prove_cut(before, None, None) is Proof.GONE


def test_a_trade_with_our_tag_proves_the_second_step_though_it_has_ended_since():
    assert prove_reopened(a_position(), None) is Proof.APPLIED
    assert prove_reopened(None, CLOSED) is Proof.APPLIED
    assert prove_reopened(None, None) is Proof.NOT_APPLIED


def test_a_stop_loss_is_proved_by_where_it_stands():
    at_stop = a_position(stop_loss=OWN_STOP)

    assert prove_stop_loss(OWN_STOP, at_stop) is Proof.APPLIED
    assert prove_stop_loss(None, a_position()) is Proof.APPLIED
    assert prove_stop_loss(None, at_stop) is Proof.NOT_APPLIED
    assert prove_stop_loss(OWN_STOP, a_position()) is Proof.NOT_APPLIED
    assert prove_stop_loss(OWN_STOP, None) is Proof.GONE


def a_transfer(amount):
    return Transfer(id=f"transfer-{amount}", amount=Sats(amount), at=NOON)


def deposit(transfers, running):
    """Tell of a deposit of 5,000 into a cross margin of 500,000."""
    return prove_deposit(a_state(a_cross_position()), Sats(5_000), transfers, running)


OTHERS = [a_transfer(-2_000), a_transfer(4_999)]


def test_a_deposit_is_proved_by_a_transfer_of_its_amount():
    assert deposit([*OTHERS, a_transfer(5_000)], a_cross_position()) is Proof.APPLIED
    assert deposit([a_transfer(5_000)], None) is Proof.APPLIED


def test_without_such_a_transfer_nothing_was_deposited():
    grown = a_cross_position(margin=Sats(500_000 - 2_000 + 4_999))

    assert deposit([], a_cross_position()) is Proof.NOT_APPLIED
    assert deposit(OTHERS, grown) is Proof.NOT_APPLIED
    assert deposit(OTHERS, None) is Proof.GONE


def test_a_margin_that_grew_by_the_amount_without_a_transfer_is_unclear():
    """Failure 8: a wall clock that was set asks for the transfers of another time."""
    assert deposit([], a_cross_position(margin=Sats(505_000))) is Proof.UNCLEAR
    assert deposit(OTHERS, a_cross_position(margin=Sats(507_999))) is Proof.UNCLEAR
