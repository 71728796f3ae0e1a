"""What becomes of a notification: pure decisions, without a clock or a queue."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from marginguard.domain.notice import Notice, NoticeKind
from marginguard.domain.notification import Notification, NotificationStatus
from marginguard.notify.channel import Action, Failed
from marginguard.notify.message import Message

_LONGEST_WAIT_S: Final = 86_400.0
"""At most so long a receiver's wish to wait is obeyed."""

_TOLD_ONE_BY_ONE: Final = frozenset({NoticeKind.ACTION_DONE, NoticeKind.ACTION_FAILED})
"""Each of these is about an amount of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutboxSettings:
    """How notifications are sent; times in seconds.

    `send_limit_s` bounds one attempt, whatever the channel does itself. A user's channel that
    fails is tried again after `first_backoff_s`, doubling up to `max_backoff_s`; one notification
    at most `max_attempts` times in all (`max_attempts_critical` for a critical one: a day). From
    `late_after_s` on a message says when it was meant. At most `capacity` notifications that are
    not critical wait. `refresh_s` is how often the store is asked for what somebody else made
    pending; on a stop what is due is still sent within `drain_timeout_s`.
    """

    send_limit_s: float = 30.0
    first_backoff_s: float = 2.0
    max_backoff_s: float = 300.0
    max_attempts: int = 12
    max_attempts_critical: int = 300
    late_after_s: float = 60.0
    capacity: int = 1_000
    refresh_s: float = 10.0
    drain_timeout_s: float = 5.0


def wait_s(failure: Failed, failures: int, settings: OutboxSettings) -> float:
    """Return how long a way is left alone that has failed so many times in a row."""
    # The exponent is bounded, since a float is not.
    backoff_s = settings.first_backoff_s * 2.0 ** min(max(failures, 1) - 1, 30)
    return max(
        min(backoff_s, settings.max_backoff_s), min(failure.retry_after_s or 0.0, _LONGEST_WAIT_S)
    )


def delivered(row: Notification, *, now: datetime) -> Notification:
    """Return the row after it has arrived."""
    return replace(
        row,
        status=NotificationStatus.DELIVERED,
        attempted_at=now,
        settled_at=now,
        revision=row.revision + 1,
    )


def failed(
    row: Notification,
    failure: Failed,
    *,
    now: datetime,
    next_in_s: float,
    settings: OutboxSettings,
) -> Notification:
    """Return the row after an attempt that failed: the last one, or the next is in so long."""
    attempts = row.attempts + 1
    limit = settings.max_attempts_critical if row.critical else settings.max_attempts
    is_last = failure.for_good or attempts >= limit
    return replace(
        row,
        status=NotificationStatus.FAILED if is_last else NotificationStatus.PENDING,
        attempts=attempts,
        attempted_at=now,
        next_attempt_at=now + timedelta(seconds=next_in_s),
        settled_at=now if is_last else None,
        last_error=failure.reason,
        action=failure.action.value,
        advice=failure.advice,
        revision=row.revision + 1,
    )


def given_up(row: Notification, reason: str, *, now: datetime) -> Notification:
    """Return the row as failed without an attempt, for a reason of ours."""
    return replace(
        row,
        status=NotificationStatus.FAILED,
        settled_at=now,
        last_error=reason,
        action=Action.WAIT.value,
        advice="nothing now; if it repeats, have fewer events told",
        revision=row.revision + 1,
    )


def held(row: Notification, until: datetime) -> Notification:
    """Return the row put off."""
    return replace(row, next_attempt_at=until, revision=row.revision + 1)


def alert_of(notice: Notice) -> tuple[str | None, ...] | None:
    """Return what a repetition of the notice has in common with it; None: it is never one."""
    if notice.kind in _TOLD_ONE_BY_ONE:
        return None
    return (
        notice.kind,
        notice.severity,
        notice.account_id,
        notice.guard_id,
        notice.position_id,
    )


def may_take_more(row: Notification) -> bool:
    """Return whether a repetition may take the row's place.

    What was attempted may have arrived: the receiver would drop another text of the same id.
    """
    return row.pending and row.attempts == 0


def repeated(row: Notification, notice: Notice) -> Notice:
    """Return the newer notice as it takes the older one's place, with their number."""
    count = _count(row.notice) + _count(notice)
    return replace(notice, id=row.id, data={**notice.data, "count": count})


def _count(notice: Notice) -> int:
    count = notice.data.get("count")
    return count if isinstance(count, int) and count > 0 else 1


def message_of(row: Notification, *, to: str, late: bool) -> Message:
    """Return what the channel sends."""
    return Message(
        id=row.id,
        kind=row.notice.kind,
        severity=row.notice.severity,
        user_id=row.user_id,
        to=to,
        subject=row.subject,
        text=row.text,
        meant_at=row.notice.at,
        html=row.html,
        payload=row.payload,
        late=late,
        late_note=row.late_note,
    )
