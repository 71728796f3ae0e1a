"""Listening to Telegram against a look-alike of the Bot API."""

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from aiohttp.test_utils import unused_port
from structlog.testing import capture_logs

from marginguard.aio import SystemClock
from marginguard.domain.operating import Overview
from marginguard.notify.command_desk import CommandDesk
from marginguard.notify.telegram_commands import ListeningSettings, TelegramCommands
from tests.bot_api import TOKEN, BotApi, refusal
from tests.notifying import LONG_S, FakeOperator
from tests.unit.strategies import NOON

OWNER = 4711


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def short_rests(monkeypatch):
    monkeypatch.setattr("marginguard.notify.telegram_commands._FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("marginguard.notify.telegram_commands._CONFLICT_WAIT_S", 0.001)


@pytest.fixture
async def api():
    async with BotApi().serving() as api:
        yield api


@pytest.fixture
def operator():
    return FakeOperator(Overview(at=NOON, protected="Guarded.", guards=(), positions=()))


@asynccontextmanager
async def listening(operator, base_url, *, token=TOKEN, timeout_s=5.0):
    """Listen inside the block; it must end at once when it is told to."""
    clock = SystemClock()
    desk = CommandDesk(operator, chats=[OWNER, -100], zones={}, clock=clock)
    settings = ListeningSettings(token=token, base_url=base_url, timeout_s=timeout_s)
    stop = asyncio.Event()
    task = asyncio.create_task(TelegramCommands(settings, desk, clock=clock).run(stop))
    try:
        yield task
    finally:
        stop.set()
        async with asyncio.timeout(LONG_S):
            await task


def dated(moment):
    """Return an answer of getUpdates with a message of this moment."""
    chat = {"id": OWNER, "type": "private"}
    message = {"message_id": 1, "date": moment, "chat": chat, "text": "/help"}
    return json.dumps({"ok": True, "result": [{"update_id": 1, "message": message}]})


def noting(said):
    """Return a processor of log lines that sets an event."""

    def note(_logger, _name, line):
        said.set()
        return line

    return note


async def test_a_command_is_obeyed_answered_in_its_chat_and_then_acknowledged(api, operator):
    async with listening(operator, api.url):
        update_id = await api.writes("/resume night")
        await api.until(lambda: len(api.polls) == 2)
    assert operator.calls == [("resume", "night", "telegram chat 4711")]
    (answer,) = api.messages
    assert (answer["chat_id"], answer["text"]) == ("4711", "night acts again.")
    assert "offset" not in api.polls[0]
    assert api.polls[1]["offset"] == str(update_id + 1)


async def test_what_was_obeyed_just_before_the_end_is_not_heard_again(api, operator):
    ended = asyncio.Event()

    async def resume(guard_id, *, by):
        operator.calls.append(guard_id)
        ended.set()
        return "done"

    operator.resume = resume
    api.answer = "hang"  # so that the end comes before the next request
    async with listening(operator, api.url):
        await api.writes("/resume night")
        async with asyncio.timeout(LONG_S):
            await ended.wait()
    api.answer = None
    async with listening(operator, api.url):
        await api.writes("/help")
        await api.until(lambda: any("/status" in message["text"] for message in api.messages))
    assert operator.calls == ["night"]


async def test_only_messages_are_asked_for_and_for_long(api, operator):
    async with listening(operator, api.url):
        await api.until(lambda: api.polls)
    assert api.polls[0]["allowed_updates"] == '["message"]'
    assert api.polls[0]["timeout"] == "30"


async def test_a_group_may_write_the_bots_name_behind_a_command(api, operator):
    async with listening(operator, api.url):
        await api.writes("/pause@GuardBot night 1h", chat_id=-100, chat_type="supergroup")
        await api.writes("/resume@OtherBot night", chat_id=-100, chat_type="supergroup")
        await api.writes("/help")
        await api.until(lambda: len(api.messages) == 2)
    ((name, guard, span, by),) = operator.calls
    assert (name, guard, by) == ("pause", "night", "telegram chat -100, user 4711")
    assert timedelta(minutes=59) < span <= timedelta(hours=1)


async def test_edited_and_forwarded_messages_and_strangers_are_not_obeyed(api, operator):
    origin = {"type": "hidden_user", "date": 0, "sender_user_name": "x"}
    chat = {"id": OWNER, "type": "private"}
    edited = {"message_id": 1, "date": 0, "edit_date": 1, "chat": chat, "text": "/pause night"}
    async with listening(operator, api.url):
        await api.updates(edited_message=edited)
        await api.updates(message={"message_id": 2, "date": 0, "chat": chat})
        await api.writes("/pause night", forward_origin=origin)
        await api.writes("/pause night", chat_id=666)
        await api.writes("/pause night", date=int(NOON.timestamp()) - 86_400)
        await api.writes("/help")
        await api.until(lambda: len(api.messages) == 2)
    assert operator.calls == []
    assert "NOT obeyed" in api.messages[0]["text"]
    assert {message["chat_id"] for message in api.messages} == {"4711"}


async def test_a_stranger_who_forwards_messages_does_not_fill_the_log(api, operator):
    origin = {"type": "hidden_user", "date": 0, "sender_user_name": "x"}
    with capture_logs() as logs:
        async with listening(operator, api.url):
            for _ in range(3):
                await api.writes("/pause night", chat_id=666, forward_origin=origin)
            await api.writes("/pause night", forward_origin=origin)
            await api.writes("/help")
            await api.until(lambda: api.messages)
    assert [(log["event"], log["chat"]) for log in logs] == [("command.forwarded", OWNER)]


async def test_commands_are_obeyed_one_at_a_time(api, operator):
    started, at_work, go_on = [], asyncio.Event(), asyncio.Event()

    async def resume(guard_id, *, by):
        started.append(guard_id)
        at_work.set()
        await go_on.wait()
        return "done"

    operator.resume = resume
    async with listening(operator, api.url):
        await api.writes("/resume first")
        await api.writes("/resume second", chat_id=-100, chat_type="group")
        async with asyncio.timeout(LONG_S):
            await at_work.wait()
        assert started == ["first"]
        go_on.set()
        await api.until(lambda: len(api.messages) == 2)
    assert started == ["first", "second"]


@pytest.mark.parametrize(
    "answers",
    [
        [(502, "<html>Bad Gateway</html>")] * 4,
        [(200, '{"ok": true, "result": [{}]}')] * 4,
        [(200, "[]"), (200, '{"ok": true, "result": 7}'), (200, ""), (500, "{}")],
        [refusal(403, "Forbidden")] * 4,
        [(200, dated(10**30)), (200, dated(-(10**18)))] * 2,
        [(200, "[" * 100_000)] * 4,
        [(200, '{"ok": true, "result": [{"update_id": "x"}]}')] * 4,
    ],
    ids=["broken", "senseless", "mixed", "forbidden", "dates", "depth", "numbers"],
)
@pytest.mark.filterwarnings("ignore")  # of the library's own making
async def test_a_bot_api_that_fails_is_asked_again_and_told_of_once(api, operator, answers):
    api.poll_answers = list(answers)
    with capture_logs() as logs:
        async with listening(operator, api.url):
            await api.writes("/help")
            await api.until(lambda: api.messages)
    events = [log["event"] for log in logs]
    assert events == ["telegram.commands_unheard", "telegram.commands_heard_again"]
    assert "reaches the Bot API" in logs[0]["advice"]


@pytest.mark.filterwarnings(
    "ignore:.*retry_after.*:telegram.warnings.PTBDeprecationWarning"  # of the library's own making
)
async def test_flood_control_is_obeyed(api, operator, monkeypatch):
    """Failure 33: Telegram asks to wait."""
    rests = []

    async def rest(delay_s, stop):
        rests.append(delay_s)
        return stop.is_set()

    monkeypatch.setattr("marginguard.notify.telegram_commands.sleep_or_stop", rest)
    api.poll_answers = [refusal(429, "Too Many Requests", retry_after=37)]
    async with listening(operator, api.url):
        await api.until(lambda: len(api.polls) == 2)
    assert rests == [37.0]


async def test_an_api_that_does_not_wait_for_messages_is_not_asked_on_and_on(
    api, operator, monkeypatch
):
    rests = []

    async def rest(delay_s, stop):
        rests.append(delay_s)
        return stop.is_set()

    monkeypatch.setattr("marginguard.notify.telegram_commands.sleep_or_stop", rest)
    monkeypatch.setattr("marginguard.notify.telegram_commands._FIRST_WAIT_S", 600.0)
    api.poll_answers = [(200, '{"ok": true, "result": []}')] * 3
    async with listening(operator, api.url):
        await api.until(lambda: len(api.polls) == 4)
    assert rests == [600.0] * 3


async def test_another_reader_of_the_bots_messages_is_a_warning_with_the_next_step(api, operator):
    api.poll_answers = [refusal(409, "Conflict: terminated by other getUpdates request")] * 3
    with capture_logs() as logs:
        async with listening(operator, api.url):
            await api.writes("/help")
            await api.until(lambda: api.messages)
    ((event, level, advice),) = [(log["event"], log["log_level"], log["advice"]) for log in logs]
    assert (event, level) == ("telegram.commands_conflict", "warning")
    assert "a bot of its own" in advice
    assert "deleteWebhook" in advice


async def test_a_refused_token_is_critical_and_ends_the_asking_alone(api, operator):
    with capture_logs(processors=[noting(said := asyncio.Event())]) as logs:
        async with listening(operator, api.url, token="999:" + TOKEN) as task:
            async with asyncio.timeout(LONG_S):
                await said.wait()
            assert not task.done()
    ((event, level, advice),) = [(log["event"], log["log_level"], log["advice"]) for log in logs]
    assert (event, level) == ("telegram.commands_stopped", "critical")
    assert "@BotFather" in advice
    assert TOKEN not in repr(logs)
    assert api.polls == []


async def test_a_bot_api_that_is_not_there_ends_nothing(operator):
    with capture_logs(processors=[noting(said := asyncio.Event())]) as logs:
        async with listening(operator, f"http://127.0.0.1:{unused_port()}") as task:
            async with asyncio.timeout(LONG_S):
                await said.wait()
            assert not task.done()
    assert logs[0]["event"] == "telegram.commands_unheard"


@pytest.mark.parametrize("silence", ["hang", (500, "{}")])
async def test_an_answer_that_cannot_be_sent_is_logged_and_the_next_command_obeyed(
    api, operator, silence
):
    api.answer = silence
    with capture_logs() as logs:
        async with listening(operator, api.url, timeout_s=0.2):
            await api.writes("/resume night")
            await api.writes("/resume day")
            await api.until(lambda: len(api.polls) == 2)
    assert [call[1] for call in operator.calls] == ["night", "day"]
    assert [log["event"] for log in logs] == ["command.not_answered"] * 2


async def test_a_fault_in_a_command_is_logged_and_answered_and_ends_nothing(api, operator):
    operator.error = ZeroDivisionError("bug")
    with capture_logs() as logs:
        async with listening(operator, api.url):
            await api.writes("/resume night")
            await api.writes("/help")
            await api.until(lambda: len(api.messages) == 2)
    assert [log["event"] for log in logs] == ["command.fault"]
    assert "went wrong" in api.messages[0]["text"]
    assert "/status" in api.messages[1]["text"]


def test_the_settings_do_not_show_the_token():
    assert TOKEN not in repr(ListeningSettings(token=TOKEN))
