"""Isolated trades: what opening, changing and ending one does to its figures.

Everything is pure: a trade is a frozen snapshot, each function returns the next one. Formulas
follow LN Markets' documentation of its inverse BTC/USD perpetual.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from typing import Final
from uuid import UUID

from marginguard.domain.contracts import INVERSE
from marginguard.domain.model import Side
from marginguard.domain.units import PRICE_STEP, SATS_PER_BTC, Price, Sats, Usd
from marginguard.simulator.contract import (
    MAX_LEVERAGE,
    MIN_LEVERAGE,
    Limit,
    fee,
    liquidation_price,
    refuse_off_step,
)
from marginguard.simulator.refusals import bad_request

MAX_QUANTITY: Final = Usd(500_000)


class Ending(StrEnum):
    """What ended a trade."""

    CLOSE = "close"
    STOP_LOSS = "stoploss"
    TAKE_PROFIT = "takeprofit"
    LIQUIDATION = "liquidation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Closing:
    """How a trade ended. `pl` is realised, in sats; `fee` is what closing cost."""

    ending: Ending
    at: datetime
    price: Price
    pl: Sats
    fee: Sats


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A request for a trade: either `quantity` in USD or `margin` in sats is given.

    With a `price` it waits for the market to come there, without one it fills at once.
    """

    side: Side
    leverage: Fraction
    quantity: Usd | None = None
    margin: Sats | None = None
    price: Price | None = None
    stop_loss: Price | None = None
    take_profit: Price | None = None
    client_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trade:
    """An isolated trade: open until it is filled or canceled, running until it has a `closing`.

    `maintenance_margin` is the opening fee and the reserve for the closing fee. `funding_fees`
    is what was paid less what was received. A trade with a `limit` has its figures from the
    beginning, since it fills at the limit's price. With a `trailing_distance`, a share of the
    price, the stop-loss follows the market.
    """

    id: UUID
    account: str
    side: Side
    quantity: Usd
    leverage: float
    margin: Sats
    entry_price: Price
    entry_margin: Sats
    liquidation: Price
    opening_fee: Sats
    maintenance_margin: Sats
    created_at: datetime
    filled_at: datetime | None
    client_id: str | None
    limit: Limit | None = None
    canceled_at: datetime | None = None
    stop_loss: Price | None = None
    trailing_distance: Fraction | None = None
    take_profit: Price | None = None
    funding_fees: Sats = Sats(0)
    cashed_in_pl: Sats = Sats(0)
    cashed_in_margin: Sats = Sats(0)
    closing: Closing | None = None

    @property
    def is_open(self) -> bool:
        """Whether it still waits to be filled."""
        return self.filled_at is None and self.canceled_at is None

    @property
    def is_running(self) -> bool:
        """Whether it is filled and has not ended."""
        return self.filled_at is not None and self.closing is None

    @property
    def cost(self) -> Sats:
        """What opening it takes from the balance, and canceling it gives back."""
        return Sats(self.margin + self.maintenance_margin)

    @property
    def fee_reserve(self) -> Sats:
        """The sats held back for the closing fee."""
        return Sats(self.maintenance_margin - self.opening_fee)

    def pl_at(self, price: Price) -> Sats:
        """Return the profit (or loss, negative) at `price`, rounded down."""
        return Sats(
            INVERSE.profit_and_loss(
                side=self.side, quantity=self.quantity, entry=self.entry_price, price=price
            )
        )


def open_trade(
    order: Order,
    *,
    trade_id: UUID,
    account: str,
    fill: Price,
    limit: Limit | None,
    fee_rate: Fraction,
    now: datetime,
) -> Trade:
    """Return the trade that `order` opens at the price `fill`; with a `limit` it waits for it.

    Raises `Rejected` when leverage, quantity, margin, stop-loss or take-profit is not allowed.
    """
    if not MIN_LEVERAGE <= order.leverage <= MAX_LEVERAGE:
        raise bad_request(f"Leverage must be {MIN_LEVERAGE} to {MAX_LEVERAGE}")
    quantity, margin = _size(order, fill)
    liquidation = liquidation_price(order.side, quantity, fill, margin)
    opening_fee = fee(quantity, fill, fee_rate)
    trade = Trade(
        id=trade_id,
        account=account,
        side=order.side,
        quantity=quantity,
        leverage=float(order.leverage),
        margin=margin,
        entry_price=fill,
        entry_margin=margin,
        liquidation=liquidation,
        opening_fee=opening_fee,
        maintenance_margin=Sats(opening_fee + fee(quantity, liquidation, fee_rate)),
        created_at=now,
        filled_at=now if limit is None else None,
        limit=limit,
        client_id=order.client_id,
    )
    trade = with_stop_loss(trade, order.stop_loss, last=fill)
    return with_take_profit(trade, order.take_profit, last=fill)


def leverage_of(quantity: Usd, margin: Sats, entry: Price) -> Fraction:
    """Return `quantity * 1e8 / (margin * entry)`."""
    return quantity * SATS_PER_BTC / (margin * Fraction(entry))


def with_margin(trade: Trade, margin: Sats) -> Trade:
    """Return `trade` with `margin` sats of margin, and the leverage and liquidation of that."""
    return replace(
        trade,
        margin=margin,
        leverage=float(leverage_of(trade.quantity, margin, trade.entry_price)),
        liquidation=liquidation_price(trade.side, trade.quantity, trade.entry_price, margin),
    )


def with_margin_added(trade: Trade, amount: Sats) -> Trade:
    """Return `trade` with `amount` more sats of margin; its liquidation moves away.

    Raises `Rejected` when leverage would fall below 1.
    """
    margin = Sats(trade.margin + amount)
    if leverage_of(trade.quantity, margin, trade.entry_price) < MIN_LEVERAGE:
        raise bad_request(f"Adding {amount} sats would bring leverage below {MIN_LEVERAGE}")
    return with_margin(trade, margin)


