"""Contracts against the exchange's worked examples and against exact arithmetic."""

from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain.contracts import INVERSE, LINEAR
from marginguard.domain.model import Side
from marginguard.domain.units import Price, Usd
from tests.unit.strategies import prices, sides

quantities = st.integers(1, 10_000_000).map(Usd)


@pytest.mark.parametrize(
    ("side", "price", "sats"),
    [(Side.LONG, 55_000.0, 1818), (Side.LONG, 46_000.0, -1740), (Side.SHORT, 55_000.0, -1819)],
)
def test_inverse_profit_and_loss_is_the_exchanges_worked_example(side, price, sats):
    pl = INVERSE.profit_and_loss(
        side=side, quantity=Usd(10), entry=Price(50_000.0), price=Price(price)
    )

    assert pl == sats


@given(side=sides, quantity=quantities, entry=prices, price=prices)
def test_inverse_profit_and_loss_is_exact_arithmetic_rounded_down(side, quantity, entry, price):
    exact = side.sign * quantity * 10**8 * (1 / Fraction(entry) - 1 / Fraction(price))

    pl = INVERSE.profit_and_loss(side=side, quantity=quantity, entry=entry, price=price)

    assert pl == floor(exact)
    assert (
        INVERSE.loss_at(side=side, quantity=quantity, entry=entry, price=Fraction(price)) == -exact
    )


@given(side=sides, quantity=quantities, entry=prices, price=prices)
def test_linear_profit_and_loss_is_exact_arithmetic_rounded_down(side, quantity, entry, price):
    exact = side.sign * quantity * (Fraction(price) - Fraction(entry))

    pl = LINEAR.profit_and_loss(side=side, quantity=quantity, entry=entry, price=price)

    assert pl == floor(exact)
    assert type(pl) is int
    assert (
        LINEAR.loss_at(side=side, quantity=quantity, entry=entry, price=Fraction(price)) == -exact
    )


@pytest.mark.parametrize("contract", [INVERSE, LINEAR])
@given(side=sides, quantity=quantities, entry=prices, loss=st.fractions(0, 10**12))
def test_the_price_at_a_loss_inverts_the_loss_at_a_price(contract, side, quantity, entry, loss):
    price = contract.price_at_loss(side=side, quantity=quantity, entry=entry, loss=loss)

    if price is not None:
        assert price > 0
        assert contract.loss_at(side=side, quantity=quantity, entry=entry, price=price) == loss


@given(quantity=quantities, entry=prices, share=st.fractions(0, 3))
def test_an_inverse_short_never_loses_its_notional_value_or_more(quantity, entry, share):
    notional = INVERSE.notional(quantity=quantity, entry=entry)

    price = INVERSE.price_at_loss(
        side=Side.SHORT, quantity=quantity, entry=entry, loss=share * notional
    )

    assert (price is None) == (share >= 1)


@given(quantity=quantities, entry=prices, share=st.fractions(0, 3))
def test_a_linear_long_never_loses_its_notional_value_or_more(quantity, entry, share):
    notional = LINEAR.notional(quantity=quantity, entry=entry)

    price = LINEAR.price_at_loss(
        side=Side.LONG, quantity=quantity, entry=entry, loss=share * notional
    )

    assert (price is None) == (share >= 1)


def test_the_notional_value_is_in_the_settlement_currency():
    assert INVERSE.notional(quantity=Usd(1_000), entry=Price(100_000.0)) == 1_000_000
    assert LINEAR.notional(quantity=Usd(3), entry=Price(100.5)) == Fraction(603, 2)


@pytest.mark.parametrize(
    ("side", "price"), [(Side.LONG, 90), (Side.SHORT, 110)], ids=["long", "short"]
)
def test_a_linear_liquidation_is_entry_less_or_plus_margin_over_quantity(side, price):
    assert (
        LINEAR.price_at_loss(side=side, quantity=Usd(5), entry=Price(100.0), loss=Fraction(50))
        == price
    )
