"""Telling users: queues of their own, retries, coalescing, floods, faults."""

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from marginguard.aio import SystemClock
from marginguard.domain.notice import NoticeKind, Severity
from marginguard.notify.channel import Delivered
from marginguard.notify.outbox_rules import OutboxSettings
from tests.notifying import (
    DOWN,
    LONG_S,
    QUICK,
    REFUSED,
    FakeChannel,
    MemoryStore,
    a_notice,
    a_routing,
    a_telegraph,
    after,
    an_alarm,
    now_alarm,
    running,
)
from tests.unit.deliveries import DELIVERED, FAILED, PENDING, status
from tests.unit.fakes import FakeClock


@pytest.fixture
def store():
    return MemoryStore()


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