def with_stop_loss(trade: Trade, price: Price | None, *, last: Price) -> Trade:
    """Return `trade` with a stop-loss that stays where it is (None: without one).

    Raises `Rejected` unless it lies between the liquidation price (allowed) and `last`.
    """
    if price is not None:
        refuse_off_step("Stop-loss", price)
        sign = trade.side.sign
        if not sign * trade.liquidation <= sign * price < sign * last:
            raise bad_request(
                f"Stop-loss {price} is not between liquidation {trade.liquidation} and {last}"
            )
    return replace(trade, stop_loss=price, trailing_distance=None)


def with_trailing_stop(trade: Trade, distance: Fraction, *, last: Price) -> Trade:
    """Return `trade` with a stop-loss that stays `distance` (a share of the price) behind it.

    That the distance is a share is what the exchange's Python client says; how the stop moves is
    one reading of it, see `with_stop_following`. Raises `Rejected` as `with_stop_loss` does.
    """
    if not 0 < distance < 1:
        raise bad_request(f"A trailing distance must be above 0 and below 1, not {distance}")
    price = _price_behind(last, distance, trade.side)
    return replace(with_stop_loss(trade, price, last=last), trailing_distance=distance)


def with_stop_following(trade: Trade, last: Price) -> Trade:
    """Return `trade` with a trailing stop-loss moved up to the price `last`, never away from it.

    A long's stop so stands behind the highest last price since it was set, a short's behind the
    lowest. Any other trade comes back as it is.
    """
    if trade.trailing_distance is None or trade.stop_loss is None:
        return trade
    price = _price_behind(last, trade.trailing_distance, trade.side)
    sign = trade.side.sign
    return trade if sign * price <= sign * trade.stop_loss else replace(trade, stop_loss=price)


def with_take_profit(trade: Trade, price: Price | None, *, last: Price) -> Trade:
    """Return `trade` with a take-profit (None: without one).

    Raises `Rejected` unless it lies on the winning side of `last`.
    """
    if price is not None:
        refuse_off_step("Take-profit", price)
        if not trade.side.sign * price > trade.side.sign * last:
            raise bad_request(f"Take-profit {price} is not on the winning side of {last}")
    return replace(trade, take_profit=price)


def with_funding(trade: Trade, amount: Sats) -> Trade:
    """Return `trade` after it paid (negative: received) `amount` sats of funding.

    A payment comes out of the margin, of which 1 sat or more must be left; what is received
    goes to the account's balance and leaves the margin as it is.
    """
    settled = replace(trade, funding_fees=Sats(trade.funding_fees + amount))
    return with_margin(settled, Sats(trade.margin - amount)) if amount > 0 else settled


def exit_reached(trade: Trade, last: Price) -> tuple[Ending, Price] | None:
    """Return what ends `trade` at the price `last` and at which price, or None.

    The price has passed everything on its way: of stop-loss and liquidation the one nearer to
    the market ends the trade, at its own price.
    """
    sign = trade.side.sign
    if trade.take_profit is not None and sign * last >= sign * trade.take_profit:
        return Ending.TAKE_PROFIT, trade.take_profit
    stop = trade.stop_loss
    if stop is not None and sign * stop >= sign * trade.liquidation:
        return (Ending.STOP_LOSS, stop) if sign * last <= sign * stop else None
    if sign * last <= sign * trade.liquidation:
        return Ending.LIQUIDATION, trade.liquidation
    return None


def closed(
    trade: Trade, ending: Ending, price: Price, *, fee_rate: Fraction, at: datetime
) -> Trade:
    """Return `trade` ended at `price`. A liquidated trade loses exactly its margin.

    No trade loses more than its margin, and the closing fee takes no more than what is left.
    """
    if ending is Ending.LIQUIDATION:
        pl = Sats(-trade.margin)
    else:
        pl = Sats(max(-trade.margin, trade.pl_at(price)))
    left = trade.margin + pl + trade.fee_reserve
    cost = Sats(min(left, fee(trade.quantity, price, fee_rate)))
    return replace(trade, closing=Closing(ending=ending, at=at, price=price, pl=pl, fee=cost))


def payout(trade: Trade) -> Sats:
    """Return what an ended trade gives back: margin, P&L and fee reserve less the closing fee."""
    if trade.closing is None:
        raise ValueError(f"trade {trade.id} still runs")
    return Sats(trade.margin + trade.closing.pl + trade.fee_reserve - trade.closing.fee)


def _price_behind(last: Price, distance: Fraction, side: Side) -> Price:
    """Return the price so far behind `last`, on the price step that is farther away."""
    steps = Fraction(last) * (1 - side.sign * distance) / Fraction(PRICE_STEP)
    return Price((math.floor(steps) if side is Side.LONG else math.ceil(steps)) * PRICE_STEP)


def _size(order: Order, fill: Price) -> tuple[Usd, Sats]:
    if (order.quantity is None) == (order.margin is None):
        raise bad_request("Give either quantity or margin")
    if order.quantity is not None:
        quantity = order.quantity
        margin = Sats(math.floor(quantity * SATS_PER_BTC / (Fraction(fill) * order.leverage)))
    else:
        margin = order.margin or Sats(0)
        quantity = Usd(math.floor(margin * order.leverage * Fraction(fill) / SATS_PER_BTC))
    if not 1 <= quantity <= MAX_QUANTITY:
        raise bad_request(f"Quantity must be 1 to {MAX_QUANTITY} USD, not {quantity}")
    if margin < 1:
        raise bad_request("Margin must be at least 1 sat")
    return quantity, margin
