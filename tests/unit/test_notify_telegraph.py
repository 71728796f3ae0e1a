"""Telling users: queues of their own, retries, escalation, coalescing, limits, restarts."""

import asyncio
from dataclasses import replace
from datetime import time
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs

from marginguard.aio import SystemClock
from marginguard.domain.notice import Event, NoticeKind, Severity
from marginguard.domain.notification import NotificationStatus
from marginguard.notify.channel import Delivered
from marginguard.notify.outbox_rules import OutboxSettings
from marginguard.notify.preferences import Preferences, QuietHours
from tests.notifying import (
    DOWN,
    LONG_S,
    QUICK,
    REFUSED,
    FakeChannel,
    MemoryStore,
    a_notice,
    a_notification,
    a_person,
    a_routing,
    a_telegraph,
    after,
    an_alarm,
    now_alarm,
    running,
)
from tests.unit.fakes import FakeClock

DELIVERED, FAILED, PENDING = (
    NotificationStatus.DELIVERED,
    NotificationStatus.FAILED,
    NotificationStatus.PENDING,
)


@pytest.fixture
def store():
    return MemoryStore()


def status(store, notice, channel):
    row = store.of(notice, channel)
    return None if row is None else row.status


def only(*channels, **preferences):
    return a_person(preferences=Preferences(channels=channels, **preferences))


async def test_a_notice_reaches_every_channel_with_its_id_and_is_recorded(store):
    channels = [FakeChannel("email"), FakeChannel("webhook")]
    notice = a_notice()
    async with running(a_telegraph(channels, store=store, clock=FakeClock())) as telegraph:
        telegraph.tell(notice)
    for channel in channels:
        (message,) = channel.sent
        assert (message.id, message.to) == (notice.id, f"owner@{channel.name}")
        row = store.of(notice, channel.name)
        assert (row.status, row.attempts) == (DELIVERED, 0)
        assert row.settled_at is not None
    assert channels[1].sent[0].payload["id"] == str(notice.id)
    assert all(channel.closed for channel in channels)


async def test_a_notification_is_kept_before_it_is_sent():
    email = FakeChannel("email")

    class Slow(MemoryStore):
        def __init__(self):
            super().__init__()
            self.asked, self.go_on = asyncio.Event(), asyncio.Event()

        async def save(self, rows):
            self.asked.set()
            await self.go_on.wait()
            await super().save(rows)

    store = Slow()
    telegraph = a_telegraph([email], store=store, clock=FakeClock())
    async with running(telegraph), asyncio.timeout(LONG_S):
        telegraph.tell(a_notice())
        await store.asked.wait()
        telegraph.reroute(a_routing([email]))  # which makes the channel look for work
        for _ in range(5):
            await asyncio.sleep(0)
        assert email.sent == []
        store.go_on.set()
        await email.until(1)


async def test_every_notice_is_in_the_log_even_with_nobody_to_tell(store):
    with capture_logs() as logs:
        async with running(a_telegraph([], store=store, clock=FakeClock())) as telegraph:
            telegraph.tell(an_alarm())
        telegraph.tell(a_notice())
    assert [(log["event"], log["log_level"]) for log in logs] == [
        ("notice.unprotected", "critical"),
        ("notice.position_changed", "warning"),
        ("notify.not_told", "warning"),
    ]
    assert store.rows == {}


async def test_an_action_of_which_nobody_is_told_is_recorded_as_told(store):
    notice = a_notice(kind=NoticeKind.ACTION_DONE, data={"action_id": "x"})
    async with running(a_telegraph([], store=store, clock=FakeClock())) as telegraph:
        telegraph.tell(notice)
    assert store.of(notice, "log", user_id="").status is DELIVERED


async def test_a_channel_that_hangs_for_ever_delays_no_other(store):
    """Failure 33: the mail server hangs."""
    hanging, fine = FakeChannel("email", "hang"), FakeChannel("webhook")
    settings = OutboxSettings(send_limit_s=600.0, drain_timeout_s=0.01)
    telegraph = a_telegraph([hanging, fine], store=store, clock=FakeClock(), settings=settings)
    notices = [a_notice(position_id=f"trade-{number}") for number in range(20)]
    async with running(telegraph):
        for notice in notices:
            telegraph.tell(notice)
        await hanging.until(1)
        await fine.until(20)
        await store.until(lambda: status(store, notices[-1], "webhook") is DELIVERED)
    assert [status(store, notice, "email") for notice in notices] == [PENDING] * 20


