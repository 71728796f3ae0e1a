"""The outbox against a real PostgreSQL: kept, found again, resent, judged."""

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from marginguard.domain.errors import DatabaseUnavailable
from marginguard.domain.notice import NoticeKind
from marginguard.domain.notification import Notification, NotificationStatus
from marginguard.storage import notification_reading as reading
from marginguard.storage.database import acquired
from marginguard.storage.link import DatabaseLink
from marginguard.storage.notifications import (
    SPOOL_NAME,
    NotificationStore,
    NotificationStoreSettings,
    resend_failed,
)
from marginguard.storage.records import apply
from tests.integration.relay import relayed
from tests.notifying import a_notice, a_notification, after, an_alarm
from tests.records import a_stop_loss, an_action, settled
from tests.unit.strategies import NOON

DELIVERED, FAILED = NotificationStatus.DELIVERED, NotificationStatus.FAILED
HASTY = NotificationStoreSettings(save_timeout_s=0.3, flush_timeout_s=5.0)


@pytest.fixture
async def link(database_url):
    link = DatabaseLink(database_url)
    await link.connect()
    yield link
    await link.close(timeout_s=10.0)


@pytest.fixture
def store(link, tmp_path):
    return NotificationStore(link, state_dir=tmp_path)


async def read(link, query, *arguments, **more):
    async with acquired(link.pool) as connection:
        return await query(connection, *arguments, **more)


async def fetch(link, query):
    async with acquired(link.pool) as connection:
        return [tuple(row) for row in await connection.fetch(query)]


def full(**changes):
    """Return a row in which every field has a value."""
    return a_notification(
        **{
            "notice": a_notice(
                execution_id=uuid7(),
                data={"level": 81.5, "count": 2, "dry_run": False, "error": None, "odd": "a\x00b"},
            ),
            "html": "<p>A text.</p>",
            "payload": {"id": "x", "data": {"positions": [{"price": 61_000.5}], "account": None}},
            "late_note": "Late.",
            "attempts": 1,
            "attempted_at": after(seconds=1),
            "last_error": "down",
            "action": "check_network",
            "advice": "look",
            "revision": 3,
            **changes,
        }
    )


def ended(status, minutes, **changes):
    at = after(minutes=minutes)
    return full(status=status, settled_at=at, attempted_at=at, **changes)


async def test_a_row_is_read_back_as_it_was_written(link, store):
    row = replace(full(), notice=a_notice(data={"level": 81.0, "count": 2}))
    row = replace(row, notice=replace(row.notice, id=row.id))
    await store.save([row])
    assert await store.unfinished() == (row,)


async def test_the_table_has_a_column_for_each_field(link):
    columns = await fetch(
        link,
        "SELECT column_name::text FROM information_schema.columns"
        " WHERE table_name = 'notifications'",
    )
    looked_up = {
        "event", "kind", "severity", "guard_id", "account_id", "position_id", "execution_id",
        "action_id", "resent_at",
    }  # fmt: skip
    assert {name for (name,) in columns} == {f.name for f in fields(Notification)} | looked_up


async def test_what_a_row_is_looked_up_by_is_taken_from_its_notice(link, store):
    action_id, execution_id = uuid7(), uuid7()
    notice = an_alarm(
        kind=NoticeKind.ACTION_FAILED,
        execution_id=execution_id,
        data={"action_id": str(action_id)},
    )
    await store.save([a_notification(notice=notice)])
    query = (
        "SELECT event, kind, severity, guard_id, account_id, position_id, execution_id::text,"
        " action_id::text FROM notifications"
    )
    assert await fetch(link, query) == [
        ("execution_failed", "action_failed", "critical", "night", "main", "trade-1",
         str(execution_id), str(action_id))
    ]  # fmt: skip


async def test_an_older_revision_never_replaces_a_newer_one(link, store):
    row = full()
    done = replace(row, status=DELIVERED, settled_at=after(), revision=4)
    await store.save([done])
    await store.save([row])
    assert await fetch(link, "SELECT status, revision FROM notifications") == [("delivered", 4)]


async def test_what_is_pending_comes_with_what_was_tried_for_the_same_notice(store):
    alarm = an_alarm()
    tried = a_notification(notice=alarm, channel="sms", status=FAILED, settled_at=after())
    waiting = a_notification(notice=alarm, channel="telegram")
    over = a_notification(status=DELIVERED, settled_at=after())
    await store.save([tried, waiting, over])
    assert {row.key for row in await store.unfinished()} == {tried.key, waiting.key}
    assert await store.unfinished(resent_only=True) == ()


