"""Listening to Telegram: the messages to the bot are fetched, and its answers are sent."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Final

import structlog
from telegram import Bot, LinkPreviewOptions, Message, Update
from telegram.error import Conflict, InvalidToken, RetryAfter, TelegramError
from telegram.request import HTTPXRequest

from marginguard.aio import sleep_or_stop, unless_stopped
from marginguard.notify.command_desk import Asked, CommandDesk
from marginguard.notify.telegram import seconds_of
from marginguard.notify.wording import LONGEST_TELEGRAM_TEXT, one_line, shortened
from marginguard.ports import Clock
from marginguard.redaction import REDACTED

_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 60.0
_CONFLICT_WAIT_S: Final = 60.0
_TOLD_AFTER: Final = 3
_TOLD_EVERY_S: Final = 3600.0
_LAST_WORD_S: Final = 1.0
_CLOSE_TIMEOUT_S: Final = 2.0
_SENSELESS: Final = (
    *(ArithmeticError, AttributeError, LookupError),
    *(OSError, RuntimeError, TypeError, ValueError),
)
"""How the library fails on an answer that is not what the Bot API says: a date beyond all years,
a nesting beyond all depth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListeningSettings:
    """The bot that is listened to. Telegram holds a request open for `poll_s` seconds."""

    token: str = field(repr=False)
    base_url: str = "https://api.telegram.org"
    timeout_s: float = 10.0
    poll_s: int = 30