async def test_a_send_that_takes_too_long_counts_as_failed_and_is_made_again(store):
    slow = FakeChannel("email", "hang", Delivered())
    settings = replace(QUICK, send_limit_s=0.02)
    telegraph = a_telegraph([slow], store=store, clock=SystemClock(), settings=settings)
    async with running(telegraph):
        telegraph.tell(notice := a_notice())
        await store.until(lambda: status(store, notice, "email") is DELIVERED)
    row = store.of(notice, "email")
    assert row.attempts == 1
    assert "took longer than 0.02 s" in row.last_error
    assert [message.id for message in slow.sent] == [notice.id, notice.id]


async def test_a_fault_in_a_channel_ends_neither_it_nor_the_daemon(store):
    faulty = FakeChannel("email", RuntimeError("bug"), Delivered())
    telegraph = a_telegraph([faulty], store=store, clock=SystemClock())
    async with running(telegraph):
        telegraph.tell(notice := a_notice())
        await store.until(lambda: status(store, notice, "email") is DELIVERED)


async def test_a_refusal_for_good_is_not_tried_again(store):
    channel = FakeChannel("email", REFUSED)
    results = []
    telegraph = a_telegraph(
        [channel],
        store=store,
        clock=FakeClock(),
        on_result=lambda name, word: results.append((name, word)),
    )
    async with running(telegraph):
        telegraph.tell(notice := a_notice())
    row = store.of(notice, "email")
    assert (row.status, row.attempts, len(channel.sent)) == (FAILED, 1, 1)
    assert (row.last_error, row.action, row.advice) == ("refused", "verify_smtp_config", "do it")
    assert results == [("email", "failed")]


async def test_a_notice_that_is_not_critical_is_given_up_after_its_attempts(store):
    channel = FakeChannel("email", DOWN)
    settings = replace(QUICK, max_attempts=3)
    telegraph = a_telegraph([channel], store=store, clock=SystemClock(), settings=settings)
    async with running(telegraph):
        telegraph.tell(notice := a_notice())
        await store.until(lambda: status(store, notice, "email") is FAILED)
    assert len(channel.sent) == 3
    assert telegraph.unreachable == frozenset()


async def test_a_wish_to_wait_is_obeyed_for_all_of_the_user_and_repeats_are_coalesced(store):
    """Failure 33: Telegram's flood control."""
    clock = FakeClock()
    flood = FakeChannel("telegram", replace(DOWN, retry_after_s=40.0), Delivered())
    telegraph = a_telegraph([flood], store=store, clock=clock)
    first, *repeats = [a_notice(text=f"Look {n}.", at=after(seconds=n)) for n in range(4)]
    async with running(telegraph):
        telegraph.tell(first)
        await store.until(lambda: (row := store.of(first, "telegram")) and row.attempts == 1)
        for notice in repeats:
            telegraph.tell(notice)
        await store.until(lambda: status(store, repeats[0], "telegram") is PENDING)
        clock.advance(39.0)
        telegraph.reroute(a_routing([flood]))
        await asyncio.sleep(0)
        assert len(flood.sent) == 1
        clock.advance(1.5)
        telegraph.reroute(a_routing([flood]))
        await flood.until(3)
    # What was never tried goes first: it is the news, and the other may be what is refused.
    newest, oldest = flood.sent[1:]
    assert newest.id == repeats[0].id
    assert "Look 3." in newest.text
    assert "Happened: 3 times" in newest.text
    assert oldest.id == first.id
    assert {key.id for key in store.rows} == {first.id, repeats[0].id}


