"""How a futures contract turns a price move into money.

Everything is exact: prices are taken as the rational numbers that their floats hold, and
rounding happens once, at the end, towards safety.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from marginguard.domain.model import Side
from marginguard.domain.units import SATS_PER_BTC, Price, Usd


class Contract(Protocol):
    """The questions that the margin mathematics asks of a contract."""

    def profit_and_loss(self, *, side: Side, quantity: Usd, entry: Price, price: Price) -> int:
        """Return the profit (or loss, negative) at `price`, rounded down to a whole unit."""
        ...

    def price_at_loss(
        self, *, side: Side, quantity: Usd, entry: Price, loss: Fraction
    ) -> Fraction | None:
        """Return the price at which the position has lost `loss`, or None if none exists."""
        ...

    def loss_at(self, *, side: Side, quantity: Usd, entry: Price, price: Fraction) -> Fraction:
        """Return the exact loss (negative for a profit) at `price`."""
        ...

    def notional(self, *, quantity: Usd, entry: Price) -> Fraction:
        """Return the exact value of the position at entry: its margin at leverage 1."""
        ...


@dataclass(frozen=True, slots=True)
class InverseContract:
    """Quoted in USD, settled in BTC: LN Markets' perpetual. Money is in sats.

    Profit of a long is `quantity * 1e8 * (1/entry - 1/price)`, of a short the negative.
    """

    def profit_and_loss(self, *, side: Side, quantity: Usd, entry: Price, price: Price) -> int:
        """Return the profit (or loss, negative) at `price` in sats, rounded down."""
        # Integers instead of fractions: this runs for every position at every price.
        entry_num, entry_den = entry.as_integer_ratio()
        price_num, price_den = price.as_integer_ratio()
        numerator = quantity * SATS_PER_BTC * (price_num * entry_den - entry_num * price_den)
        return side.sign * numerator // (entry_num * price_num)

    def price_at_loss(
        self, *, side: Side, quantity: Usd, entry: Price, loss: Fraction
    ) -> Fraction | None:
        """Return `1 / (1/entry + loss/(1e8*quantity))` for a long, with minus for a short.

        A short whose denominator is zero or less never loses that much: None.
        """
        inverse = 1 / Fraction(entry) + side.sign * loss / (quantity * SATS_PER_BTC)
        return 1 / inverse if inverse > 0 else None

    def loss_at(self, *, side: Side, quantity: Usd, entry: Price, price: Fraction) -> Fraction:
        """Return the exact loss in sats at `price`."""
        return side.sign * quantity * SATS_PER_BTC * (1 / price - 1 / Fraction(entry))

    def notional(self, *, quantity: Usd, entry: Price) -> Fraction:
        """Return `quantity * 1e8 / entry` in sats."""
        return quantity * SATS_PER_BTC / Fraction(entry)


@dataclass(frozen=True, slots=True)
class LinearContract:
    """Settled in the currency it is quoted in. Money is in that currency's smallest unit.

    Profit of a long is `(price - entry) * quantity`, of a short the negative.
    """

    def profit_and_loss(self, *, side: Side, quantity: Usd, entry: Price, price: Price) -> int:
        """Return the profit (or loss, negative) at `price`, rounded down."""
        return side.sign * (Fraction(price) - Fraction(entry)) * quantity // 1

    def price_at_loss(
        self, *, side: Side, quantity: Usd, entry: Price, loss: Fraction
    ) -> Fraction | None:
        """Return `entry - loss/quantity` for a long, with plus for a short; None below zero."""
        price = Fraction(entry) - side.sign * loss / quantity
        return price if price > 0 else None

    def loss_at(self, *, side: Side, quantity: Usd, entry: Price, price: Fraction) -> Fraction:
        """Return the exact loss at `price`."""
        return side.sign * (Fraction(entry) - price) * quantity

    def notional(self, *, quantity: Usd, entry: Price) -> Fraction:
        """Return `quantity * entry`."""
        return quantity * Fraction(entry)


INVERSE: Contract = InverseContract()
LINEAR: Contract = LinearContract()
