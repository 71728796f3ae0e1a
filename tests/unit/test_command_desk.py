"""Commands from a chat: who may give them, what they mean, and what is answered."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs

from marginguard.domain.errors import DiskFull, Refused
from marginguard.domain.model import ActionKind, RiskLevel
from marginguard.domain.operating import GuardNow, Overview, Pause, PositionNow
from marginguard.domain.records import ActionRecord, ActionStatus, ArmedState, PositionState
from marginguard.notify.command_desk import PER_MINUTE, Asked, CommandDesk
from tests.notifying import FakeOperator
from tests.unit.fakes import FakeClock
from tests.unit.strategies import NOON, a_position

OWNER, GROUP, STRANGER = 4711, -100200, 666
MADRID = ZoneInfo("Europe/Madrid")

NIGHT = GuardNow(
    guard_id="night",
    account_id="main",
    armed=ArmedState.ARMED,
    reason="",
    since=NOON,
    looked_at=NOON,
    pause=None,
)
TRADE = PositionNow(
    position_id="trade-1",
    account_id="main",
    guard_id="night",
    level=81.54,
    risk=RiskLevel.MEDIUM,
    price=61_000.5,
    liquidation_price=58_000.0,
    seen_at=NOON,
)


def an_overview(guards=(NIGHT,), positions=(TRADE,)):
    return Overview(at=NOON, protected="Guarded.", guards=guards, positions=positions)


class Chat:
    """A desk with a fake operator, asked by a chat."""

    def __init__(self):
        self.clock = FakeClock()
        self.operator = FakeOperator(an_overview())
        self.desk = CommandDesk(
            self.operator, chats=[OWNER, GROUP], zones={OWNER: MADRID}, clock=self.clock
        )

    async def says(self, text, **changes):
        asked = Asked(
            chat_id=OWNER, user_id=OWNER, text=text, sent_at=self.clock.now(), private=True
        )
        return await self.desk.answer(replace(asked, **changes), bot_name="GuardBot")

    async def in_group(self, text):
        return await self.says(text, chat_id=GROUP, private=False)


@pytest.fixture
def chat():
    return Chat()


async def test_status_says_first_whether_all_is_guarded_then_each_position(chat):
    answer = await chat.says("/status")
    assert answer.startswith("Guarded.\n")
    assert "trade-1 (account main): margin level 81.6 %, risk medium" in answer
    assert "price 61,000.50 USD, liquidation at 58,000.00 USD, guarded by night" in answer
    assert "night (account" not in answer, "a guard that works as it should needs no words"


async def test_times_are_those_of_the_chats_user_and_utc_elsewhere(chat):
    assert answer_time(await chat.says("/status")) == f"{NOON.astimezone(MADRID):%H:%M:%S %Z}"
    assert answer_time(await chat.in_group("/status")) == f"{NOON:%H:%M:%S} UTC"


def answer_time(answer):
    return answer.splitlines()[-1].partition(" ")[2]


async def test_what_does_not_guard_stands_before_the_positions_in_the_status(chat):
    blind = replace(NIGHT, armed=ArmedState.DEGRADED, reason="no price for 60 s")
    paused = replace(NIGHT, guard_id="day", pause=Pause(until=NOON + timedelta(hours=1), by="ana"))
    safe = replace(TRADE, position_id="safe", level=1.0)
    alone = replace(safe, position_id="alone", guard_id=None)
    chat.operator.now = an_overview((paused, blind), (safe, TRADE, alone))
    answer = await chat.in_group("/status")
    places = [
        answer.index(words)
        for words in (
            "night (account main): DEGRADED, no price for 60 s",
            "day (account main): armed",
            "alone (account main)",
            "trade-1 (account main)",
            "safe (account main)",
        )
    ]
    assert places == sorted(places)
    assert "its PAUSE ends at 2026-03-14 13:00:00 UTC, or by /resume day" in answer
    assert "never, NOT GUARDED" not in answer
    assert "NOT GUARDED" in answer


async def test_a_position_that_cannot_be_liquidated_says_so(chat):
    chat.operator.now = an_overview(positions=(replace(TRADE, liquidation_price=None),))
    assert "liquidation never" in await chat.says("/status")


async def test_guards_says_of_each_what_it_does_and_when_it_looked(chat):
    fresh = replace(NIGHT, guard_id="fresh", looked_at=None)
    chat.operator.now = an_overview((NIGHT, fresh))
    answer = await chat.in_group("/guards")
    assert "night (account main): armed since 2026-03-14 12:00:00 UTC. It looked last at" in answer
    assert "fresh (account main): armed since 2026-03-14 12:00:00 UTC. It has not looked" in answer


def an_action(**changes):
    action = ActionRecord(
        id=UUID(int=1),
        execution_id=UUID(int=2),
        guard_id="night",
        account_id="main",
        position_id="trade-1",
        episode_id="e",
        kind=ActionKind.ADD_MARGIN,
        amount=7_000,
        status=ActionStatus.DONE,
        dry_run=False,
        reason="the level is 81.5",
        level=81.5,
        threshold=80.0,
        before=PositionState.of(a_position(), 50_000.0),
        intended_at=NOON,
        settled_at=NOON,
        proof="the margin is 48,000 sats",
    )
    return replace(action, **changes)


async def test_last_tells_the_actions_with_amount_and_proof(chat):
    chat.operator.actions = [
        an_action(),
        an_action(status=ActionStatus.REJECTED, proof=None, error="no balance"),
        an_action(kind=ActionKind.CLOSE_POSITION, dry_run=True),
    ]
    _, done, rejected, dry = (await chat.in_group("/last")).splitlines()
    assert done == (
        "2026-03-14 12:00:00 UTC: add margin of 7,000 sats (3.50 USD) on trade-1 by night"
        " at level 81.5 %: done: the margin is 48,000 sats"
    )
    assert rejected.endswith("rejected: no balance")
    assert dry.endswith("dry run, nothing was sent")


async def test_last_without_any_action_says_so(chat):
    assert await chat.says("/last") == "No action has ended since marginguard was started."


async def test_every_read_is_recorded_with_who_asked_and_what_was_answered(chat):
    answers = [await chat.says(f"/{name}") for name in ("status", "guards", "last", "help")]
    assert [(n.command, n.by, n.answer, n.accepted) for n in chat.operator.notes] == [
        (f"/{name}", "telegram chat 4711", answer, True)
        for name, answer in zip(("status", "guards", "last", "help"), answers, strict=True)
    ]


async def test_a_read_that_cannot_be_recorded_is_answered_and_logged(chat):
    chat.operator.note_error = DiskFull("no space left")
    with capture_logs() as logs:
        assert (await chat.says("/status")).startswith("Guarded.")
    assert [(log["event"], log["by"]) for log in logs] == [
        ("command.not_recorded", "telegram chat 4711")
    ]


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("/pause night 30m", timedelta(minutes=30)),
        ("/pause  night\n1h30m", timedelta(hours=1, minutes=30)),
        ("/pause night", timedelta(hours=1)),
        ("/PAUSE night 2h", timedelta(hours=2)),
    ],
)
async def test_a_pause_is_handed_to_the_operator_with_its_span(chat, text, span):
    answer = await chat.says(text)
    assert chat.operator.calls == [("pause", "night", span, "telegram chat 4711")]
    assert answer == "night is paused."
    assert chat.operator.notes == [], "the operator records what changes something itself"


async def test_a_pause_counts_from_when_it_was_sent_so_that_twice_is_no_longer(chat):
    sent_at = chat.clock.now()
    await chat.says("/pause night 1h", sent_at=sent_at)
    chat.clock.advance(90)
    await chat.says("/pause night 1h", sent_at=sent_at)
    ends = [NOON + timedelta(hours=1), chat.clock.now() + chat.operator.calls[1][2]]
    assert ends[0] == ends[1]


async def test_a_pause_sent_by_a_clock_ahead_of_ours_is_no_longer_than_asked(chat):
    await chat.says("/pause night 1h", sent_at=chat.clock.now() + timedelta(minutes=5))
    assert chat.operator.calls[0][2] == timedelta(hours=1)


async def test_a_pause_that_would_be_over_is_not_begun(chat):
    answer = await chat.says("/pause night 1m", sent_at=NOON - timedelta(seconds=60))
    assert "over already" in answer
    assert chat.operator.calls == []


@pytest.mark.parametrize(
    "text",
    ["/pause", "/pause night 1h please", "/pause night tomorrow", "/pause night -1h", "/resume",
     "/resume a b", "/pause night 0s"],
)  # fmt: skip
async def test_what_is_not_understood_changes_nothing_says_how_to_write_it_and_is_recorded(
    chat, text
):
    answer = await chat.says(text)
    assert "Write /" in answer
    assert chat.operator.calls == []
    assert [(n.command, n.accepted) for n in chat.operator.notes] == [(text, False)]


async def test_resume_is_handed_to_the_operator(chat):
    assert await chat.says("/resume night") == "night acts again."
    assert chat.operator.calls == [("resume", "night", "telegram chat 4711")]


async def test_what_the_operator_refuses_is_answered_with_its_reason(chat):
    chat.operator.error = Refused('there is no guard "x": night')
    assert await chat.says("/pause x 1h") == 'there is no guard "x": night'


async def test_a_pause_that_cannot_be_written_down_is_answered_and_logged(chat):
    chat.operator.error = DiskFull("no space left on the device")
    with capture_logs() as logs:
        answer = await chat.says("/pause night")
    assert answer == "It could not be done: no space left on the device"
    assert [log["event"] for log in logs] == ["command.failed"]


async def test_a_chat_that_is_not_allowed_hears_nothing_and_is_logged_once_an_hour(chat):
    with capture_logs() as logs:
        for _ in range(3):
            assert await chat.says("/pause night", chat_id=STRANGER) is None
        assert await chat.says("/status", chat_id=667) is None
        chat.clock.advance(3601)
        assert await chat.says("/status", chat_id=STRANGER) is None
    assert chat.operator.calls == []
    assert [(log["event"], log["log_level"], log["by"]) for log in logs] == [
        ("command.stranger", "warning", "telegram chat 666"),
        ("command.stranger", "warning", "telegram chat 667"),
        ("command.stranger", "warning", "telegram chat 666"),
    ]
    assert "add 666 to command_chats" in logs[0]["advice"]
    assert [(n.command, n.accepted) for n in chat.operator.notes][:1] == [("/pause night", False)]
    assert len(chat.operator.notes) == 3


async def test_an_army_of_strangers_fills_neither_log_nor_record(chat):
    with capture_logs() as logs:
        for number in range(1_000):
            await chat.says("/start", chat_id=10_000 + number)
    assert len(logs) == len(chat.operator.notes) == 100


async def test_a_command_that_waited_too_long_is_not_obeyed(chat):
    answer = await chat.says("/pause night", sent_at=NOON - timedelta(minutes=2, seconds=1))
    assert "NOT obeyed" in answer
    assert "send it again" in answer
    assert chat.operator.calls == []
    assert [note.accepted for note in chat.operator.notes] == [False]
    await chat.says("/pause night", sent_at=NOON - timedelta(minutes=1, seconds=59))
    assert len(chat.operator.calls) == 1


async def test_in_a_group_commands_work_with_and_without_the_bots_name(chat):
    await chat.in_group("/pause@guardbot night 1h")
    await chat.in_group("/resume night")
    assert chat.operator.calls == [
        ("pause", "night", timedelta(hours=1), "telegram chat -100200, user 4711"),
        ("resume", "night", "telegram chat -100200, user 4711"),
    ]


@pytest.mark.parametrize("text", ["/pause@otherbot night", "good morning", "/weather", "", "  "])
async def test_in_a_group_what_is_for_others_is_let_pass(chat, text):
    assert await chat.in_group(text) is None
    assert (chat.operator.calls, chat.operator.notes) == ([], [])


@pytest.mark.parametrize("text", ["hello", "/stop", "/"])
async def test_in_private_what_is_no_command_is_answered_with_the_list_of_them(chat, text):
    answer = await chat.says(text)
    assert answer.startswith("That is no command.")
    assert "/pause GUARD" in answer
    assert [note.accepted for note in chat.operator.notes] == [False]


async def test_a_flood_is_told_once_and_then_left_alone_for_a_minute(chat):
    answers = [await chat.says("/help") for _ in range(PER_MINUTE + 5)]
    assert all("/status" in answer for answer in answers[:PER_MINUTE])
    assert "none is obeyed for a minute" in answers[PER_MINUTE]
    assert answers[PER_MINUTE + 1 :] == [None] * 4
    assert await chat.in_group("/help") is not None, "another chat is not held back"
    chat.clock.advance(59)
    assert await chat.says("/help") is None
    chat.clock.advance(2)
    assert "/status" in await chat.says("/help")


async def test_an_answer_fits_into_one_message_and_says_what_it_leaves_out(chat):
    many = tuple(replace(TRADE, position_id=f"trade-{n}", level=100 - n) for n in range(100))
    chat.operator.now = an_overview(positions=many)
    answer = await chat.says("/status")
    assert 3_800 < len(answer) <= 4096
    assert "trade-0 " in answer
    shown = answer.count("margin level")
    # Besides positions an empty line and the time are left out.
    assert answer.splitlines()[-1] == f"… and {100 - shown + 2} more lines"


async def test_what_is_recorded_of_a_command_is_one_short_line(chat):
    await chat.says("/pause\x1b[31m night\n" + "x" * 5_000)
    (note,) = chat.operator.notes
    assert len(note.command) <= 200
    assert note.command.isprintable()
