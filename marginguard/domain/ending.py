"""How a position came to its end, as far as its last figures and the closed trade tell."""

from dataclasses import dataclass
from enum import StrEnum

from marginguard.domain import margin
from marginguard.domain.model import ClosedTrade, Position
from marginguard.domain.units import CROSS, PRICE_STEP, Price


class Ending(StrEnum):
    """What ended a position. `closed`: an order of somebody's, as far as can be told."""

    LIQUIDATED = "liquidated"
    STOP_LOSS = "stop_loss"
    TAKE_PROFIT = "take_profit"
    CLOSED = "closed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Vanished:
    """A position that no longer runs: `position` as it was last read.

    `backstop` says that its stop-loss was a guard's. `told` says that its end is spoken of
    already, so that only a liquidation is news.
    """

    position: Position
    backstop: bool = False
    told: bool = False


def ending_of(position: Position, closed: ClosedTrade) -> Ending:
    """Return what ended `position`, which was last read before it was `closed`.

    The exchange says it of an order on the cross position alone. An isolated trade that has lost
    its whole margin was liquidated. One that left the market at its stop-loss or beyond was
    stopped out: nobody could have closed it there before the stop-loss did.
    """
    if closed.liquidated is not None:
        return Ending.LIQUIDATED if closed.liquidated else Ending.CLOSED
    held = position.margin if closed.margin is None else closed.margin
    if position.id != CROSS and closed.pl is not None and closed.pl <= -held:
        return Ending.LIQUIDATED
    if closed.exit_price is None:
        return Ending.CLOSED
    sign, exit_price = position.side.sign, closed.exit_price
    if position.stop_loss is not None and sign * (exit_price - position.stop_loss) <= 0:
        return Ending.STOP_LOSS
    if _is_at_liquidation(position, exit_price):
        return Ending.LIQUIDATED
    if position.take_profit is not None and sign * (exit_price - position.take_profit) >= 0:
        return Ending.TAKE_PROFIT
    return Ending.CLOSED


def _is_at_liquidation(position: Position, exit_price: Price) -> bool:
    liquidation = margin.liquidation_price(position)
    if liquidation is None:
        return False
    # The exchange rounds it to its price step.
    return position.side.sign * (exit_price - liquidation) <= PRICE_STEP
