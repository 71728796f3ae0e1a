"""Orders on the cross position, and the sats moved into it and out of it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats, Usd
from marginguard.simulator.contract import Limit


class OrderType(StrEnum):
    """How an order came about."""

    MARKET = "market"
    LIMIT = "limit"
    LIQUIDATION = "liquidation"


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossRequest:
    """A request for `quantity` USD on one side: at the market, or at `price` once it is reached."""

    side: Side
    quantity: Usd
    price: Price | None = None
    client_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossOrder:
    """An order on the cross position: open until it is filled or canceled.

    `price` is where it filled, or will; `trading_fee` is what its fill cost, in sats.
    """

    id: UUID
    account: str
    type: OrderType
    side: Side
    quantity: Usd
    price: Price
    created_at: datetime
    client_id: str | None
    limit: Limit | None = None
    trading_fee: Sats = Sats(0)
    filled_at: datetime | None = None
    canceled_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether it still waits to be filled."""
        return self.filled_at is None and self.canceled_at is None


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """Sats moved from the balance into the cross margin (`amount` above 0), or back (below)."""

    id: UUID
    time: datetime
    amount: Sats
