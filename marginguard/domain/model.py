"""The things that a guard looks at: positions, accounts, prices."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from marginguard.domain.units import (
    AccountId,
    GuardId,
    Percent,
    PositionId,
    Price,
    Sats,
    Usd,
)


class Side(StrEnum):
    """The direction of a position."""

    LONG = "long"
    SHORT = "short"

    @property
    def sign(self) -> int:
        """+1 for a long, -1 for a short."""
        return 1 if self is Side.LONG else -1


class MarginMode(StrEnum):
    """Whether a position has its own margin or shares the account's cross margin."""

    ISOLATED = "isolated"
    CROSS = "cross"


class RiskLevel(StrEnum):
    """How close a position is to liquidation, by its margin level."""

    SAFE = "safe"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class ActionKind(StrEnum):
    """A protective step that a guard can take on a position.

    `set_stop_loss` is the guard's own: nobody asks for it as an action, the backstop needs it.
    """

    CLOSE_POSITION = "close_position"
    REDUCE_POSITION = "reduce_position"
    ADD_MARGIN = "add_margin"
    INCREASE_LIQUIDATION_DISTANCE = "increase_liquidation_distance"
    SET_STOP_LOSS = "set_stop_loss"

    @property
    def spends(self) -> bool:
        """Whether the step takes sats from the account's balance."""
        return self in {ActionKind.ADD_MARGIN, ActionKind.INCREASE_LIQUIDATION_DISTANCE}

    @property
    def protects(self) -> bool:
        """Whether the step answers a breach, and not only prepares for one."""
        return self is not ActionKind.SET_STOP_LOSS


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A running position as the exchange reports it.

    `margin` excludes `maintenance_margin` on an isolated trade and includes it on the cross
    position. `pl` and `liquidation_price` are the exchange's own figures. `funding_paid` is the
    net of all funding (negative when more was received), `cashed_in` what was taken out of the
    margin, profit not counted; both only ever matter as differences between two reads of one
    position. `trailing_stop` says that `stop_loss` follows the market by itself.

    On the cross position `entry_margin` is the margin that its leverage asks for at entry,
    `cashed_in` is always 0 (see the transfers), and whether `pl` counts what was realised before
    is not documented: nothing may rest on it.
    """

    id: PositionId
    mode: MarginMode
    side: Side
    quantity: Usd
    entry_price: Price
    margin: Sats
    maintenance_margin: Sats
    leverage: float
    pl: Sats
    liquidation_price: Price | None
    stop_loss: Price | None
    take_profit: Price | None
    entry_margin: Sats
    funding_paid: Sats
    cashed_in: Sats
    client_id: str | None
    trailing_stop: bool = False

    @property
    def buffer(self) -> Sats:
        """The sats that a loss may eat before the position is liquidated."""
        if self.mode is MarginMode.CROSS:
            return Sats(self.margin - self.maintenance_margin)
        return self.margin


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedTrade:
    """A position that no longer runs: an isolated trade, or the cross position.

    `pl` is the realised profit or loss, None for the cross position: the order that closed it
    does not tell. `margin` is what it had at its end, None where that is not told. `client_id` is
    the tag that the trade was opened with. `liquidated` is None where the exchange does not say
    it outright: of isolated trades; see `ending`.
    """

    id: PositionId
    exit_price: Price | None
    pl: Sats | None
    closed_at: datetime | None
    client_id: str | None = None
    margin: Sats | None = None
    liquidated: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NewTrade:
    """An isolated trade to open at the market, found again by its `client_id`."""

    side: Side
    quantity: Usd
    leverage: float
    client_id: str
    stop_loss: Price | None = None
    take_profit: Price | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingTrade:
    """An isolated limit order that was never filled: it waits, or it was canceled."""

    id: PositionId
    side: Side
    quantity: Usd
    price: Price
    margin: Sats
    leverage: float
    stop_loss: Price | None
    take_profit: Price | None
    canceled: bool
    created_at: datetime
    client_id: str | None


class OrderType(StrEnum):
    """What made an order on the cross position; a `liquidation` is the exchange's own."""

    MARKET = "market"
    LIMIT = "limit"
    LIQUIDATION = "liquidation"


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossOrder:
    """An order on the cross position: it waits, or was filled at `filled_at`.

    `side` is what it buys (long) or sells (short); `trading_fee` is in sats, 0 until filled.
    """

    id: str
    type: OrderType
    side: Side
    quantity: Usd
    price: Price
    trading_fee: Sats
    created_at: datetime
    filled_at: datetime | None
    client_id: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """Sats moved from the balance into the cross margin (`amount` above 0), or back (below)."""

    id: str
    amount: Sats
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class FundingFee:
    """Funding that the cross position paid (`fee` above 0) or received (below), in sats."""

    settlement_id: str
    fee: Sats
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class FundingSettlement:
    """One settlement of funding: `rate` of the position's value at `fixing_price`.

    A positive rate is paid by longs to shorts.
    """

    id: str
    rate: float
    fixing_price: Price
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Candle:
    """The last price over a span of time that begins at `opened_at`; `volume` is in USD."""

    opened_at: datetime
    open: Price
    high: Price
    low: Price
    close: Price
    volume: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """What an account can spend: `available` sats outside of any margin."""

    account_id: AccountId
    available: Sats


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceQuote:
    """The last price, which settles P&L and liquidation.

    `index` is None where it is not known. `received_s` is monotonic seconds, so that its age
    survives a jump of the wall clock.
    `confirmed` is False for a jump that nothing has borne out yet: closing may act on it,
    spending may not.
    """

    last: Price
    index: Price | None
    received_s: float
    confirmed: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    """A position at a price: how much of its margin is used up, and where it ends.

    `trigger_price` is where the level reaches the guard's threshold, and None for a position
    that no guard covers or for a short that never gets there.
    """

    position: Position
    price: Price
    level: Percent
    risk: RiskLevel
    liquidation_price: Price | None
    liquidation_distance: Percent | None
    trigger_price: Price | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """A running position as it was seen, and who looks after it.

    `guard_id` is None where no armed guard does. `backstop` is the stop-loss on the exchange that
    stands at the guard's backstop or nearer to the market, and None where there is none.
    `original_margin` is set on a trade that a reduction reopened: what the first one began with.
    """

    assessment: Assessment
    guard_id: GuardId | None
    backstop: Price | None = None
    original_margin: Sats | None = None
