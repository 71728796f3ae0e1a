"""A notice made ready for one person on one channel."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from marginguard.domain.notice import NoticeKind, Severity


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What one channel sends to one person; plain values, so that it can be stored.

    `id` is the notice's: the same at every attempt, so that the receiver can drop what it has.
    `to` is the address, chat id, URL or number; a URL may hold a token, so `to` is never logged.
    `text` is what the channel shows. `html` is the inside of a page's body and is there for
    e-mail alone, `payload` (JSON) for the webhook alone. `late_note` is one line that says when
    the message was meant; it is shown in front when `late` is set:
    `dataclasses.replace(message, late=True)`.
    """

    id: UUID
    kind: NoticeKind
    severity: Severity
    user_id: str
    to: str
    subject: str
    text: str
    meant_at: datetime
    html: str | None = None
    payload: Mapping[str, Any] | None = None
    late: bool = False
    late_note: str = ""

    @property
    def full_text(self) -> str:
        """Return the text, after the note on its lateness if it is late."""
        return f"{self.late_note}\n\n{self.text}" if self.late and self.late_note else self.text