async def test_what_was_attempted_takes_no_repetition_and_actions_none_at_all(store):
    clock = FakeClock()
    channel = FakeChannel("email", DOWN)
    telegraph = a_telegraph([channel], store=store, clock=clock)
    async with running(telegraph):
        telegraph.tell(a_notice())
        await store.until(lambda: any(row.attempts for row in store.rows.values()))
        telegraph.tell(a_notice())
        telegraph.tell(a_notice())
        telegraph.tell(a_notice(position_id="trade-2"))
        telegraph.tell(a_notice(severity=Severity.INFO))
        for _ in range(2):
            telegraph.tell(a_notice(kind=NoticeKind.ACTION_DONE))
        await store.until(lambda: len(store.rows) == 6)
    counts = [row.notice.data.get("count") for row in store.rows.values()]
    assert counts == [None, 2, None, None, None, None]


async def test_quiet_hours_hold_what_is_not_critical_and_coalesce_it(store):
    clock = FakeClock()  # it begins at noon, UTC
    quiet = QuietHours(start=time(11), end=time(13), timezone=ZoneInfo("UTC"))
    channel = FakeChannel("email")
    telegraph = a_telegraph([channel], only("email", quiet_hours=quiet), store=store, clock=clock)
    async with running(telegraph):
        telegraph.tell(quietly := a_notice())
        await store.until(lambda: (row := store.of(quietly, "email")) and row.revision == 1)
        telegraph.tell(a_notice(at=after(minutes=1)))
        telegraph.tell(alarm := an_alarm())
        await store.until(lambda: status(store, alarm, "email") is DELIVERED)
        assert [message.id for message in channel.sent] == [alarm.id]
        assert store.of(quietly, "email").next_attempt_at == after(hours=1)
        clock.advance(3600.0)
        telegraph.reroute(a_routing([channel], only("email", quiet_hours=quiet)))
        await channel.until(2)
    message = channel.sent[1]
    assert message.id == quietly.id
    assert message.full_text.startswith("Late: this was meant for 2026-03-14 12:01:00 UTC.")
    assert "Happened: 2 times" in message.text


async def test_the_limits_hold_what_is_not_critical_and_count_what_came_before_a_restart(store):
    clock = FakeClock()
    earlier = a_notification(
        status=DELIVERED, settled_at=after(minutes=-59), notice=a_notice(position_id="old")
    )
    store.rows[earlier.key] = earlier
    channel = FakeChannel("email")
    person = only("email", max_per_hour=2)
    telegraph = a_telegraph([channel], person, store=store, clock=clock)
    notices = [a_notice(position_id=f"trade-{number}") for number in range(3)]
    async with running(telegraph):
        await asyncio.sleep(0)
        telegraph.tell(notices[0])
        await store.until(lambda: status(store, notices[0], "email") is DELIVERED)
        telegraph.tell(notices[1])
        await store.until(lambda: (row := store.of(notices[1], "email")) and row.revision == 1)
        assert store.of(notices[1], "email").next_attempt_at == after(minutes=1)
        telegraph.tell(alarm := an_alarm())
        await store.until(lambda: status(store, alarm, "email") is DELIVERED)
    assert [message.id for message in channel.sent] == [notices[0].id, alarm.id]


async def test_a_critical_notice_turns_to_the_next_channel_when_one_refuses(store):
    telegram, sms = FakeChannel("telegram", REFUSED), FakeChannel("sms")
    reserve = only("telegram", "sms", events={"sms": frozenset()})
    telegraph = a_telegraph([telegram, sms], reserve, store=store, clock=FakeClock())
    async with running(telegraph):
        telegraph.tell(alarm := an_alarm())
        telegraph.tell(trifle := a_notice())
    assert [message.id for message in sms.sent] == [alarm.id]
    assert status(store, alarm, "telegram") is FAILED
    assert status(store, trifle, "telegram") is FAILED
    assert telegraph.unreachable == frozenset()


