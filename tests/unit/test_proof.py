"""How a read tells whether an action took effect.

Failure 2: an addition of margin that timed out is told by the margin net of funding and cash-in;
what cannot be told is not guessed.
"""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain.model import ClosedTrade
from marginguard.domain.proof import Proof, prove_added_margin, prove_close
from marginguard.domain.units import PositionId, Price, Sats
from tests.unit.strategies import NOON, a_position, a_state

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
