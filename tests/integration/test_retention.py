"""What is deleted from a real PostgreSQL when it is old, and what is kept whatever its age."""

import asyncio
from datetime import timedelta

import pytest
from uuid_utils.compat import uuid7

from marginguard.domain.errors import DatabaseUnavailable
from marginguard.domain.records import ActionStatus, ExecutionStatus
from marginguard.storage.database import acquired
from marginguard.storage.link import DatabaseLink
from marginguard.storage.records import apply
from marginguard.storage.retention import Retention, RetentionRules
from tests.integration.relay import relayed
from tests.records import NOON, a_command, a_guard_state, an_action, an_execution, settled

PATIENCE_S = 30.0
EAGER = RetentionRules(batch_rows=2, first_after_s=0.0, every_s=PATIENCE_S, pause_s=0.0)
DAY = timedelta(days=1)


class FixedClock:
    def now(self):
        return NOON

    def monotonic(self):
        return 0.0


@pytest.fixture
async def link(database_url):
    link = DatabaseLink(database_url)
    await link.connect()
    yield link
    await link.close(timeout_s=PATIENCE_S)


def retention_of(link, rules=EAGER):
    return Retention(link, clock=FixedClock(), rules=rules)


async def fetch(link, query, *arguments):
    async with acquired(await link.connect()) as connection:
        return [tuple(row) for row in await connection.fetch(query, *arguments)]


def ran(age, status=ExecutionStatus.COMPLETED):
    at = NOON - age
    return an_execution(status=status, started_at=at, finished_at=at)


def acted(age, status=ActionStatus.DONE):
    if status is ActionStatus.DONE:
        return settled(an_action(intended_at=NOON - age))
    return an_action(intended_at=NOON - age, status=status)


async def insert_notification(link, age, status, *, notice_id=None, channel="email"):
    notice_id = notice_id or uuid7()
    at = NOON - age
    await fetch(
        link,
        "INSERT INTO notifications (id, user_id, channel, event, kind, severity, notice, subject,"
        " text, late_note, status, attempts, created_at, next_attempt_at, settled_at, revision)"
        " VALUES ($1, 'owner', $2, 'e', 'k', 'info', '{}', '', '', '', $3::text, 1, $4, $4,"
        " CASE WHEN $3::text = 'pending' THEN NULL ELSE $4::timestamptz END, 1)",
        notice_id,
        channel,
        status,
        at,
    )
    return notice_id


async def until_executions(link, count):
    while True:
        if await fetch(link, "SELECT count(*) FROM executions") == [(count,)]:
            return
        await asyncio.sleep(0.01)


async def kept(link, query):
    """Return the ages in days of what is left, youngest first."""
    return sorted((NOON - row[0]).days for row in await fetch(link, query))


async def test_executions_are_kept_for_as_long_as_their_end_deserves(link):
    ages = (89 * DAY, 91 * DAY, 364 * DAY, 366 * DAY)
    for status in ExecutionStatus:
        await apply(await link.connect(), [ran(age, status) for age in ages])
    deleted = await retention_of(link).sweep(asyncio.Event())
    of_status = "SELECT started_at FROM executions WHERE status = '{}'"
    assert await kept(link, of_status.format("completed")) == [89]
    assert await kept(link, of_status.format("skipped")) == [89]
    assert await kept(link, of_status.format("failed")) == [89, 91, 364]
    assert await kept(link, of_status.format("partial")) == [89, 91, 364]
    assert deleted["executions"] == 8


async def test_a_deleted_execution_stays_counted(link):
    await apply(await link.connect(), [ran(100 * DAY), ran(1 * DAY)])
    await retention_of(link).sweep(asyncio.Event())
    assert await fetch(link, "SELECT executions FROM guard_stats") == [(2,)]


async def test_settled_actions_are_kept_for_a_year(link):
    await apply(await link.connect(), [acted(91 * DAY), acted(366 * DAY)])
    await retention_of(link).sweep(asyncio.Event())
    assert await kept(link, "SELECT intended_at FROM actions") == [91]


@pytest.mark.parametrize("status", [ActionStatus.INTENDED, ActionStatus.SENT, ActionStatus.UNKNOWN])
async def test_an_action_whose_end_is_not_known_is_never_forgotten(link, status):
    await apply(await link.connect(), [acted(4000 * DAY, status), a_guard_state()])
    await retention_of(link).sweep(asyncio.Event())
    assert await kept(link, "SELECT intended_at FROM actions") == [4000]
    assert await fetch(link, "SELECT count(*) FROM guard_state") == [(1,)]


