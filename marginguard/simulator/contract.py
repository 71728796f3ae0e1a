"""What isolated trades and the cross position have in common: fees, funding, liquidation, limits.

Formulas follow LN Markets' documentation of its inverse BTC/USD perpetual. Where a sat cannot be
split it goes to the exchange: P&L is rounded down, a funding payment up.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from marginguard.domain.contracts import INVERSE
from marginguard.domain.margin import to_price_step
from marginguard.domain.model import Side
from marginguard.domain.units import PRICE_STEP, SATS_PER_BTC, Price, Sats, Usd
from marginguard.simulator.refusals import bad_request

MIN_LEVERAGE: Final = 1
MAX_LEVERAGE: Final = 100
MAX_PRICE: Final = Price(100_000_000.0)
"""The highest price there is; the liquidation price of a short that has none in practice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """The price at which an order fills, and from where the market has to come to reach it.

    An order may wait above the market or below it, whatever its side.
    """

    price: Price
    market_rises: bool

    @classmethod
    def placed(cls, price: Price, *, last: Price) -> "Limit":
        """Return the limit of an order placed while the last price is `last`.

        Raises `Rejected` for what is no price.
        """
        refuse_off_step("Price", price)
        return cls(price=price, market_rises=price > last)

    def reached_at(self, last: Price) -> bool:
        """Return whether the market has come to the limit, or beyond it, at the price `last`."""
        return last >= self.price if self.market_rises else last <= self.price


def opposite(side: Side) -> Side:
    """Return the side whose order closes a position on `side`."""
    return Side.SHORT if side is Side.LONG else Side.LONG


def liquidation_price(side: Side, quantity: Usd, entry: Price, buffer: Sats) -> Price:
    """Return the price at which the loss equals `buffer`, to the nearest half dollar."""
    exact = INVERSE.price_at_loss(side=side, quantity=quantity, entry=entry, loss=Fraction(buffer))
    return MAX_PRICE if exact is None else min(MAX_PRICE, to_price_step(exact))


def fee(quantity: Usd, price: Price, rate: Fraction) -> Sats:
    """Return the fee of one fill: `floor(1e8 * rate * quantity / price)` sats."""
    return Sats(math.floor(rate * quantity * SATS_PER_BTC / Fraction(price)))


def funding_fee(side: Side, quantity: Usd, *, rate: Fraction, price: Price) -> Sats:
    """Return what a position pays (negative: receives) in sats: `quantity/price * rate` of a BTC.

    A long pays a positive rate, a short a negative one.
    """
    return Sats(math.ceil(side.sign * quantity * SATS_PER_BTC * rate / Fraction(price)))


def refuse_off_step(name: str, price: Price) -> None:
    """Raise `Rejected` unless `price` is above 0, not above the highest, and on the price step."""
    if not 0 < price <= MAX_PRICE or price % PRICE_STEP:
        raise bad_request(
            f"{name} must be above 0, at most {MAX_PRICE:.0f}, in steps of {PRICE_STEP},"
            f" not {price}"
        )