async def test_a_single_hiccup_is_no_reason_to_turn_elsewhere_and_the_second_is(store):
    reserve = only("telegram", "sms", events={"sms": frozenset()})
    telegram, sms = FakeChannel("telegram", DOWN, Delivered()), FakeChannel("sms")
    telegraph = a_telegraph([telegram, sms], reserve, store=store, clock=SystemClock())
    async with running(telegraph):
        telegraph.tell(alarm := now_alarm())
        await store.until(lambda: status(store, alarm, "telegram") is DELIVERED)
    assert sms.sent == []
    telegram = FakeChannel("telegram", DOWN)
    telegraph = a_telegraph([telegram, sms], reserve, store=store, clock=SystemClock())
    async with running(telegraph):
        telegraph.tell(alarm := now_alarm())
        await sms.until(1)
    assert [message.id for message in sms.sent] == [alarm.id]


async def test_while_a_way_is_shut_a_critical_notice_goes_elsewhere_at_once(store):
    clock = FakeClock()
    reserve = only("telegram", "sms", events={"sms": frozenset()})
    telegram, sms = FakeChannel("telegram", DOWN), FakeChannel("sms")
    settings = replace(QUICK, first_backoff_s=60.0, max_backoff_s=60.0)
    telegraph = a_telegraph([telegram, sms], reserve, store=store, clock=clock, settings=settings)
    async with running(telegraph):
        telegraph.tell(first := an_alarm())
        await store.until(lambda: (row := store.of(first, "telegram")) and row.attempts == 1)
        clock.advance(61.0)
        telegraph.reroute(a_routing([telegram, sms], reserve))
        await sms.until(1)
        telegraph.tell(second := an_alarm(at=clock.now(), position_id="trade-2"))
        await sms.until(2)
    assert [message.id for message in sms.sent] == [first.id, second.id]
    assert len(telegram.sent) == 2
    assert status(store, second, "telegram") is PENDING


async def test_where_a_critical_notice_arrives_otherwise_the_reserve_is_left_alone(store):
    telegram, email, sms = (
        FakeChannel("telegram", REFUSED),
        FakeChannel("email"),
        FakeChannel("sms"),
    )
    reserve = only("telegram", "email", "sms", events={"sms": frozenset()})
    async with running(
        a_telegraph([telegram, email, sms], reserve, store=store, clock=FakeClock())
    ) as telegraph:
        telegraph.tell(alarm := an_alarm())
    assert status(store, alarm, "email") is DELIVERED
    assert sms.sent == []


async def test_escalation_goes_through_all_channels_in_order(store):
    channels = [FakeChannel("sms"), FakeChannel("email", REFUSED), FakeChannel("telegram", REFUSED)]
    person = only("telegram", "email", "sms", events=dict.fromkeys(("email", "sms"), frozenset()))
    telegraph = a_telegraph(channels, person, store=store, clock=FakeClock())
    with capture_logs() as logs:
        async with running(telegraph):
            telegraph.tell(alarm := an_alarm())
    assert [log["to"] for log in logs if log["event"] == "notify.escalated"] == ["email", "sms"]
    assert [message.id for message in channels[0].sent] == [alarm.id]


async def test_all_channels_failed_is_a_state_that_ends_when_something_arrives(store):
    """Failure 34: all channels dead."""
    states = []
    changed = asyncio.Event()

    def note(users):
        states.append(users)
        changed.set()

    email = FakeChannel("email", REFUSED, Delivered())
    telegram = FakeChannel("telegram", DOWN)
    telegraph = a_telegraph(
        [email, telegram], store=store, clock=SystemClock(), on_unreachable=note
    )
    with capture_logs() as logs:
        async with running(telegraph):
            telegraph.tell(now_alarm())
            async with asyncio.timeout(LONG_S):
                await changed.wait()
            assert telegraph.unreachable == {"owner"}
            telegraph.tell(later := now_alarm())
            await store.until(lambda: status(store, later, "email") is DELIVERED)
    assert states == [{"owner"}, set()]
    (told,) = [log for log in logs if log["event"] == "notify.all_channels_failed"]
    assert told["log_level"] == "critical"
    assert told["tried"] == ["email", "telegram"]
    assert "guarding goes on" in told["advice"]


async def test_failures_of_what_is_not_critical_are_not_all_channels_failed(store):
    telegraph = a_telegraph([FakeChannel("email", REFUSED)], store=store, clock=FakeClock())
    async with running(telegraph):
        telegraph.tell(a_notice())
    assert telegraph.unreachable == frozenset()