async def test_commands_are_kept_for_a_year(link):
    commands = [a_command(at=NOON - days * DAY) for days in (91, 366)]
    await apply(await link.connect(), commands)
    await retention_of(link).sweep(asyncio.Event())
    assert await kept(link, "SELECT at FROM commands") == [91]


async def test_the_margin_history_is_kept_for_ninety_days(link):
    for days in (1, 89, 91, 92, 93, 94, 95):
        await fetch(
            link,
            "INSERT INTO margin_history VALUES ('a', 'p', $1, NULL, 1, 1, 1, 1, 'safe')",
            NOON - timedelta(days=days),
        )
    deleted = await retention_of(link).sweep(asyncio.Event())
    assert deleted["margin_history"] == 5, "more than two batches"
    assert await kept(link, "SELECT seen_at FROM margin_history") == [1, 89]


async def test_notifications_are_kept_like_executions_and_while_they_are_pending(link):
    for days in (89, 91, 366):
        await insert_notification(link, days * DAY, "delivered")
        await insert_notification(link, days * DAY, "failed")
        await insert_notification(link, days * DAY, "pending")
    await retention_of(link).sweep(asyncio.Event())
    of_status = "SELECT created_at FROM notifications WHERE status = '{}'"
    assert await kept(link, of_status.format("delivered")) == [89]
    assert await kept(link, of_status.format("failed")) == [89, 91]
    assert await kept(link, of_status.format("pending")) == [89, 91, 366]


async def test_what_was_tried_before_a_pending_notification_is_kept_with_it(link):
    notice_id = await insert_notification(link, 400 * DAY, "failed", channel="telegram")
    await insert_notification(link, 400 * DAY, "pending", notice_id=notice_id)
    await retention_of(link).sweep(asyncio.Event())
    assert await fetch(link, "SELECT count(*) FROM notifications") == [(2,)]


async def test_the_rules_decide_on_the_ages(link):
    await apply(await link.connect(), [ran(3 * DAY), ran(5 * DAY, ExecutionStatus.FAILED)])
    rules = RetentionRules(days=2, failure_days=4)
    await retention_of(link, rules).sweep(asyncio.Event())
    assert await fetch(link, "SELECT count(*) FROM executions") == [(0,)]


@pytest.mark.parametrize(("days", "failure_days"), [(0, 10), (-1, 10), (10, 9)])
def test_rules_that_make_no_sense_are_refused(days, failure_days):
    with pytest.raises(ValueError, match="at least as long"):
        RetentionRules(days=days, failure_days=failure_days)


async def test_a_stop_ends_it_after_the_batch_at_hand(link):
    await apply(await link.connect(), [ran(100 * DAY) for _ in range(6)])
    stop = asyncio.Event()
    rules = RetentionRules(batch_rows=2, pause_s=PATIENCE_S)
    sweeping = asyncio.create_task(retention_of(link, rules).sweep(stop))
    async with asyncio.timeout(PATIENCE_S):
        await until_executions(link, 4)
        stop.set()
        assert (await sweeping)["executions"] == 2
    assert await fetch(link, "SELECT count(*) FROM executions") == [(4,)]


async def test_it_runs_on_through_an_outage_and_deletes_after_it(database_url):
    around = DatabaseLink(database_url)
    async with relayed(database_url) as relay:
        link = DatabaseLink(relay.url)
        await apply(await link.connect(), [ran(100 * DAY)])
        await relay.cut()
        stop = asyncio.Event()
        rules = RetentionRules(first_after_s=0.0, every_s=0.01)
        failed = asyncio.Event()

        class Watched(Retention):
            async def sweep(self, stop):
                try:
                    return await super().sweep(stop)
                except DatabaseUnavailable:
                    failed.set()
                    raise

        running = asyncio.create_task(Watched(link, clock=FixedClock(), rules=rules).run(stop))
        async with asyncio.timeout(PATIENCE_S):
            await failed.wait()
            await relay.heal()
            await until_executions(around, 0)
            stop.set()
            await running
        await around.close(timeout_s=PATIENCE_S)
        await link.close(timeout_s=PATIENCE_S)


async def test_before_the_database_has_ever_answered_it_only_waits(tmp_path):
    link = DatabaseLink(f"postgresql://me@/db?host={tmp_path}")
    with pytest.raises(DatabaseUnavailable):
        await retention_of(link).sweep(asyncio.Event())
