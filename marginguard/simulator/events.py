"""What happens on the exchange, told to whoever watches: the source of the stream's pushes."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from marginguard.domain.units import Price, Sats
from marginguard.simulator.cross import CrossPosition
from marginguard.simulator.orders import CrossOrder
from marginguard.simulator.trades import Ending, Trade


class TradeEvent(StrEnum):
    """What happened to an isolated trade, in the stream's words."""

    OPEN = "open"
    FILLED = "filled"
    CLOSED = "closed"
    CANCELED = "canceled"
    LIQUIDATION = "liquidation"
    STOP_LOSS = "stoploss"
    TAKE_PROFIT = "takeprofit"

    @classmethod
    def of(cls, ending: Ending) -> "TradeEvent":
        """Return the event of a trade that ended like this."""
        return cls.CLOSED if ending is Ending.CLOSE else cls(ending.value)


class CrossEvent(StrEnum):
    """What happened to a cross position, in the stream's words."""

    NEW = "new"
    LIMIT = "limit"
    CANCEL = "cancel"
    LEVERAGE = "leverage"
    DEPOSIT = "deposit"
    WITHDRAW = "withdraw"
    LIQUIDATION = "liquidation"
    FUNDING = "funding"


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceMoved:
    """The last price, and with it index, bid and ask, changed."""

    price: Price
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class TradeChanged:
    """A limit trade was placed or canceled, or a trade filled or ended; `trade` is the result."""

    event: TradeEvent
    trade: Trade
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class TradeFunded:
    """A running trade paid (negative: received) `fee` sats of funding; `trade` is the result."""

    trade: Trade
    fee: Sats
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossOrderChanged:
    """An order on a cross position was placed, filled or canceled; `order` is the result."""

    order: CrossOrder
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossChanged:
    """A cross position changed, or an order on it was placed or canceled; this is the result."""

    event: CrossEvent
    position: CrossPosition
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class FundingSettled:
    """Funding was settled at `rate` for everybody."""

    rate: float
    at: datetime


Event = PriceMoved | TradeChanged | TradeFunded | CrossOrderChanged | CrossChanged | FundingSettled
Observer = Callable[[Event], None]
"""Is told of every event after it took effect. It must not command the exchange, nor raise."""
