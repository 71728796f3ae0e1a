"""Who may command the daemon from a chat, what was meant, and what is answered."""

import math
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import structlog

from marginguard.config.fields import duration_of
from marginguard.domain.errors import MarginguardError, Refused
from marginguard.notify import command_answers
from marginguard.notify.wording import LONGEST_TELEGRAM_TEXT, fitted, one_line
from marginguard.ports import Clock, Operator

TOO_OLD: Final = timedelta(minutes=2)
"""What has waited for longer is not obeyed: the market and the owner's mind may have changed."""

PER_MINUTE: Final = 20
"""How many commands of one chat are answered within a minute."""

_DEFAULT_PAUSE: Final = timedelta(hours=1)
_MINUTE_S: Final = 60.0
_HOUR_S: Final = 3600.0
_MOST_STRANGERS: Final = 100
_LONGEST_COMMAND: Final = 200
_UTC: Final = ZoneInfo("UTC")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One message of a chat. `private`: the chat has no other members than its user and the bot."""

    chat_id: int
    user_id: int | None
    text: str
    sent_at: datetime
    private: bool

    @property
    def by(self) -> str:
        """Say who asks, for the record."""
        chat = f"telegram chat {self.chat_id}"
        return chat if self.private else f"{chat}, user {self.user_id or 'unknown'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Command:
    """A command's name, and the words after it. `named`: it named the bot that it is for."""

    name: str
    words: list[str]
    named: bool


