"""The Telegram channel: one bot message for each notice, flood control obeyed."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from telegram import Bot, LinkPreviewOptions
from telegram.error import (
    BadRequest,
    ChatMigrated,
    Forbidden,
    InvalidToken,
    NetworkError,
    RetryAfter,
    TelegramError,
    TimedOut,
)
from telegram.request import HTTPXRequest

from marginguard.domain.errors import ConfigError
from marginguard.domain.notice import Severity
from marginguard.notify.channel import Action, Delivered, Delivery, Failed
from marginguard.notify.destination import destination
from marginguard.notify.message import Message
from marginguard.notify.wording import LONGEST_TELEGRAM_TEXT, one_line, shortened
from marginguard.redaction import REDACTED

_CHECK_CHAT: Final = (
    "open the chat with your bot in Telegram and press Start (or add the bot to the group and write"
    " something there), then set the user's telegram_chat_id to the chat's id, which"
    " https://api.telegram.org/bot<token>/getUpdates shows (a group's begins with -)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TelegramSettings:
    """The bot that writes. `base_url` is the Bot API's address; a message has `timeout_s`."""

    token: str = field(repr=False)
    base_url: str = "https://api.telegram.org"
    timeout_s: float = 10.0


class TelegramChannel:
    """Sends each message's text to the chat that it is for.

    Raises `ConfigError` for an empty token, an address of the Bot API that may not be used and a
    proxy in the environment that cannot be.
    """

    name = "telegram"

    def __init__(self, settings: TelegramSettings) -> None:
        self._settings = settings
        try:
            self._host = destination(settings.base_url, allow_private=True).host
        except ValueError as error:
            raise ConfigError(f"[notifications.telegram] base_url: {error}") from error
        timeout_s = settings.timeout_s
        try:
            self._request = HTTPXRequest(
                connection_pool_size=4,
                connect_timeout=timeout_s,
                read_timeout=timeout_s,
                write_timeout=timeout_s,
                pool_timeout=timeout_s,
            )
        except (RuntimeError, ValueError) as error:
            # The library's words may show the proxy's address, and a password in it.
            raise ConfigError(
                "[notifications.telegram] the proxy that the environment names (HTTPS_PROXY,"
                " ALL_PROXY) cannot be used: name an http:// one there, or none"
            ) from error
        try:
            self._bot = Bot(
                settings.token,
                base_url=f"{settings.base_url.rstrip('/')}/bot",
                request=self._request,
                get_updates_request=self._request,
            )
        except InvalidToken as error:
            raise ConfigError(
                "[notifications.telegram] token is empty; @BotFather in Telegram gives you one"
            ) from error

    async def send(self, message: Message) -> Delivery:
        """Send the text once, cut to Telegram's limit; an info comes without a sound."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._bot.send_message(
                    chat_id=message.to,
                    text=shortened(message.full_text, LONGEST_TELEGRAM_TEXT),
                    disable_notification=message.severity is Severity.INFO,
                    link_preview_options=LinkPreviewOptions(is_disabled=True),
                )
        except TimeoutError:
            return self._passing(f"no answer within {self._settings.timeout_s:g} s")
        except TelegramError as error:
            return self._failure(error, message.to)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # How the library fails on an answer that is JSON but not what the Bot API says.
            return self._passing(f"an answer that makes no sense ({type(error).__name__})")
        return Delivered()

    async def aclose(self) -> None:
        """Close the kept connections."""
        await self._request.shutdown()

    def _failure(self, error: TelegramError, chat_id: str) -> Failed:
        """Say what an error means; the more special classes come first."""
        words = one_line(error.message.replace(self._settings.token, REDACTED))
        match error:
            case RetryAfter():
                return Failed(
                    reason="Telegram asks to wait: too many messages (flood control)",
                    action=Action.WAIT,
                    advice="nothing: it is sent again when Telegram allows; fewer events in the"
                    " user's notifications make it rarer",
                    retry_after_s=seconds_of(error.retry_after),
                )
            case InvalidToken():
                return Failed(
                    reason=f"Telegram refuses the bot's token: {words}",
                    action=Action.VERIFY_TELEGRAM_TOKEN,
                    advice="copy the token from @BotFather in Telegram into token of"
                    " [notifications.telegram]",
                    for_good=True,
                )
            case ChatMigrated():
                return _wrong_chat(
                    f"Telegram has moved the group {chat_id} to the id {error.new_chat_id}",
                    f'set the user\'s telegram_chat_id to "{error.new_chat_id}"',
                )
            case Forbidden():
                return _wrong_chat(
                    f"the bot may not write to the chat {chat_id}: {words}", _CHECK_CHAT
                )
            case BadRequest():
                return _wrong_chat(
                    f"Telegram refuses the message to the chat {chat_id}: {words}", _CHECK_CHAT
                )
            case TimedOut():
                return self._passing("no answer in time")
            case NetworkError():
                return self._passing(words)
        return self._passing(f"an error: {words}")

    def _passing(self, what: str) -> Failed:
        return Failed(
            reason=f"Telegram ({self._host}) could not be used: {what}",
            action=Action.CHECK_NETWORK,
            advice=f"check that this machine reaches {self._host}; it is tried again by itself",
        )


def _wrong_chat(reason: str, advice: str) -> Failed:
    return Failed(
        reason=reason, action=Action.VERIFY_TELEGRAM_CHAT_ID, advice=advice, for_good=True
    )


def seconds_of(retry_after: int | timedelta) -> float:
    """Return how long Telegram asks to wait, in seconds."""
    # The library is moving from the one to the other (PTB_TIMEDELTA).
    if isinstance(retry_after, timedelta):
        return retry_after.total_seconds()
    return float(retry_after)
