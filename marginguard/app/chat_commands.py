"""Commands from Telegram: listened to as long as the configuration in force wants them."""

import asyncio
import importlib
from zoneinfo import ZoneInfo

import structlog

from marginguard.config import Config
from marginguard.config.notifications import TelegramSettings
from marginguard.notify.command_desk import CommandDesk
from marginguard.notify.wording import zone
from marginguard.ports import Clock, Operator


class ChatCommands:
    """Brings the commands of the chats that may command to the operator."""

    def __init__(self, config: Config, operator: Operator, *, clock: Clock) -> None:
        self._config = config
        self._operator = operator
        self._clock = clock
        self._turn = asyncio.Event()
        self._log = structlog.get_logger()

    def apply(self, config: Config) -> None:
        """Listen as another configuration says, from the next moment on."""
        old, self._config = self._config, config
        if _telegram(old) != _telegram(config) or _zones(old) != _zones(config):
            self._turn.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until `stop` is set; a command that is being obeyed is let end."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._end_with(stop), name="telegram-end")
            while not stop.is_set():
                self._turn = asyncio.Event()
                await self._listen(self._turn)

    async def _end_with(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._turn.set()

    async def _listen(self, turn: asyncio.Event) -> None:
        """Listen by one configuration, if it wants that, until `turn` is set."""
        telegram = _telegram(self._config)
        if not telegram.commands or telegram.token is None:
            await turn.wait()
            return
        # The library takes a second and 18 MB to load; guarding goes on meanwhile.
        await asyncio.to_thread(importlib.import_module, "marginguard.notify.telegram_commands")
        from marginguard.notify.telegram_commands import (  # noqa: PLC0415
            ListeningSettings,
            TelegramCommands,
        )

        desk = CommandDesk(
            self._operator,
            chats=telegram.command_chats,
            zones=_zones(self._config),
            clock=self._clock,
        )
        settings = ListeningSettings(
            token=telegram.token.get_secret_value(),
            base_url=telegram.base_url,
            timeout_s=telegram.timeout.total_seconds(),
        )
        self._log.info("telegram.commands", chats=list(telegram.command_chats))
        await TelegramCommands(settings, desk, clock=self._clock).run(turn)


def _telegram(config: Config) -> TelegramSettings:
    return config.notifications.telegram


def _zones(config: Config) -> dict[int, ZoneInfo]:
    """Return the time zones of the users' own chats; those given by a name have none."""
    chats = {user.telegram_chat_id: user.timezone for user in config.users}
    return {
        int(chat_id): zone(timezone)
        for chat_id, timezone in chats.items()
        if chat_id is not None and not chat_id.startswith("@")
    }
