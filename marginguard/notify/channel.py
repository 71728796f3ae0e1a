"""What a way of telling somebody is: it sends one message once, and says how that ended."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from marginguard.notify.message import Message


class Action(StrEnum):
    """The stable name of what somebody should do about a channel that fails."""

    VERIFY_SMTP_CONFIG = "verify_smtp_config"
    SETUP_EMAIL_ADDRESS = "setup_email_address"
    VERIFY_EMAIL_ADDRESS = "verify_email_address"
    VERIFY_TELEGRAM_TOKEN = "verify_telegram_token"  # noqa: S105 - a name, no token
    SETUP_TELEGRAM_CHAT_ID = "setup_telegram_chat_id"
    VERIFY_TELEGRAM_CHAT_ID = "verify_telegram_chat_id"
    SETUP_WEBHOOK_URL = "setup_webhook_url"
    VERIFY_WEBHOOK_URL = "verify_webhook_url"
    VERIFY_SMS_CONFIG = "verify_sms_config"
    SETUP_SMS_PHONE_NUMBER = "setup_sms_phone_number"
    VERIFY_PHONE_NUMBER = "verify_phone_number"
    CHECK_NETWORK = "check_network"
    WAIT = "wait"


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivered:
    """The other side has taken the message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The other side has not taken the message, or it cannot be told whether it has.

    `reason` says in plain English what happened, `advice` the next step; neither holds a secret.
    With `for_good` the same message would be refused again: only somebody who follows `advice`
    can help. Otherwise it is worth sending again, not before `retry_after_s` seconds where the
    other side asked for that.
    """

    reason: str
    action: Action
    advice: str
    for_good: bool = False
    retry_after_s: float | None = None


Delivery = Delivered | Failed


class Channel(Protocol):
    """One way of telling somebody."""

    @property
    def name(self) -> str:
        """Return the channel's stable name: email, telegram, webhook or sms."""
        ...

    async def send(self, message: Message) -> Delivery:
        """Send the message once, within the channel's own time limit.

        Never raises for what the network or the other side does. May be called again with the
        same message: its `id` lets the receiver drop what it has already.
        """
        ...

    async def aclose(self) -> None:
        """Give back connections; call it once, when nothing more is sent."""
        ...