class TelegramCommands:
    """Brings what is written to the bot to the desk, one message after the other.

    It shares nothing with the channel that sends notifications, so that neither waits for the
    other. A message counts as fetched once it has been obeyed: it comes again after a crash
    in between, which for these commands changes nothing.
    """

    def __init__(self, settings: ListeningSettings, desk: CommandDesk, *, clock: Clock) -> None:
        self._settings = settings
        self._desk = desk
        self._clock = clock
        self._requests = [_request(settings.timeout_s) for _ in range(2)]
        self._bot = Bot(
            settings.token,
            base_url=f"{settings.base_url.rstrip('/')}/bot",
            request=self._requests[0],
            get_updates_request=self._requests[1],
        )
        self._name: str | None = None
        self._offset: int | None = None
        self._unacknowledged = False
        self._failures = 0
        self._told_s: dict[str, float] = {}
        self._log = structlog.get_logger()

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until `stop` is set; what Telegram or the network does never ends it."""
        try:
            while not stop.is_set():
                wait_s = await self._listen(stop)
                if wait_s is None:
                    await stop.wait()
                elif wait_s > 0:
                    await sleep_or_stop(wait_s, stop)
            await self._acknowledge()
        finally:
            await self._close()

    async def _listen(self, stop: asyncio.Event) -> float | None:
        """Fetch and answer once; return for how long to rest, None for ever."""
        began_s = self._clock.monotonic()
        try:
            updates = await unless_stopped(self._fetch(), stop)
        except TelegramError as error:
            return self._wait_after(error)
        except (TimeoutError, *_SENSELESS) as error:
            return self._unreachable(type(error).__name__)
        if updates is None:
            return 0.0
        if self._failures >= _TOLD_AFTER:
            self._log.info("telegram.commands_heard_again")
        self._failures = 0
        self._unacknowledged = False
        for update in updates:
            if stop.is_set():
                break
            self._offset = update.update_id + 1
            self._unacknowledged = True
            await self._take(update, stop)
        # Telegram waits where there is nothing; what answers at once is not asked on and on.
        hurried = not updates and self._clock.monotonic() - began_s < _FIRST_WAIT_S
        return _FIRST_WAIT_S if hurried else 0.0

    async def _fetch(self) -> tuple[Update, ...]:
        limit_s = self._settings.poll_s + 2 * self._settings.timeout_s
        async with asyncio.timeout(limit_s):
            if self._name is None:
                self._name = (await self._bot.get_me()).username or ""
            updates = await self._bot.get_updates(
                offset=self._offset, timeout=self._settings.poll_s, allowed_updates=["message"]
            )
        if not all(isinstance(update.update_id, int) for update in updates):
            raise TypeError("an update without a number")
        return updates

    async def _acknowledge(self) -> None:
        """Say what has been taken, so that whoever listens next does not hear it again."""
        if not self._unacknowledged:
            return
        with contextlib.suppress(TelegramError, TimeoutError, *_SENSELESS):
            async with asyncio.timeout(_LAST_WORD_S):
                await self._bot.get_updates(offset=self._offset, timeout=0, limit=1)

    async def _take(self, update: Update, stop: asyncio.Event) -> None:
        """Have a message answered; any other update, an edited message say, is let pass."""
        message = update.message
        if message is None or message.text is None:
            return
        if message.forward_origin is not None or message.is_automatic_forward:
            if not self._desk.serves(message.chat_id):
                return
            self._log.info("command.forwarded", chat=message.chat_id, reason="it is not obeyed")
            return
        try:
            answer = await self._desk.answer(_asked(message), bot_name=self._name or "")
        except Exception as error:  # noqa: BLE001 - a fault in a command must not end the daemon
            self._log.error(
                "command.fault",
                exc_info=error,
                chat=message.chat_id,
                advice="report it as a bug of marginguard; see `marginguard status`",
            )
            answer = "That went wrong inside marginguard; its log says more. See /status."
        if answer is not None:
            await unless_stopped(self._reply(message, answer), stop)

    async def _reply(self, message: Message, answer: str) -> None:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._bot.send_message(
                    chat_id=message.chat_id,
                    text=shortened(answer, LONGEST_TELEGRAM_TEXT),
                    link_preview_options=LinkPreviewOptions(is_disabled=True),
                )
        except (TelegramError, TimeoutError, *_SENSELESS) as error:
            self._log.warning(
                "command.not_answered",
                chat=message.chat_id,
                reason=self._words(error),
                advice="what was asked is done and recorded; send /status to see it",
            )

    def _wait_after(self, error: TelegramError) -> float | None:
        match error:
            case RetryAfter():
                return seconds_of(error.retry_after)
            case InvalidToken():
                self._log.critical(
                    "telegram.commands_stopped",
                    reason=f"Telegram refuses the bot's token: {self._words(error)}",
                    advice="copy the token from @BotFather into token of"
                    " [notifications.telegram], then reload marginguard",
                )
                return None
            case Conflict():
                self._warn(
                    "telegram.commands_conflict",
                    self._words(error),
                    "something else reads this bot's messages: give marginguard a bot of its own,"
                    " and each daemon one; if a webhook is set, remove it by"
                    " https://api.telegram.org/bot<token>/deleteWebhook",
                )
                return _CONFLICT_WAIT_S
        return self._unreachable(self._words(error))

    def _unreachable(self, reason: str) -> float:
        self._failures += 1
        if self._failures >= _TOLD_AFTER:
            self._warn(
                "telegram.commands_unheard",
                reason,
                "check that this machine reaches the Bot API; it is tried again by itself, and"
                " guarding goes on",
            )
        return min(_FIRST_WAIT_S * 2.0 ** min(self._failures - 1, 10), _LONGEST_WAIT_S)

    def _warn(self, event: str, reason: str, advice: str) -> None:
        """Log a warning, at most once an hour each."""
        now_s = self._clock.monotonic()
        if now_s - self._told_s.get(event, -_TOLD_EVERY_S) >= _TOLD_EVERY_S:
            self._told_s[event] = now_s
            self._log.warning(event, reason=reason, advice=advice)

    def _words(self, error: Exception) -> str:
        words = error.message if isinstance(error, TelegramError) else type(error).__name__
        return one_line(words.replace(self._settings.token, REDACTED))

    async def _close(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                for request in self._requests:
                    await request.shutdown()


def _request(timeout_s: float) -> HTTPXRequest:
    return HTTPXRequest(
        connection_pool_size=2,
        connect_timeout=timeout_s,
        read_timeout=timeout_s,
        write_timeout=timeout_s,
        pool_timeout=timeout_s,
    )


def _asked(message: Message) -> Asked:
    return Asked(
        chat_id=message.chat_id,
        user_id=message.from_user.id if message.from_user is not None else None,
        text=message.text or "",
        sent_at=message.date,
        private=message.chat.type == "private",
    )
