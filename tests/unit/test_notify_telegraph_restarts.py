"""Telling users: what was unfinished, after a restart and when it is read again."""

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from marginguard.notify.channel import Delivered
from tests.notifying import (
    LONG_S,
    QUICK,
    REFUSED,
    FakeChannel,
    MemoryStore,
    a_notice,
    a_notification,
    a_telegraph,
    after,
    an_alarm,
    running,
)
from tests.unit.deliveries import DELIVERED, FAILED, PENDING, status
from tests.unit.fakes import FakeClock


@pytest.fixture
def store():
    return MemoryStore()


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
