"""What the owner is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from marginguard.domain.units import AccountId, GuardId, PositionId


class NoticeKind(StrEnum):
    """What happened."""

    ACTION_DONE = "action_done"
    ACTION_FAILED = "action_failed"
    EXECUTION_FAILED = "execution_failed"
    THRESHOLD_REACHED = "threshold_reached"
    UNPROTECTED = "unprotected"
    GUARD_DISARMED = "guard_disarmed"
    GUARD_DEGRADED = "guard_degraded"
    GUARD_ARMED = "guard_armed"
    POSITION_NOT_COVERED = "position_not_covered"
    POSITION_GONE = "position_gone"
    POSITION_OPENED = "position_opened"
    POSITION_CHANGED = "position_changed"


class Severity(StrEnum):
    """How urgent it is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """One thing to tell. `text` is one plain sentence or two, with the next step.

    `id` lets a receiver drop a notice that it gets twice; `data` holds the figures.
    """

    id: UUID
    kind: NoticeKind
    severity: Severity
    text: str
    at: datetime
    guard_id: GuardId | None = None
    account_id: AccountId | None = None
    position_id: PositionId | None = None
    execution_id: UUID | None = None
    data: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