async def test_while_the_database_is_away_the_disk_keeps_what_a_crash_would_lose(
    database_url, tmp_path
):
    """Failure 28: Postgres down. Nothing that was told is lost when the daemon is killed then."""
    async with relayed(database_url) as relay:
        link = DatabaseLink(relay.url)
        await link.connect()
        await relay.cut()
        store = NotificationStore(link, state_dir=tmp_path, settings=HASTY)
        first, second = full(), full()
        await store.save([first])
        await store.save([second])
        with pytest.raises(DatabaseUnavailable):
            await store.unfinished()
        # The daemon is killed here; another one begins with the same directory.
        restarted = NotificationStore(link, state_dir=tmp_path, settings=HASTY)
        rows = await restarted.left_behind()
        assert sorted(row.key for row in rows) == sorted([first.key, second.key])
        assert [row.notice.data["level"] for row in rows] == [81.5, 81.5]
        await relay.heal()
        third = full()
        await restarted.save([third])
        assert len(await restarted.unfinished()) == 3
        assert not (tmp_path / SPOOL_NAME).exists()
        assert await restarted.left_behind() == ()
        await link.close(timeout_s=5.0)


async def test_a_database_that_hangs_costs_its_time_out_once(database_url, tmp_path):
    """Failure 28: Postgres hung."""
    async with relayed(database_url) as relay:
        link = DatabaseLink(relay.url)
        await link.connect()
        relay.hang()
        store = NotificationStore(link, state_dir=tmp_path, settings=HASTY)
        rows = [full() for _ in range(3)]
        await store.save([rows[0]])
        asked = relay.held_back.is_set()
        relay.held_back.clear()
        for row in rows[1:]:
            await store.save([row])
        assert asked
        assert not relay.held_back.is_set()
        assert len((tmp_path / SPOOL_NAME).read_bytes().splitlines()) == 3
        await relay.heal()
        await store._flush(5.0)
        assert len(await store.unfinished()) == 3
        await link.close(timeout_s=5.0)


async def test_a_lost_answer_is_harmless(database_url, tmp_path):
    """Failure 29: a commit whose answer is lost."""
    async with relayed(database_url) as relay:
        link = DatabaseLink(relay.url)
        await link.connect()
        relay.swallow_answers()
        store = NotificationStore(link, state_dir=tmp_path, settings=HASTY)
        await store.save([full()])
        await relay.heal()
        await store._flush(5.0)
        assert await fetch(link, "SELECT count(*) FROM notifications") == [(1,)]
        await link.close(timeout_s=5.0)


async def test_without_disk_and_database_it_is_kept_in_memory(database_url, tmp_path):
    """Failure 30: the disk is full."""
    link = DatabaseLink(database_url)
    store = NotificationStore(link, state_dir=tmp_path / "missing")
    with capture_logs() as logs:
        await store.save([full()])
        await store.save([full()])
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == ["notify.not_spooled"]
    await link.connect()
    await store._flush(5.0)
    assert await fetch(link, "SELECT count(*) FROM notifications") == [(2,)]
    await link.close(timeout_s=5.0)


async def test_a_damaged_line_costs_that_line(link, store, tmp_path):
    link_without = DatabaseLink("unused")
    row = full()
    await NotificationStore(link_without, state_dir=tmp_path).save([row])
    spool = tmp_path / SPOOL_NAME
    spool.write_bytes(b'{"half":\n' + spool.read_bytes())
    with capture_logs() as logs:
        assert [found.key for found in await store.left_behind()] == [row.key]
    assert [log["event"] for log in logs] == ["notify.spool_damaged"]
    assert spool.stat().st_mode & 0o777 == 0o600


async def test_too_many_for_the_memory_cost_settled_and_older_ones_and_no_critical_one(tmp_path):
    settings = replace(HASTY, capacity=3)
    store = NotificationStore(DatabaseLink("unused"), state_dir=tmp_path, settings=settings)
    alarms = [a_notification(notice=an_alarm()) for _ in range(3)]
    await store.save([full(), *alarms])
    assert {row.key for row in await store.left_behind()} == {row.key for row in alarms}
    fourth = a_notification(notice=an_alarm())
    await store.save([fourth])
    assert len(await store.left_behind()) == 4


async def test_a_row_that_the_database_refuses_does_not_block_the_others(link, store):
    huge = full(attempts=1 << 40)
    fine = full()
    with capture_logs() as logs:
        await store.save([huge, fine])
    assert [log["event"] for log in logs] == ["notify.row_refused"]
    assert await fetch(link, "SELECT id::text FROM notifications") == [(str(fine.id),)]


async def test_what_failed_lately_is_made_pending_again_with_its_own_time(link, store):
    now = datetime.now(UTC)
    notice = a_notice(at=now - timedelta(minutes=30))
    lately = full(
        notice=notice, id=notice.id, status=FAILED, settled_at=now - timedelta(minutes=20)
    )
    before = full(status=FAILED, settled_at=now - timedelta(hours=2))
    arrived = full(status=DELIVERED, settled_at=now - timedelta(minutes=1))
    await store.save([lately, before, arrived])
    since = now - timedelta(hours=1)
    assert await read(link, resend_failed, since=since, now=now) == (lately.key,)
    (row,) = await store.unfinished(resent_only=True)
    assert (row.key, row.attempts, row.next_attempt_at) == (lately.key, 0, now)
    assert row.notice.at == notice.at
    assert row.revision == lately.revision + 1
    assert await read(link, resend_failed, since=since, now=now) == ()