class CommandDesk:
    """Obeys and answers the commands of `chats`; everybody else is met with silence.

    `zones` has the time zones of the chats that are some user's; the others read UTC.
    """

    def __init__(
        self,
        operator: Operator,
        *,
        chats: Collection[int],
        zones: Mapping[int, ZoneInfo],
        clock: Clock,
    ) -> None:
        self._operator = operator
        self._chats = frozenset(chats)
        self._zones = zones
        self._clock = clock
        self._strangers: dict[int, float] = {}
        self._answered: defaultdict[int, deque[float]] = defaultdict(deque)
        self._held_until_s: dict[int, float] = {}
        self._log = structlog.get_logger()
        self._commands: Mapping[str, Callable[[Asked, list[str]], Awaitable[str]]] = {
            "/status": self._status,
            "/guards": self._guards,
            "/last": self._last,
            "/help": self._help,
            "/start": self._help,
            "/pause": self._pause,
            "/resume": self._resume,
        }

    def serves(self, chat_id: int) -> bool:
        """Return whether the chat may command: what others do is not worth a line each."""
        return chat_id in self._chats

    async def answer(self, asked: Asked, *, bot_name: str) -> str | None:
        """Do what is asked and return the answer; None: say nothing.

        A command may end with `@bot_name`, as groups write it. Raises what is no
        `MarginguardError` alone.
        """
        command = _parsed(asked.text, bot_name)
        if command is None or not (asked.private or self._is_for_us(command)):
            return None
        if not self.serves(asked.chat_id):
            await self._refuse_stranger(asked)
            return None
        if self._clock.monotonic() < self._held_until_s.get(asked.chat_id, 0.0):
            return None
        if self._is_flooding(asked.chat_id):
            words = f"More than {PER_MINUTE} commands in a minute: none is obeyed for a minute."
            return await self._refuse(asked, words)
        if (age := self._clock.now() - asked.sent_at) > TOO_OLD:
            return await self._refuse(
                asked,
                f"This reached marginguard {_span(age)} after it was sent and was NOT obeyed:"
                " send it again if you still want it. (If you sent it just now, the clock of"
                " marginguard's machine is off.)",
            )
        try:
            return await self._commands.get(command.name, self._unknown)(asked, command.words)
        except Refused as error:
            return str(error)
        except MarginguardError as error:
            self._log.error(
                "command.failed",
                by=asked.by,
                command=_shown(asked),
                error=str(error),
                advice="put the cause right and give the command again",
            )
            return f"It could not be done: {error}"

    def _is_for_us(self, command: _Command) -> bool:
        """Return whether what is said in a group is for this bot: others may be there."""
        return command.named or command.name in self._commands

    def _is_flooding(self, chat_id: int) -> bool:
        """Count a command; return whether it is one too many, and hold the chat back if so."""
        now_s = self._clock.monotonic()
        times = self._answered[chat_id]
        while times and times[0] <= now_s - _MINUTE_S:
            times.popleft()
        if len(times) < PER_MINUTE:
            times.append(now_s)
            return False
        self._held_until_s[chat_id] = now_s + _MINUTE_S
        return True

    async def _refuse_stranger(self, asked: Asked) -> None:
        """Log and record the chat, at most once an hour each."""
        now_s = self._clock.monotonic()
        seen = {chat: at_s for chat, at_s in self._strangers.items() if at_s > now_s - _HOUR_S}
        self._strangers = seen
        if asked.chat_id in seen or len(seen) >= _MOST_STRANGERS:
            return
        seen[asked.chat_id] = now_s
        self._log.warning(
            "command.stranger",
            by=asked.by,
            command=_shown(asked),
            advice=f"it was not answered; if this chat is yours, add {asked.chat_id} to"
            " command_chats in [notifications.telegram]",
        )
        await self._note(asked, "(no answer: this chat may not command)", accepted=False)

    async def _refuse(self, asked: Asked, answer: str) -> str:
        await self._note(asked, answer, accepted=False)
        return answer

    async def _tell(self, asked: Asked, lines: list[str]) -> str:
        answer = fitted(lines, LONGEST_TELEGRAM_TEXT)
        await self._note(asked, answer, accepted=True)
        return answer

    async def _note(self, asked: Asked, answer: str, *, accepted: bool) -> None:
        try:
            await self._operator.note(_shown(asked), by=asked.by, answer=answer, accepted=accepted)
        except MarginguardError as error:
            # A question is answered whether it can be recorded or not.
            self._log.error(
                "command.not_recorded",
                by=asked.by,
                command=_shown(asked),
                error=str(error),
                advice="free space in the state directory; this line is the only record",
            )

    def _zone(self, asked: Asked) -> ZoneInfo:
        return self._zones.get(asked.chat_id, _UTC)

    async def _status(self, asked: Asked, _words: list[str]) -> str:
        lines = command_answers.status(self._operator.overview(), self._zone(asked))
        return await self._tell(asked, lines)

    async def _guards(self, asked: Asked, _words: list[str]) -> str:
        lines = command_answers.guards(self._operator.overview(), self._zone(asked))
        return await self._tell(asked, lines)

    async def _last(self, asked: Asked, _words: list[str]) -> str:
        lines = command_answers.last(self._operator.last_actions(), self._zone(asked))
        return await self._tell(asked, lines)

    async def _help(self, asked: Asked, _words: list[str]) -> str:
        return await self._tell(asked, command_answers.HELP.splitlines())

    async def _pause(self, asked: Asked, words: list[str]) -> str:
        usage = "Write /pause GUARD 1h, with a guard's name (/guards) and a span such as 30m or 2h."
        if len(words) not in {1, 2}:
            return await self._refuse(asked, usage)
        try:
            span = duration_of(words[1]) if len(words) > 1 else _DEFAULT_PAUSE
        except ValueError:
            return await self._refuse(asked, f'"{words[1]}" is not a span. {usage}')
        # From when it was sent: a command that is obeyed twice, after a crash, pauses no longer.
        left_s = math.ceil((asked.sent_at + span - self._clock.now()).total_seconds())
        if left_s <= 0:
            return await self._refuse(asked, "That pause would be over already.")
        left = min(span, timedelta(seconds=left_s))
        return await self._operator.pause(words[0], left, by=asked.by)

    async def _resume(self, asked: Asked, words: list[str]) -> str:
        if len(words) != 1:
            return await self._refuse(asked, "Write /resume GUARD, with a guard's name (/guards).")
        return await self._operator.resume(words[0], by=asked.by)

    async def _unknown(self, asked: Asked, _words: list[str]) -> str:
        return await self._refuse(asked, f"That is no command.\n{command_answers.HELP}")


def _parsed(text: str, bot_name: str) -> _Command | None:
    """Return what a text asks for; the name is empty for talk. None: it is for another bot."""
    first, *words = text.split() or [""]
    if not first.startswith("/"):
        return _Command(name="", words=words, named=False)
    name, at, bot = first.partition("@")
    if at and bot.lower() != bot_name.lower():
        return None
    return _Command(name=name.lower(), words=words, named=bool(at))


def _shown(asked: Asked) -> str:
    return one_line(asked.text, _LONGEST_COMMAND)


def _span(age: timedelta) -> str:
    minutes = int(age.total_seconds() // 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
