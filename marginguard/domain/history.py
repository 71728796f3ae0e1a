"""The record as it is read back to find out what happened: a few figures of each row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from marginguard.domain.errors import ErrorType
from marginguard.domain.notice import Severity
from marginguard.domain.notification import NotificationStatus
from marginguard.domain.records import ExecutionStatus
from marginguard.domain.units import GuardId, Percent, PositionId, Price, Sats


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """How one execution went. `phases` says how many seconds each phase took.

    `error_code` is open-ended: another version may have written codes that this one lacks.
    """

    id: UUID
    guard_id: GuardId
    status: ExecutionStatus
    started_at: datetime
    duration_s: float
    error_code: str | None = None
    error_type: ErrorType | None = None
    error: str | None = None
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """How telling one user of one notice on one channel went.

    `last_error` says why the newest attempt that failed did, `advice` what to do about it, and
    `action` is the stable name of that.
    """

    id: UUID
    user_id: str
    channel: str
    kind: str
    severity: Severity
    status: NotificationStatus
    attempts: int
    created_at: datetime
    settled_at: datetime | None
    subject: str
    last_error: str | None = None
    action: str | None = None
    advice: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelSample:
    """A position's margin level (per cent) and what it was worked out from, at one moment."""

    position_id: PositionId
    guard_id: GuardId | None
    seen_at: datetime
    price: Price
    margin: Sats
    pl: Sats
    level: Percent
