"""Commands from Telegram follow the configuration in force."""

import asyncio

import pytest

from marginguard.aio import SystemClock
from marginguard.app.chat_commands import ChatCommands
from marginguard.config import load_config
from marginguard.domain.operating import Overview
from tests.bot_api import TOKEN, BotApi
from tests.notifying import LONG_S, FakeOperator
from tests.unit.strategies import NOON


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def load(tmp_path):
    def load(text):
        path = tmp_path / "config.toml"
        path.write_text(text)
        path.chmod(0o600)
        return load_config(path, {})

    return load


async def test_listening_begins_changes_and_ends_with_the_configuration(load):
    clock = SystemClock()
    operator = FakeOperator(Overview(at=NOON, protected="Guarded.", guards=(), positions=()))
    stop = asyncio.Event()
    async with BotApi().serving() as api:
        telegram = f'[notifications.telegram]\ntoken = "{TOKEN}"\nbase_url = "{api.url}"\n'
        on = telegram + "commands = true\ncommand_chats = [{chat}]\n"
        chats = ChatCommands(load(telegram), operator, clock=clock)
        task = asyncio.create_task(chats.run(stop))
        await api.writes("/resume night")

        chats.apply(load(on.format(chat=4711)))
        await api.until(lambda: len(api.messages) == 1)

        chats.apply(load(on.format(chat=42)))
        await api.writes("/resume night")
        await api.writes("/resume day", chat_id=42)
        await api.until(lambda: len(api.messages) == 2)

        ana = '[[users]]\nid = "ana"\ntelegram_chat_id = 42\ntimezone = "Europe/Madrid"\n'
        chats.apply(load(on.format(chat=42) + ana))
        await api.writes("/status", chat_id=42)
        await api.until(lambda: len(api.messages) == 3)

        chats.apply(load(telegram))
        stop.set()
        async with asyncio.timeout(LONG_S):
            await task
    assert [call[1:] for call in operator.calls] == [
        ("night", "telegram chat 4711"),
        ("day", "telegram chat 42"),
    ]
    assert f"{NOON:%Y-%m-%d} 13:00:00 CET" in api.messages[2]["text"]
