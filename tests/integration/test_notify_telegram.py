"""Telegram against a look-alike of the Bot API: delivery, flood control, refusals, silence."""

import asyncio
import json

import pytest
from aiohttp.test_utils import unused_port

from marginguard.domain.errors import ConfigError
from marginguard.domain.notice import Severity
from marginguard.notify.channel import Action, Delivered, Failed
from marginguard.notify.telegram import TelegramChannel, TelegramSettings
from tests.bot_api import TOKEN, BotApi
from tests.notices import a_message


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def api():
    async with BotApi().serving() as api:
        yield api


async def sent(base_url, message=None, *, token=TOKEN, timeout_s=10.0):
    channel = TelegramChannel(TelegramSettings(token=token, base_url=base_url, timeout_s=timeout_s))
    try:
        return await channel.send(message or a_message(to="4711"))
    finally:
        await channel.aclose()


async def test_the_text_reaches_the_chat_without_a_link_preview(api):
    assert await sent(api.url) == Delivered()

    (message,) = api.messages
    assert message["chat_id"] == "4711"
    assert message["text"] == "Margin was added.\n\nPrice: 61,000.50 USD"
    assert json.loads(message["link_preview_options"]) == {"is_disabled": True}
    assert "parse_mode" not in message


async def test_a_late_message_says_first_when_it_was_meant(api):
    await sent(api.url, a_message(to="1", late=True, late_note="Late: meant for noon."))

    assert api.messages[0]["text"].startswith("Late: meant for noon.\n\nMargin was added.")


@pytest.mark.parametrize(
    ("severity", "silent"),
    [(Severity.INFO, "true"), (Severity.WARNING, "false"), (Severity.CRITICAL, "false")],
)
async def test_only_an_info_comes_without_a_sound(api, severity, silent):
    await sent(api.url, a_message(to="1", severity=severity))

    assert api.messages[0]["disable_notification"] == silent


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x" * 4096, "x" * 4096),
        ("x" * 4097, "x" * 4095 + "…"),
        ("😀" * 2049, "😀" * 2047 + "…"),
    ],
    ids=["fits", "too long", "counted in UTF-16"],
)
async def test_a_long_text_is_cut_to_telegrams_limit(api, text, expected):
    assert await sent(api.url, a_message(to="1", text=text)) == Delivered()

    assert api.messages[0]["text"] == expected


@pytest.mark.filterwarnings(
    "ignore:.*retry_after.*:telegram.warnings.PTBDeprecationWarning"  # of the library's own making
)
@pytest.mark.parametrize("as_timedelta", ["true", "false"])
async def test_flood_control_is_obeyed(api, monkeypatch, as_timedelta):
    """Failure 33: Telegram asks to wait."""
    monkeypatch.setenv("PTB_TIMEDELTA", as_timedelta)
    api.will_refuse(429, "Too Many Requests: retry after 37", retry_after=37)

    delivery = await sent(api.url)

    assert isinstance(delivery, Failed)
    assert not delivery.for_good
    assert delivery.retry_after_s == 37.0
    assert delivery.action is Action.WAIT


@pytest.mark.parametrize(
    ("status", "description"),
    [
        (400, "Bad Request: chat not found"),
        (403, "Forbidden: bot was blocked by the user"),
        (403, "Forbidden: bot can't initiate conversation with a user"),
    ],
)
async def test_a_chat_that_cannot_be_written_to_is_explained(api, status, description):
    api.will_refuse(status, description)

    delivery = await sent(api.url)

    assert isinstance(delivery, Failed)
    assert delivery.for_good
    assert delivery.action is Action.VERIFY_TELEGRAM_CHAT_ID
    assert "chat 4711" in delivery.reason
    assert description.partition(": ")[2].lower() in delivery.reason.lower()
    assert "press Start" in delivery.advice
    assert "telegram_chat_id" in delivery.advice


async def test_a_group_that_moved_is_told_with_its_new_id(api):
    api.will_refuse(400, "Bad Request: group chat was upgraded", migrate_to_chat_id=-1009)

    delivery = await sent(api.url)

    assert isinstance(delivery, Failed)
    assert delivery.for_good
    assert 'telegram_chat_id to "-1009"' in delivery.advice


async def test_a_refused_token_is_told_and_not_shown(api):
    delivery = await sent(api.url, token="999:" + TOKEN)

    assert isinstance(delivery, Failed)
    assert delivery.for_good
    assert delivery.action is Action.VERIFY_TELEGRAM_TOKEN
    assert "BotFather" in delivery.advice
    assert TOKEN not in repr(delivery)


async def test_an_answer_that_echoes_the_token_does_not_show_it(api):
    api.will_refuse(400, f"Bad Request: no such path /bot{TOKEN}/sendMessage")

    delivery = await sent(api.url)

    assert isinstance(delivery, Failed)
    assert TOKEN not in repr(delivery)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_broken_bot_api_is_tried_again(api, status):
    api.answer = (status, "<html>Bad Gateway</html>")

    delivery = await sent(api.url)

    assert isinstance(delivery, Failed)
    assert not delivery.for_good


@pytest.mark.parametrize(
    "body",
    ["", "<html>", "[]", "null", "{}", '{"ok": true, "result": {}}', '{"ok": true, "result": 7}'],
)
async def test_an_answer_that_makes_no_sense_is_tried_again(api, body):
    api.answer = (200, body)

    delivery = await sent(api.url)

    assert isinstance(delivery, Failed)
    assert not delivery.for_good


@pytest.mark.parametrize("silence", ["hang", "drip"])
async def test_an_api_that_hangs_costs_no_more_than_the_time_limit(api, silence):
    api.answer = silence

    async with asyncio.timeout(5):
        delivery = await sent(api.url, timeout_s=0.2)

    assert isinstance(delivery, Failed)
    assert not delivery.for_good
    assert "no answer" in delivery.reason


async def test_an_api_that_is_not_there_is_tried_again():
    delivery = await sent(f"http://127.0.0.1:{unused_port()}")

    assert isinstance(delivery, Failed)
    assert not delivery.for_good
    assert delivery.action is Action.CHECK_NETWORK
    assert "127.0.0.1" in delivery.advice


@pytest.mark.parametrize("base_url", ["http://api.telegram.org", "api.telegram.org", "ftp://x"])
async def test_an_address_of_the_api_without_encryption_is_refused(base_url):
    with pytest.raises(ConfigError, match=r"\[notifications.telegram\] base_url"):
        TelegramChannel(TelegramSettings(token=TOKEN, base_url=base_url))


async def test_an_empty_token_is_refused():
    with pytest.raises(ConfigError, match="token is empty"):
        TelegramChannel(TelegramSettings(token=""))


def test_the_settings_do_not_show_the_token():
    assert TOKEN not in repr(TelegramSettings(token=TOKEN))


@pytest.mark.parametrize("proxy", ["socks5://ana:word@127.0.0.1:1", "ftp://ana:word@127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used_is_a_fault_of_the_configuration(monkeypatch, proxy):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ConfigError, match="HTTPS_PROXY") as refused:
        TelegramChannel(TelegramSettings(token=TOKEN))
    assert "word" not in str(refused.value)
