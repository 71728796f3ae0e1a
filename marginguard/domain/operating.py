"""What an operator sees of a running daemon, and may ask of it."""

from dataclasses import dataclass
from datetime import datetime

from marginguard.domain.model import RiskLevel
from marginguard.domain.pause import LONGEST_PAUSE, Pause
from marginguard.domain.records import ArmedState
from marginguard.domain.units import AccountId, GuardId, Percent, PositionId, Price

__all__ = ["LONGEST_PAUSE", "GuardNow", "Overview", "Pause", "PositionNow"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardNow:
    """A guard as it is at this moment; `looked_at` None where it has not looked yet."""

    guard_id: GuardId
    account_id: AccountId
    armed: ArmedState
    reason: str
    since: datetime
    looked_at: datetime | None
    pause: Pause | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionNow:
    """A position as it was last seen; `guard_id` None where no armed guard covers it."""

    position_id: PositionId
    account_id: AccountId
    guard_id: GuardId | None
    level: Percent
    risk: RiskLevel
    price: Price
    liquidation_price: Price | None
    seen_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """The running daemon at one moment; `protected` says in one sentence whether it guards."""

    at: datetime
    protected: str
    guards: tuple[GuardNow, ...]
    positions: tuple[PositionNow, ...]