async def test_a_channel_is_judged_by_its_last_ten(link, store):
    rows = [ended(FAILED, minute, channel="email") for minute in range(5)]
    rows += [ended(DELIVERED, 10 + minute, channel="email") for minute in range(7)]
    rows += [ended(FAILED, 20, channel="email", last_error="newest", advice="do this")]
    rows += [ended(DELIVERED, 30, channel="email", last_error=None, attempts=0)]
    rows += [full(channel="sms", attempts=0, attempted_at=None, last_error=None)]
    rows += [ended(DELIVERED, 30, channel="log")]
    await store.save(rows)
    email, sms = await read(link, reading.channel_records)
    assert (email.channel, email.settled, email.delivered) == ("email", 10, 8)
    assert email.success_rate == 0.8
    assert not email.needs_attention
    assert email.last_delivery_at == after(minutes=30)
    assert (email.last_error, email.advice) == ("newest", "do this")
    assert (sms.success_rate, sms.pending, sms.failing) == (None, 1, 0)
    assert not sms.needs_attention
    worse = [ended(FAILED, minute, channel="email") for minute in (40, 41)]
    await store.save([*worse, full(channel="sms", attempts=2)])
    email, sms = await read(link, reading.channel_records)
    assert email.success_rate == 0.7
    assert email.needs_attention
    assert sms.failing == 1
    assert sms.needs_attention


async def test_deliveries_are_counted_since_a_moment(link, store):
    rows = [ended(DELIVERED, minute, channel="sms") for minute in (1, 9, 5)]
    await store.save([*rows, ended(FAILED, 6), ended(DELIVERED, 7, channel="log")])
    assert await store.delivered_since(after(minutes=5)) == [
        ("owner", "sms", after(minutes=5)),
        ("owner", "sms", after(minutes=9)),
    ]


async def test_a_user_is_unreachable_until_something_arrives(link, store):
    """Failure 34: all channels dead, told by the record."""
    alarm = an_alarm()

    def tried(channel, **changes):
        return a_notification(
            notice=alarm, channel=channel, attempted_at=after(minutes=1), **changes
        )

    async def unreachable():
        found = await read(link, reading.unreachable_users, NOON)
        return [(user.user_id, user.since) for user in found]

    await store.save([tried("email", status=FAILED, settled_at=after(minutes=1), attempts=1)])
    assert await unreachable() == [("owner", after(minutes=1))]
    await store.save([tried("sms", attempts=1)])
    assert await unreachable() == []
    await store.save([tried("sms", attempts=2, revision=1)])
    assert await unreachable() == [("owner", after(minutes=1))]
    await store.save([ended(DELIVERED, 2, user_id="somebody else")])
    assert len(await unreachable()) == 1
    await store.save([ended(DELIVERED, 2)])
    assert await unreachable() == []


async def test_an_action_of_which_nobody_was_told_is_found(link, store):
    """A kill between the action's record and the notice's loses neither."""
    told, untold, early = settled(an_action()), settled(an_action()), settled(an_action())
    early = replace(early, settled_at=after(hours=-2))
    stop_loss = settled(a_stop_loss())
    await apply(link.pool, [told, untold, early, stop_loss, an_action()])
    notice = a_notice(kind=NoticeKind.ACTION_DONE, data={"action_id": str(told.id)})
    await store.save([a_notification(notice=notice, channel="log")])
    assert await read(link, reading.untold_actions, after(hours=-1)) == (untold,)


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("select_unfinished_notifications", "notifications_pending"),
        ("select_channel_records", "notifications_newest_settled"),
        ("select_unreachable_users", "notifications_by_time"),
        ("select_untold_actions", "notifications_of_action"),
    ],
)
async def test_a_query_that_is_asked_often_has_its_index(link, name, index):
    from marginguard.storage.sql_files import statement

    query = statement(name)
    values = {
        "select_unfinished_notifications": {"$1": "false"},
        "select_channel_records": {"$1": "10", "$2": "2"},
        "select_unreachable_users": {"$1": "now()", "$2": "2"},
        "select_untold_actions": {"$1": "now()"},
    }[name]
    for place, value in values.items():
        query = query.replace(place, value)
    async with acquired(link.pool) as connection:
        await connection.execute("SET enable_seqscan = off")
        plan = await connection.fetch(f"EXPLAIN (FORMAT JSON) {query}")
        await connection.execute("RESET enable_seqscan")
    assert index in json.dumps(json.loads(plan[0][0]))
