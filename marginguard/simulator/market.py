"""The market: last price, index, bid and ask, and the way that the price took."""

import math
from datetime import datetime

from marginguard.domain.errors import ConfigError
from marginguard.domain.model import Side
from marginguard.domain.units import PRICE_STEP, Price
from marginguard.simulator.candles import CandleBook
from marginguard.simulator.contract import refuse_off_step


class Market:
    """One market. The last price settles everything; the index equals it unless told otherwise.

    `spread` in USD lies half on each side of the last price between bid and ask, at which market
    orders fill; each half is rounded up to the price step.
    """

    def __init__(self, *, price: Price, spread: float) -> None:
        if not (math.isfinite(spread) and spread >= 0):
            raise ConfigError(f"the spread is {spread}: it must be 0 or more USD")
        refuse_off_step("Price", price)
        self.last = price
        self.index = price
        self.candles = CandleBook()
        self._half_spread = math.ceil(spread / 2 / PRICE_STEP) * PRICE_STEP

    @property
    def bid(self) -> Price:
        """The price that a market order sells at."""
        return Price(max(PRICE_STEP, self.last - self._half_spread))

    @property
    def ask(self) -> Price:
        """The price that a market order buys at."""
        return Price(self.last + self._half_spread)

    def fill_price(self, side: Side) -> Price:
        """Return the price at which a market order for `side` fills."""
        return self.ask if side is Side.LONG else self.bid

    def move(self, price: Price, index: Price | None, now: datetime) -> None:
        """Move the last price to `price` and the index to `index`, or with it if that is None.

        Raises `Rejected`, nothing changed, for what is no price.
        """
        refuse_off_step("Price", price)
        if index is not None:
            refuse_off_step("Index", index)
        self.last = price
        self.index = price if index is None else index
        self.candles.note(price, now)