async def test_what_was_pending_at_a_stop_is_sent_at_the_next_start_with_the_same_id(store):
    clock = FakeClock()
    settings = replace(QUICK, drain_timeout_s=0.01)
    hanging = FakeChannel("email", "hang")
    with capture_logs() as logs:
        async with running(
            a_telegraph([hanging], store=store, clock=clock, settings=settings)
        ) as telegraph:
            telegraph.tell(notice := a_notice())
            await hanging.until(1)
    assert [log["notice_id"] for log in logs if log["event"] == "notify.undelivered"]
    clock.advance(3600.0)
    fine = FakeChannel("email")
    async with running(a_telegraph([fine], store=store, clock=clock)):
        await fine.until(1)
    assert fine.sent[0].id == notice.id
    assert fine.sent[0].late
    assert "12:00:00 UTC" in fine.sent[0].full_text
    assert status(store, notice, "email") is DELIVERED


async def test_after_a_restart_what_was_tried_already_decides_where_to_turn(store):
    alarm = an_alarm()
    rows = [
        a_notification(notice=alarm, channel="telegram", attempts=5),
        a_notification(notice=alarm, channel="email", status=FAILED, settled_at=after()),
    ]
    store.rows = {row.key: row for row in rows}
    channels = [FakeChannel("telegram", REFUSED), FakeChannel("email"), FakeChannel("sms")]
    async with running(a_telegraph(channels, store=store, clock=FakeClock())):
        await channels[2].until(1)
    assert channels[1].sent == []


async def test_what_waited_for_its_next_attempt_goes_out_when_the_way_proves_open(store):
    waiting = a_notification(
        notice=a_notice(position_id="old"), attempts=3, next_attempt_at=after(minutes=5)
    )
    store.rows = {waiting.key: waiting}
    email = FakeChannel("email")
    async with running(a_telegraph([email], store=store, clock=FakeClock())) as telegraph:
        telegraph.tell(notice := a_notice())
        await email.until(2)
    assert [message.id for message in email.sent] == [notice.id, waiting.id]


async def test_what_was_for_a_channel_that_is_gone_fails_and_a_critical_one_goes_elsewhere(store):
    alarm, trifle = an_alarm(), a_notice()
    rows = [a_notification(notice=notice, channel="telegram") for notice in (alarm, trifle)]
    store.rows = {row.key: row for row in rows}
    email = FakeChannel("email")
    async with running(a_telegraph([email], store=store, clock=FakeClock())):
        await email.until(1)
    assert [message.id for message in email.sent] == [alarm.id]
    assert status(store, trifle, "telegram") is FAILED


async def test_what_is_for_a_user_of_another_daemon_is_left_alone(store):
    row = a_notification(notice=an_alarm(), user_id="somebody else")
    store.rows = {row.key: row}
    email = FakeChannel("email")
    async with running(a_telegraph([email], store=store, clock=FakeClock())) as telegraph:
        telegraph.tell(notice := a_notice())
        await store.until(lambda: status(store, notice, "email") is DELIVERED)
    assert store.rows[row.key] is row
    assert len(email.sent) == 1


async def test_a_failed_one_that_is_made_pending_again_is_sent_and_is_late(store):
    clock = FakeClock()
    settings = replace(QUICK, refresh_s=0.01)
    channel = FakeChannel("email", REFUSED, Delivered())
    telegraph = a_telegraph([channel], store=store, clock=clock, settings=settings)
    async with running(telegraph):
        telegraph.tell(notice := a_notice())
        await store.until(lambda: status(store, notice, "email") is FAILED)
        clock.advance(1800.0)
        row = store.of(notice, "email")
        store.rows[row.key] = replace(
            row, status=PENDING, attempts=0, settled_at=None, revision=row.revision + 1
        )
        await store.until(lambda: status(store, notice, "email") is DELIVERED)
    assert [message.late for message in channel.sent] == [False, True]


