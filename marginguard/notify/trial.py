"""Trying a channel: one test message, and in plain English what came of it."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from marginguard.domain.notice import NoticeKind, Severity
from marginguard.notify.channel import Action, Channel, Delivered, Failed
from marginguard.notify.message import Message
from marginguard.notify.payload import PAYLOAD_VERSION
from marginguard.notify.rendering import Recipient
from marginguard.notify.wording import local_time, zone

_TAKEN_BY: Final = {
    "email": "The mail server took it: look into the inbox, and into the spam folder.",
    "telegram": "Telegram took it: look into the chat.",
    "webhook": "The receiver took it: look there whether it was understood.",
    "sms": "The SMS provider took it: look at the phone.",
}
_MISSING: Final = {
    "email": (Action.SETUP_EMAIL_ADDRESS, "no e-mail address", 'email = "name@example.com"'),
    "telegram": (Action.SETUP_TELEGRAM_CHAT_ID, "no Telegram chat id", 'telegram_chat_id = "123"'),
    "webhook": (
        Action.SETUP_WEBHOOK_URL,
        "no webhook address",
        'webhook_url = "https://example.com/hook"',
    ),
    "sms": (Action.SETUP_SMS_PHONE_NUMBER, "no phone number", 'phone = "+34600111222"'),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a trial found: `issue` and `solution` are sentences; `action` is None when it works."""

    channel: str
    user_id: str
    works: bool
    issue: str
    solution: str
    action: Action | None


async def try_channel(channel: Channel, recipient: Recipient, *, at: datetime) -> Finding:
    """Send a test message and say how it ended, with the next step.

    Raises `ConfigError` if the recipient's time zone does not exist.
    """
    delivery = await channel.send(_test_message(recipient, at))
    if isinstance(delivery, Delivered):
        return Finding(
            channel=channel.name,
            user_id=recipient.user_id,
            works=True,
            issue=f"The test message to user {recipient.user_id} was sent.",
            solution=_TAKEN_BY[channel.name],
            action=None,
        )
    return finding_of(channel.name, recipient.user_id, delivery)


def finding_of(channel: str, user_id: str, failure: Failed) -> Finding:
    """Return a failed delivery as a finding."""
    issue = f"{channel}: {failure.reason}."
    if failure.retry_after_s is not None:
        issue += f" It may be tried again in {failure.retry_after_s:.0f} s."
    return Finding(
        channel=channel,
        user_id=user_id,
        works=False,
        issue=issue,
        solution=f"{failure.advice[:1].upper()}{failure.advice[1:]}.",
        action=failure.action,
    )


def missing_recipient(channel: str, user_id: str) -> Finding:
    """Return the finding for a user who has nowhere to be told on this channel."""
    action, what, example = _MISSING[channel]
    return Finding(
        channel=channel,
        user_id=user_id,
        works=False,
        issue=f"User {user_id} has {what}: nothing can be sent by {channel}.",
        solution=f"Add {example} to the [[users]] table of {user_id}.",
        action=action,
    )


def _test_message(recipient: Recipient, at: datetime) -> Message:
    when = local_time(at, zone(recipient.timezone))
    text = f"This is a test of marginguard, sent {when}. Nothing happened; nothing is to be done."
    message_id = uuid.uuid4()
    return Message(
        id=message_id,
        kind=NoticeKind.TEST,
        severity=Severity.INFO,
        user_id=recipient.user_id,
        to=recipient.to,
        subject="marginguard: a test message",
        text=text,
        html=f"<p>{text}</p>",
        payload=_test_payload(message_id, text, recipient.user_id, at),
        meant_at=at,
    )


def _test_payload(message_id: uuid.UUID, text: str, user_id: str, at: datetime) -> dict[str, Any]:
    return {
        "id": str(message_id),
        "timestamp": at.isoformat(),
        "type": "test",
        "version": PAYLOAD_VERSION,
        "data": {
            "execution_id": None,
            "user_id": user_id,
            "guard_id": None,
            "status": None,
            "details": {"text": text, "severity": Severity.INFO.value},
            "positions": [],
            "account": None,
        },
    }
