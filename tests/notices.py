"""Messages for the tests of the channels."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from marginguard.domain.notice import NoticeKind, Severity
from marginguard.notify.message import Message

A_MESSAGE = Message(
    id=UUID(int=7),
    kind=NoticeKind.ACTION_DONE,
    severity=Severity.WARNING,
    user_id="owner",
    to="owner@example.com",
    subject="marginguard WARNING: Action done",
    text="Margin was added.\n\nPrice: 61,000.50 USD",
    meant_at=datetime(2026, 3, 14, 12, 0, 5, tzinfo=UTC),
    html="<p>Margin was added.</p>",
    payload={"id": str(UUID(int=7)), "type": "action_done"},
    late_note="Late: this was meant for 2026-03-14 13:00:05 CET.",
)


def a_message(**changes):
    """Return a message to the owner, with `changes`."""
    return replace(A_MESSAGE, **changes)
