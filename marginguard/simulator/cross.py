"""The cross position: what an order, a transfer, funding and liquidation do to its figures.

Everything is pure: a position is a frozen snapshot, each function returns the next one. Margins
follow LN Markets' Rust SDK: `floor(notional * 0.0015)` for maintenance and
`floor(notional / leverage)` for running, where the notional is `quantity * 1e8 / entry` sats.
What a losing reduction does is known from one source only, so that both ways are here.
"""

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Final
from uuid import UUID

from marginguard.domain.contracts import INVERSE
from marginguard.domain.margin import to_price_step
from marginguard.domain.model import Side
from marginguard.domain.units import PRICE_STEP, Price, Sats, Usd
from marginguard.simulator.contract import (
    MAX_LEVERAGE,
    MAX_PRICE,
    MIN_LEVERAGE,
    fee,
    funding_fee,
    liquidation_price,
)
from marginguard.simulator.refusals import bad_request

MAINTENANCE_RATE: Final = Fraction(15, 10_000)
UNTOUCHED: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""When a position was updated that nothing was ever done to."""

_MAX_QUANTITY_AT_LEVERAGE_1: Final = 15_000_000
_MAX_QUANTITY_AT_LEVERAGE_100: Final = 10_000_000
_QUANTITY_STEP: Final = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossPosition:
    """One account's net position: `quantity` in USD is above 0 for a long, below for a short.

    Flat it has no entry price, and may hold margin. `trading_fees`, `funding_fees` (paid less
    received) and `realised_pl` are sums since the account was made. `price_at_update` is the
    last price when it was `updated_at`.
    """

    id: UUID
    account: str
    leverage: int = MIN_LEVERAGE
    margin: Sats = Sats(0)
    quantity: int = 0
    entry_price: Price | None = None
    trading_fees: Sats = Sats(0)
    funding_fees: Sats = Sats(0)
    realised_pl: Sats = Sats(0)
    updated_at: datetime = UNTOUCHED
    price_at_update: Price | None = None

    @property
    def side(self) -> Side:
        """The direction; long for a flat position."""
        return Side.LONG if self.quantity >= 0 else Side.SHORT

    @property
    def size(self) -> Usd:
        """The quantity without its sign."""
        return Usd(abs(self.quantity))

    @property
    def notional(self) -> Fraction:
        """The value at entry in sats; 0 for a flat position."""
        if self.entry_price is None:
            return Fraction(0)
        return INVERSE.notional(quantity=self.size, entry=self.entry_price)

    @property
    def running_margin(self) -> Sats:
        """The margin that the quantity needs at this leverage."""
        return Sats(math.floor(self.notional / self.leverage))

    @property
    def maintenance_margin(self) -> Sats:
        """The margin that a loss may not touch."""
        return Sats(math.floor(self.notional * MAINTENANCE_RATE))

    @property
    def liquidation(self) -> Price | None:
        """The price at which the loss equals the margin less maintenance; None when flat."""
        if self.entry_price is None:
            return None
        buffer = Sats(self.margin - self.maintenance_margin)
        return liquidation_price(self.side, self.size, self.entry_price, buffer)

    def pl_at(self, price: Price) -> Sats:
        """Return the profit (or loss, negative) at `price`, rounded down; 0 when flat."""
        if self.entry_price is None:
            return Sats(0)
        return Sats(
            INVERSE.profit_and_loss(
                side=self.side, quantity=self.size, entry=self.entry_price, price=price
            )
        )

    def free_margin(self, price: Price) -> Sats:
        """Return what is left of the margin at `price` after a loss and what the position needs.

        A profit that is not booked counts for nothing.
        """
        needed = self.running_margin + self.maintenance_margin
        return Sats(self.margin + min(0, self.pl_at(price)) - needed)

    def is_liquidated_at(self, price: Price) -> bool:
        """Return whether `price` has reached the liquidation price or gone beyond it."""
        liquidation = self.liquidation
        return liquidation is not None and self.side.sign * price <= self.side.sign * liquidation


def max_quantity(leverage: int) -> Usd:
    """Return the largest quantity at `leverage`, in USD.

    It falls evenly from 15,000,000 at leverage 1 to 10,000,000 at 100, rounded up to 5 USD.
    """
    fall = _MAX_QUANTITY_AT_LEVERAGE_1 - _MAX_QUANTITY_AT_LEVERAGE_100
    share = Fraction(leverage - MIN_LEVERAGE, MAX_LEVERAGE - MIN_LEVERAGE)
    exact = _MAX_QUANTITY_AT_LEVERAGE_1 - share * fall
    return Usd(math.ceil(exact / _QUANTITY_STEP) * _QUANTITY_STEP)


def with_fill(
    position: CrossPosition,
    *,
    side: Side,
    quantity: Usd,
    price: Price,
    fee_rate: Fraction,
    losing_reduction_books_loss: bool,
) -> CrossPosition:
    """Return `position` after `quantity` USD were filled for `side` at `price`; the fee is paid.

    What closes or reverses the position books its P&L into the margin, and so does what reduces
    it in profit. A losing reduction either books its loss too, or leaves the margin as it is
    and carries the loss in the entry price of what remains. No fill takes more than the margin.
    """
    change = side.sign * quantity
    rest = position.quantity + change
    if position.quantity * change >= 0:
        entry = _entry_after_adding(position, change, price)
        filled = replace(position, quantity=rest, entry_price=entry)
    elif position.quantity * rest > 0:
        filled = _reduced(position, rest, price, books_loss=losing_reduction_books_loss)
    else:
        booked = _booked(position, position.pl_at(price))
        filled = replace(booked, quantity=rest, entry_price=price if rest else None)
    cost = min(filled.margin, fee(quantity, price, fee_rate))
    return replace(
        filled,
        margin=Sats(filled.margin - cost),
        trading_fees=Sats(filled.trading_fees + cost),
    )


def refuse_too_large(position: CrossPosition) -> None:
    """Raise `Rejected` if `position` is larger than its leverage allows."""
    most = max_quantity(position.leverage)
    if position.size > most:
        raise bad_request(
            f"Quantity {position.size} is above the {most} USD allowed at leverage"
            f" {position.leverage}"
        )


def refuse_uncovered(position: CrossPosition, price: Price) -> None:
    """Raise `Rejected` unless the margin is more than the position needs, see `free_margin`."""
    free = position.free_margin(price)
    if position.quantity and free <= 0:
        raise bad_request(
            f"Margin too low: more than {position.margin - free} sats needed,"
            f" {position.margin} held"
        )


def with_margin(position: CrossPosition, change: Sats) -> CrossPosition:
    """Return `position` with `change` sats more (negative: less) margin."""
    return replace(position, margin=Sats(position.margin + change))


def with_leverage(position: CrossPosition, leverage: int) -> CrossPosition:
    """Return `position` at `leverage`; raises `Rejected` unless it is 1 to 100."""
    if not MIN_LEVERAGE <= leverage <= MAX_LEVERAGE:
        raise bad_request(f"Leverage must be a whole number, {MIN_LEVERAGE} to {MAX_LEVERAGE}")
    return replace(position, leverage=leverage)


def with_funding(position: CrossPosition, *, rate: Fraction, price: Price) -> CrossPosition:
    """Return `position` after it paid funding out of its margin, or received it into it.

    It pays no more than its margin.
    """
    due = funding_fee(position.side, position.size, rate=rate, price=price)
    paid = Sats(min(position.margin, due))
    return replace(
        position,
        margin=Sats(position.margin - paid),
        funding_fees=Sats(position.funding_fees + paid),
    )


def liquidated(position: CrossPosition) -> CrossPosition:
    """Return `position` flat, its margin lost."""
    return replace(_booked(position, Sats(-position.margin)), quantity=0, entry_price=None)


def _reduced(
    position: CrossPosition, rest: int, price: Price, *, books_loss: bool
) -> CrossPosition:
    remaining = replace(position, quantity=rest)
    closed = replace(position, quantity=position.quantity - rest)
    realised = closed.pl_at(price)
    if realised < 0 and not books_loss:
        entry = _entry_carrying_the_loss(position, rest, price)
        if entry is not None:
            return replace(remaining, entry_price=entry)
    return _booked(remaining, realised)


def _entry_after_adding(position: CrossPosition, change: int, price: Price) -> Price:
    """Return the entry price weighted by inverse price."""
    if position.entry_price is None:
        return price
    weight = Fraction(position.quantity) / Fraction(position.entry_price)
    weight += Fraction(change) / Fraction(price)
    return to_price_step((position.quantity + change) / weight)


def _entry_carrying_the_loss(position: CrossPosition, rest: int, price: Price) -> Price | None:
    """Return the entry at which `rest` has lost at `price` what the whole position has lost.

    None where no price is that entry: so little remains that it cannot carry the loss.
    """
    if position.entry_price is None:
        raise ValueError("a flat position has no loss to carry")
    at_price = 1 / Fraction(price)
    loss = 1 / Fraction(position.entry_price) - at_price
    inverse = at_price + loss * Fraction(position.quantity, rest)
    if not 1 / Fraction(MAX_PRICE) <= inverse <= 1 / Fraction(PRICE_STEP):
        return None
    return to_price_step(1 / inverse)


def _booked(position: CrossPosition, pl: Sats) -> CrossPosition:
    booked = max(Sats(-position.margin), pl)
    return replace(
        position,
        margin=Sats(position.margin + booked),
        realised_pl=Sats(position.realised_pl + booked),
    )
