"""A user and a running daemon talk by Telegram, which a reload has set up."""

import os
import signal

from tests.bot_api import TOKEN, BotApi
from tests.daemons import DaemonProcess, Market, a_guard, write_config

BREACHED = 94_000.0  # 64 % of the margin of a 10x long at 100,000

TELEGRAM = """
[notifications.telegram]
token = "{token}"
base_url = "{url}"
commands = true
command_chats = [4711]
"""
ANA = '[[users]]\nid = "ana"\ntelegram_chat_id = 4711\ntimezone = "Europe/Madrid"\n'


async def heard(api, *words):
    """Wait for a message with all these words in it, and return it."""
    found = []

    def arrived():
        texts = [message["text"] for message in api.messages]
        found[:] = [text for text in texts if all(word in text for word in words)]
        return bool(found)

    await api.until(arrived)
    return found[0]


async def test_a_bot_that_a_reload_sets_up_tells_and_obeys(state_dir, database_url):
    market = Market()
    async with market.open_for_trade(), BotApi().serving() as api:
        config = write_config(state_dir, market, a_guard(), database_url=database_url, extra=ANA)
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            text = config.read_text()
            config.write_text(text + TELEGRAM.format(token=TOKEN, url=api.url))
            os.kill(daemon.process.pid, signal.SIGHUP)
            await heard(api, "The changed configuration is in force")
            await api.writes("/pause guard-1 1h")
            await heard(api, "guard-1", "paused until")
            await api.writes("/status")
            status = await heard(api, "its PAUSE ends at", "margin level")
            assert "by telegram chat 4711" in status
            assert "CE" in status.splitlines()[-1], "the time is not Madrid's"
            market.move(BREACHED)
            await heard(api, "Threshold reached")
            assert market.calls("/trade/close") == []
            await api.writes("/resume guard-1")
            await heard(api, "The pause of guard guard-1 is over")
            await heard(api, "Action: close position", "Still at risk: nothing of this position")
            await api.writes("/last")
            await heard(api, "The newest first:", "close position")
            assert await daemon.end() == 0
    assert len(market.calls("/trade/close")) == 1
