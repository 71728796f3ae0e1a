"""A notice on its way to one user on one channel, and how far it has come."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

from marginguard.domain.notice import Notice, Severity

FAILING_AFTER: Final = 2
"""After how many failed attempts the way is taken to be shut, until something arrives."""


class NotificationStatus(StrEnum):
    """How far it has come; the last two are final."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class NotificationKey(NamedTuple):
    """What a notification is told apart by: the notice's id, the user and the channel."""

    id: UUID
    user_id: str
    channel: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Notification:
    """One row of the outbox. It holds no address: that is the configuration's, when it is sent.

    `subject`, `text`, `html`, `payload` (JSON) and `late_note` are what was rendered for the
    channel. `attempts` counts those that failed; the next is not made before `next_attempt_at`.
    Where the last one failed, `last_error` says why and `advice` what to do, `action` being the
    stable name of that. `revision` grows with every change: an older one never replaces a newer.
    """

    id: UUID
    user_id: str
    channel: str
    notice: Notice
    subject: str
    text: str
    created_at: datetime
    next_attempt_at: datetime
    html: str | None = None
    payload: Mapping[str, Any] | None = None
    late_note: str = ""
    status: NotificationStatus = NotificationStatus.PENDING
    attempts: int = 0
    attempted_at: datetime | None = None
    settled_at: datetime | None = None
    last_error: str | None = None
    action: str | None = None
    advice: str | None = None
    revision: int = 0

    @property
    def key(self) -> NotificationKey:
        """What it is told apart by."""
        return NotificationKey(self.id, self.user_id, self.channel)

    @property
    def pending(self) -> bool:
        """Whether it is still to be delivered."""
        return self.status is NotificationStatus.PENDING

    @property
    def critical(self) -> bool:
        """Whether it ignores limits and quiet hours, and is never dropped."""
        return self.notice.severity is Severity.CRITICAL

    @property
    def failing(self) -> bool:
        """Whether its way is shut, as far as is known: given up, or failed again and again."""
        if self.status is NotificationStatus.FAILED:
            return True
        return self.pending and self.attempts >= FAILING_AFTER
