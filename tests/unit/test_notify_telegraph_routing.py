"""Telling users: events, quiet hours, limits, and where a critical notice turns."""

import asyncio
from dataclasses import replace
from datetime import time
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs

from marginguard.aio import SystemClock
from marginguard.domain.notice import Event, NoticeKind
from marginguard.notify.channel import Delivered
from marginguard.notify.preferences import QuietHours
from tests.notifying import (
    DOWN,
    LONG_S,
    QUICK,
    REFUSED,
    FakeChannel,
    MemoryStore,
    a_notice,
    a_notification,
    a_routing,
    a_telegraph,
    after,
    an_alarm,
    now_alarm,
    running,
)
from tests.unit.deliveries import DELIVERED, FAILED, PENDING, only, status
from tests.unit.fakes import FakeClock


@pytest.fixture
def store():
    return MemoryStore()


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
