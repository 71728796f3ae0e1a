"""What the owner is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final
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
    POSITION_LIQUIDATED = "position_liquidated"
    RISK_RISING = "risk_rising"
    BALANCE_LOW = "balance_low"
    BUDGET_SPENT = "budget_spent"
    CREDENTIALS_REFUSED = "credentials_refused"
    CLOCK_OFF = "clock_off"
    RECOVERED = "recovered"
    DAEMON_STARTED = "daemon_started"
    DAEMON_STOPPED = "daemon_stopped"
    CONFIG_RELOADED = "config_reloaded"
    CONFIG_REFUSED = "config_refused"
    TEST = "test"


class Event(StrEnum):
    """What a user asks to be told of: several kinds of notices under one name."""

    EXECUTION_SUCCEEDED = "execution_succeeded"
    EXECUTION_FAILED = "execution_failed"
    THRESHOLD_ALERT = "threshold_alert"
    ACCOUNT_WARNING = "account_warning"
    POSITION_ENDED = "position_ended"
    POSITION_CHANGED = "position_changed"
    DAEMON = "daemon"
    RECOVERED = "recovered"
    TEST = "test"


EVENT_OF: Final[Mapping[NoticeKind, Event]] = MappingProxyType(
    {
        NoticeKind.ACTION_DONE: Event.EXECUTION_SUCCEEDED,
        NoticeKind.ACTION_FAILED: Event.EXECUTION_FAILED,
        NoticeKind.EXECUTION_FAILED: Event.EXECUTION_FAILED,
        NoticeKind.THRESHOLD_REACHED: Event.THRESHOLD_ALERT,
        NoticeKind.UNPROTECTED: Event.THRESHOLD_ALERT,
        NoticeKind.RISK_RISING: Event.THRESHOLD_ALERT,
        NoticeKind.GUARD_DISARMED: Event.ACCOUNT_WARNING,
        NoticeKind.GUARD_DEGRADED: Event.ACCOUNT_WARNING,
        NoticeKind.POSITION_NOT_COVERED: Event.ACCOUNT_WARNING,
        NoticeKind.BALANCE_LOW: Event.ACCOUNT_WARNING,
        NoticeKind.BUDGET_SPENT: Event.ACCOUNT_WARNING,
        NoticeKind.CREDENTIALS_REFUSED: Event.ACCOUNT_WARNING,
        NoticeKind.CLOCK_OFF: Event.ACCOUNT_WARNING,
        NoticeKind.POSITION_GONE: Event.POSITION_ENDED,
        NoticeKind.POSITION_LIQUIDATED: Event.POSITION_ENDED,
        NoticeKind.POSITION_OPENED: Event.POSITION_CHANGED,
        NoticeKind.POSITION_CHANGED: Event.POSITION_CHANGED,
        NoticeKind.GUARD_ARMED: Event.RECOVERED,
        NoticeKind.RECOVERED: Event.RECOVERED,
        NoticeKind.DAEMON_STARTED: Event.DAEMON,
        NoticeKind.DAEMON_STOPPED: Event.DAEMON,
        NoticeKind.CONFIG_RELOADED: Event.DAEMON,
        NoticeKind.CONFIG_REFUSED: Event.DAEMON,
        NoticeKind.TEST: Event.TEST,
    }
)


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
