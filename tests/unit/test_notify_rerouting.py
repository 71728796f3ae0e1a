"""Other channels while the telegraph runs: nothing is lost, and nothing is cut off."""

import asyncio
from dataclasses import replace

import pytest

from marginguard.domain.notification import NotificationStatus
from marginguard.notify.channel import Delivered
from marginguard.notify.preferences import Preferences
from tests.notifying import (
    DOWN,
    LONG_S,
    QUICK,
    FakeChannel,
    MemoryStore,
    a_notice,
    a_person,
    a_routing,
    a_telegraph,
    an_alarm,
    running,
)
from tests.unit.fakes import FakeClock

DELIVERED, FAILED = NotificationStatus.DELIVERED, NotificationStatus.FAILED
PATIENT = replace(QUICK, first_backoff_s=600.0, max_backoff_s=600.0)


@pytest.fixture
def store():
    return MemoryStore()


def only(*channels):
    return a_person(preferences=Preferences(channels=channels))


async def test_what_waits_for_a_broken_channel_goes_at_once_by_the_corrected_one(store):
    broken, mended = FakeChannel("email", DOWN), FakeChannel("email")
    person = only("email")
    telegraph = a_telegraph([broken], person, store=store, clock=FakeClock(), settings=PATIENT)
    async with running(telegraph):
        telegraph.tell(first := a_notice())
        await store.until(lambda: (row := store.of(first, "email")) and row.attempts == 1)
        telegraph.tell(second := a_notice(position_id="trade-2"))
        await store.until(lambda: store.of(second, "email"))
        telegraph.reroute(a_routing([mended], person), channels={"email": mended})
        await mended.until(2)
    assert {message.id for message in mended.sent} == {first.id, second.id}
    assert len(broken.sent) == 1
    assert broken.closed
    assert mended.closed


async def test_a_send_under_way_ends_on_its_channel_before_that_is_closed(store):
    class Held(FakeChannel):
        def __init__(self):
            super().__init__("email")
            self.go_on = asyncio.Event()

        async def send(self, message):
            await super().send(message)
            await self.go_on.wait()
            assert not self.closed
            return Delivered()

    held, other = Held(), FakeChannel("email")
    person = only("email")
    telegraph = a_telegraph([held], person, store=store, clock=FakeClock())
    async with running(telegraph):
        telegraph.tell(first := a_notice())
        await held.until(1)
        telegraph.tell(second := a_notice(position_id="trade-2"))
        await store.until(lambda: store.of(second, "email"))
        telegraph.reroute(a_routing([other], person), channels={"email": other})
        assert other.sent == []
        held.go_on.set()
        await other.until(1)
        assert held.closed
    assert store.of(first, "email").status is DELIVERED
    assert [message.id for message in other.sent] == [second.id]


async def test_a_channel_that_is_set_up_by_a_reload_is_used(store):
    telegraph = a_telegraph([], only("sms"), store=store, clock=FakeClock())
    sms = FakeChannel("sms")
    async with running(telegraph):
        telegraph.reroute(a_routing([sms], only("sms")), channels={"sms": sms})
        telegraph.tell(later := a_notice())
        await sms.until(1)
    assert sms.sent[-1].id == later.id


async def test_what_waits_for_a_channel_that_is_gone_turns_to_the_next(store):
    email, sms = FakeChannel("email", DOWN), FakeChannel("sms")
    person = replace(
        only("email", "sms"),
        preferences=Preferences(channels=("email", "sms"), events={"sms": frozenset()}),
    )
    telegraph = a_telegraph([email, sms], person, store=store, clock=FakeClock(), settings=PATIENT)
    async with running(telegraph):
        telegraph.tell(alarm := an_alarm())
        await store.until(lambda: (row := store.of(alarm, "email")) and row.attempts == 1)
        assert sms.sent == []
        telegraph.reroute(a_routing([sms], person), channels={"email": None})
        await sms.until(1)
    assert sms.sent[0].id == alarm.id
    assert store.of(alarm, "email").status is FAILED
    assert email.closed


async def test_a_channel_that_hangs_while_it_is_sent_by_does_not_hold_up_the_others(store):
    hanging, fine, other = FakeChannel("email", "hang"), FakeChannel("sms"), FakeChannel("email")
    settings = replace(QUICK, send_limit_s=600.0, drain_timeout_s=0.01)
    person = only("email", "sms")
    telegraph = a_telegraph(
        [hanging, fine], person, store=store, clock=FakeClock(), settings=settings
    )
    async with running(telegraph), asyncio.timeout(LONG_S):
        telegraph.tell(a_notice())
        await hanging.until(1)
        telegraph.reroute(a_routing([other, fine], person), channels={"email": other})
        telegraph.tell(a_notice(position_id="trade-2"))
        await fine.until(2)
    assert hanging.closed
    assert other.closed


async def test_a_channel_that_fails_to_close_ends_nothing(store):
    class Stubborn(FakeChannel):
        async def aclose(self):
            await super().aclose()
            raise OSError("the other side has gone")

    stubborn, other = Stubborn("email"), FakeChannel("email")
    person = only("email")
    telegraph = a_telegraph([stubborn], person, store=store, clock=FakeClock())
    async with running(telegraph):
        telegraph.reroute(a_routing([other], person), channels={"email": other})
        telegraph.tell(a_notice())
        await other.until(1)
    assert stubborn.closed
    assert other.closed