async def test_an_old_reading_does_not_revive_what_is_delivered():
    settings = replace(QUICK, refresh_s=0.001)
    channel = FakeChannel("email")
    notice = a_notice()

    class Stale(MemoryStore):
        reads = 0

        def __init__(self):
            super().__init__()
            self.read_often = asyncio.Event()

        async def unfinished(self, *, resent_only=False):
            if status(self, notice, "email") is DELIVERED:
                self.reads += 1
            if self.reads == 5:
                self.read_often.set()
            return (a_notification(notice=notice),)

    store = Stale()
    telegraph = a_telegraph([channel], store=store, clock=FakeClock(), settings=settings)
    async with running(telegraph), asyncio.timeout(LONG_S):
        await store.read_often.wait()
    assert len(channel.sent) == 1


async def test_a_flood_drops_the_oldest_that_is_not_critical_and_never_a_critical_one(store):
    """Failure 35: a storm of alerts."""
    settings = OutboxSettings(capacity=5, drain_timeout_s=0.01)
    results = []
    telegraph = a_telegraph(
        [FakeChannel("email", "hang")],
        store=store,
        clock=FakeClock(),
        settings=settings,
        on_result=lambda name, word: results.append((name, word)),
    )
    alarms = [an_alarm(position_id=f"trade-{number}") for number in range(30)]
    trifles = [a_notice(position_id=f"trade-{number}") for number in range(30)]
    async with running(telegraph):
        for alarm, trifle in zip(alarms, trifles, strict=True):
            telegraph.tell(alarm)
            telegraph.tell(trifle)
        await store.until(lambda: len(store.rows) == 60)
    assert [status(store, alarm, "email") for alarm in alarms] == [PENDING] * 30
    statuses = [status(store, trifle, "email") for trifle in trifles]
    assert statuses == [FAILED] * 25 + [PENDING] * 5
    assert results == [("email", "dropped")] * 25


async def test_critical_ones_are_sent_first(store):
    settings = replace(QUICK, send_limit_s=0.05)
    slow = FakeChannel("email", "hang", Delivered())
    telegraph = a_telegraph([slow], store=store, clock=SystemClock(), settings=settings)
    async with running(telegraph):
        telegraph.tell(a_notice())
        await slow.until(1)
        telegraph.tell(a_notice(position_id="trade-2"))
        telegraph.tell(alarm := now_alarm())
        await slow.until(4)
    assert slow.sent[1].id == alarm.id


async def test_a_message_that_alone_is_refused_again_and_again_lets_others_through(store):
    poison, *others = [a_notice(position_id=f"trade-{number}") for number in range(4)]

    class Choosy(FakeChannel):
        async def send(self, message):
            await super().send(message)
            return DOWN if message.id == poison.id else Delivered()

    telegraph = a_telegraph([Choosy("email")], store=store, clock=SystemClock())
    async with running(telegraph):
        for notice in (poison, *others):
            telegraph.tell(notice)
        await store.until(
            lambda: all(status(store, notice, "email") is DELIVERED for notice in others)
        )


async def test_a_template_that_fails_costs_the_form_and_not_the_notice(store):
    class Broken:
        def message(self, *_):
            raise ZeroDivisionError

    channel = FakeChannel("webhook")
    telegraph = a_telegraph([channel], store=store, clock=FakeClock(), renderer=Broken())
    async with running(telegraph):
        telegraph.tell(alarm := an_alarm())
    (message,) = channel.sent
    assert message.text == alarm.text
    assert message.payload["type"] == "unprotected"


async def test_events_decide_where_a_notice_goes(store):
    email, webhook = FakeChannel("email"), FakeChannel("webhook")
    person = only("email", "webhook", events={"email": frozenset({Event.DAEMON})})
    async with running(
        a_telegraph([email, webhook], person, store=store, clock=FakeClock())
    ) as telegraph:
        telegraph.tell(a_notice())
        telegraph.tell(a_notice(kind=NoticeKind.DAEMON_STARTED))
    assert [message.kind for message in email.sent] == [NoticeKind.DAEMON_STARTED]
    assert len(webhook.sent) == 2


def test_a_routing_over_channels_that_nobody_sends_on_is_a_mistake(store):
    routing = a_routing([FakeChannel("sms")])
    with pytest.raises(ValueError, match="sms"):
        a_telegraph([], store=store, clock=FakeClock(), routing=routing)
