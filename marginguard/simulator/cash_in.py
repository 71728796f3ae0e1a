"""Taking sats out of a running isolated trade: profit first, then margin."""

import math
from dataclasses import replace
from fractions import Fraction

from marginguard.domain.model import Side
from marginguard.domain.units import PRICE_STEP, SATS_PER_BTC, Price, Sats
from marginguard.simulator.contract import MAX_LEVERAGE
from marginguard.simulator.refusals import bad_request
from marginguard.simulator.trades import Trade, leverage_of, with_margin


def with_cash_in(trade: Trade, amount: Sats, *, last: Price) -> Trade:
    """Return `trade` with `amount` sats taken out: profit first, then margin.

    Profit is taken by moving the entry price towards `last`. A stop-loss that ends up beyond
    the new liquidation price is removed. Raises `Rejected` when leverage would pass 100.
    """
    from_pl = min(amount, max(0, trade.pl_at(last)))
    entry = trade.entry_price
    if from_pl > 0:
        entry = _entry_after_taking(trade, from_pl, last)
    margin = Sats(trade.margin - (amount - from_pl))
    if margin < 1 or leverage_of(trade.quantity, margin, entry) > MAX_LEVERAGE:
        raise bad_request(f"Cashing in {amount} sats would bring leverage above {MAX_LEVERAGE}")
    taken = replace(
        trade,
        entry_price=entry,
        cashed_in_pl=Sats(trade.cashed_in_pl + from_pl),
        cashed_in_margin=Sats(trade.cashed_in_margin + amount - from_pl),
    )
    taken = with_margin(taken, margin)
    sign = trade.side.sign
    if sign * last <= sign * taken.liquidation:
        raise bad_request(f"Cashing in {amount} sats would liquidate the trade")
    if taken.stop_loss is not None and sign * taken.stop_loss < sign * taken.liquidation:
        return replace(taken, stop_loss=None)
    return taken


def _entry_after_taking(trade: Trade, amount: int, last: Price) -> Price:
    """Return the entry price that leaves `amount` sats less profit, at least, at `last`."""
    sign = trade.side.sign
    remaining = Fraction(trade.pl_at(last) - amount)
    inverse = 1 / Fraction(last) + sign * remaining / (trade.quantity * SATS_PER_BTC)
    steps = (1 / inverse) / Fraction(PRICE_STEP)
    whole = math.ceil(steps) if trade.side is Side.LONG else math.floor(steps)
    return Price(whole * PRICE_STEP)
