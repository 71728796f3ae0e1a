"""The whole way of a notice: real PostgreSQL, real sockets, outages, restarts."""

import asyncio
import statistics
import time
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from marginguard.aio import SystemClock
from marginguard.domain.notification import NotificationStatus
from marginguard.notify.outbox_rules import OutboxSettings
from marginguard.notify.preferences import Preferences
from marginguard.notify.webhook_channel import WebhookChannel, WebhookChannelSettings
from marginguard.storage.database import acquired
from marginguard.storage.link import DatabaseLink
from marginguard.storage.notifications import NotificationStore, NotificationStoreSettings
from tests.integration.relay import relayed
from tests.notifying import (
    LONG_S,
    FakeChannel,
    MemoryStore,
    a_person,
    a_routing,
    a_telegraph,
    now_alarm,
    running,
)


class Receiver:
    """Takes webhooks; with `hang` it never answers, with `status` it answers so."""

    def __init__(self):
        self.bodies = []
        self.status = 204
        self.hanging = False
        self.let_go = asyncio.Event()
        self.arrived = asyncio.Condition()

    async def receive(self, request):
        self.bodies.append(await request.json())
        async with self.arrived:
            self.arrived.notify_all()
        if self.hanging:
            await self.let_go.wait()
        return web.Response(status=self.status)

    async def until(self, count):
        async with asyncio.timeout(LONG_S), self.arrived:
            await self.arrived.wait_for(lambda: len(self.bodies) >= count)


@pytest.fixture
async def receiver():
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.receive)
    async with TestServer(app) as server:
        receiver.url = str(server.make_url("/hook"))
        yield receiver
        receiver.let_go.set()


@asynccontextmanager
async def storing(url, directory):
    """Give a store that writes in the background, as the daemon has it."""
    link = DatabaseLink(url)
    await link.connect()
    settings = NotificationStoreSettings(save_timeout_s=0.5, interval_s=0.05)
    store = NotificationStore(link, state_dir=directory, settings=settings)
    stop = asyncio.Event()
    task = asyncio.create_task(store.run(stop))
    try:
        yield store
    finally:
        stop.set()
        await task
        await link.close(timeout_s=5.0)


def webhook(timeout_s=600.0):
    return WebhookChannel(WebhookChannelSettings(timeout_s=timeout_s))


def by_webhook(receiver, channels=("webhook",)):
    return a_person(
        addresses={"webhook": receiver.url, "email": "owner@example.com"},
        preferences=Preferences(channels=channels),
    )


def telegraph_of(channels, receiver, store, **settings):
    values = {"first_backoff_s": 0.05, "max_backoff_s": 0.1, "refresh_s": 0.05, **settings}
    person = by_webhook(receiver, tuple(channel.name for channel in channels))
    return a_telegraph(
        channels,
        store=store,
        clock=SystemClock(),
        settings=OutboxSettings(**values),
        routing=a_routing(channels, person),
    )


async def statuses(store):
    async with acquired(store._pool()) as connection:
        rows = await connection.fetch("SELECT id, status FROM notifications ORDER BY id")
    return {str(row["id"]): NotificationStatus(row["status"]) for row in rows}


async def delivered(store, notice):
    async with asyncio.timeout(LONG_S):
        # The database does not call.
        while (await statuses(store)).get(str(notice.id)) is not NotificationStatus.DELIVERED:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_notice_goes_from_telling_to_the_receiver_and_into_the_record(
    database_url, tmp_path, receiver
):
    async with storing(database_url, tmp_path) as store:
        async with running(telegraph_of([webhook()], receiver, store)) as telegraph:
            telegraph.tell(alarm := now_alarm())
        assert await statuses(store) == {str(alarm.id): NotificationStatus.DELIVERED}
    assert [body["id"] for body in receiver.bodies] == [str(alarm.id)]


async def test_what_a_killed_daemon_had_not_delivered_the_next_one_sends_with_the_same_id(
    database_url, tmp_path, receiver
):
    receiver.hanging = True
    async with storing(database_url, tmp_path) as store:
        killed = telegraph_of([webhook()], receiver, store)
        task = asyncio.create_task(killed.run(asyncio.Event()))
        killed.tell(alarm := now_alarm())
        await receiver.until(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    receiver.hanging = False
    async with (
        storing(database_url, tmp_path) as store,
        running(telegraph_of([webhook()], receiver, store)),
    ):
        await receiver.until(2)
        await delivered(store, alarm)
    assert [body["id"] for body in receiver.bodies] == [str(alarm.id)] * 2


async def test_telling_goes_on_without_the_database_and_is_recorded_afterwards(
    database_url, tmp_path, receiver
):
    """Failure 28: Postgres down."""
    async with (
        relayed(database_url) as relay,
        storing(relay.url, tmp_path) as store,
        running(telegraph_of([webhook()], receiver, store)) as telegraph,
    ):
        await relay.cut()
        telegraph.tell(alarm := now_alarm())
        await receiver.until(1)
        await relay.heal()
        await delivered(store, alarm)
    assert len(receiver.bodies) == 1


async def test_an_outage_of_both_database_and_receiver_survived_by_a_restart_loses_nothing(
    database_url, tmp_path, receiver
):
    receiver.hanging = True
    async with relayed(database_url) as relay:
        async with storing(relay.url, tmp_path) as store:
            await relay.cut()
            telegraph = telegraph_of([webhook()], receiver, store, drain_timeout_s=0.05)
            async with running(telegraph):
                telegraph.tell(alarm := now_alarm())
                await receiver.until(1)
        await relay.heal()
        receiver.hanging = False
        async with (
            storing(relay.url, tmp_path) as store,
            running(telegraph_of([webhook()], receiver, store)),
        ):
            await delivered(store, alarm)
    assert [body["id"] for body in receiver.bodies] == [str(alarm.id)] * 2


async def test_telling_is_no_later_for_channels_that_hang_for_ever(
    database_url, tmp_path, receiver
):
    """Failure 33: compared in one run, so that the machine's speed says nothing."""
    receiver.hanging = True
    hung = [webhook(), FakeChannel("email", "hang")]

    def told_in_s(telegraph):
        notice = now_alarm()
        began_s = time.perf_counter()
        telegraph.tell(notice)
        return time.perf_counter() - began_s

    async with storing(database_url, tmp_path) as store:
        with_hung = telegraph_of(hung, receiver, store, drain_timeout_s=0.01)
        without = a_telegraph([], store=MemoryStore(), clock=SystemClock())
        async with running(with_hung), running(without):
            with_hung.tell(now_alarm())
            await receiver.until(1)
            await hung[1].until(1)
            told = {with_hung: [], without: []}
            for _ in range(300):
                for telegraph, times in told.items():
                    times.append(told_in_s(telegraph))
                # What is told now is worked on while the next one is told.
                await asyncio.sleep(0)
    slow, fast = (statistics.median(times) for times in told.values())
    print(f"tell(): {slow * 1e6:.0f} us with hung channels, {fast * 1e6:.0f} us without any")
    assert slow < 3 * fast
