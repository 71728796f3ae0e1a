"""What the commands that explain, analyze and draw read."""

from datetime import timedelta
from uuid import UUID

import pytest

from marginguard.domain.errors import Malformed
from marginguard.domain.notification import NotificationStatus
from marginguard.domain.records import ExecutionStatus
from marginguard.storage import reading_executions, reading_positions
from marginguard.storage.database import acquired
from marginguard.storage.link import DatabaseLink
from marginguard.storage.notifications import upsert
from marginguard.storage.observations import DatabaseObservations
from marginguard.storage.records import apply
from tests.notifying import a_notice, a_notification
from tests.records import (
    NOON,
    a_guard_state,
    a_reduction,
    a_sighting,
    an_action,
    an_execution,
    settled,
)
from tests.unit.strategies import a_position

FAILED, SKIPPED = ExecutionStatus.FAILED, ExecutionStatus.SKIPPED


@pytest.fixture
async def link(database_url):
    link = DatabaseLink(database_url)
    await link.connect()
    yield link
    await link.close(timeout_s=10.0)


async def read(link, query, *arguments, **more):
    async with acquired(link.pool) as connection:
        return await query(connection, *arguments, **more)


def after(**span):
    return NOON + timedelta(**span)


def at(moment, **changes):
    return an_execution(**{"started_at": moment, **changes})


async def test_executions_come_back_as_they_were_the_newest_first_within_bounds(link):
    rows = [at(after(minutes=minute)) for minute in range(4)]
    other = at(after(minutes=2), guard_id="guard-2", status=FAILED)
    await apply(link.pool, [*rows, other])
    bounds = {"since": after(minutes=1), "guard_id": "guard-1", "status": None, "limit": 2}
    found = await read(link, reading_executions.executions, **bounds)
    assert found == (rows[3], rows[2])
    bounds = {"since": NOON, "guard_id": None, "status": FAILED, "limit": 9}
    assert await read(link, reading_executions.executions, **bounds) == (other,)


async def test_a_run_is_read_with_what_the_analysis_needs(link):
    row = at(NOON, status=FAILED, error="no", error_code="STALLED", error_type="NETWORK_ERROR")
    await apply(link.pool, [row, at(NOON, status=SKIPPED, guard_id="guard-2")])
    bounds = {"since": NOON, "guard_id": "guard-1", "limit": 9}
    [run] = await read(link, reading_executions.runs, **bounds)
    assert (run.id, run.error, run.error_code) == (row.id, "no", "STALLED")
    assert (run.duration_s, dict(run.phases)) == (0.75, {})
    [profiled] = await read(link, reading_executions.profiled_runs, guard_id=None, limit=9)
    assert (profiled.id, dict(profiled.phases)) == (row.id, dict(row.phases))


async def test_executions_are_counted_by_status_with_none_left_out(link):
    rows = [at(NOON), at(after(minutes=-1)), at(NOON, status=FAILED)]
    await apply(link.pool, rows)
    found = await read(link, reading_executions.count_by_status, since=NOON, guard_id="guard-1")
    assert found == {"completed": 1, "partial": 0, "failed": 1, "skipped": 0}


async def test_what_another_version_wrote_is_told_and_not_guessed_at(link):
    await apply(link.pool, [at(NOON)])
    async with acquired(link.pool) as connection:
        await connection.execute("UPDATE executions SET error_code = 'FROM_THE_FUTURE'")
    bounds = {"since": NOON, "guard_id": None, "status": None, "limit": 9}
    with pytest.raises(Malformed, match="error_code"):
        await read(link, reading_executions.executions, **bounds)
    [run] = await read(link, reading_executions.runs, since=NOON, guard_id=None, limit=9)
    assert run.error_code == "FROM_THE_FUTURE"


@pytest.mark.parametrize(
    ("beginning", "count"),
    [
        ("018f0000-0000-7000-8000-000000000001", 1),
        ("018F0000000070008000000000000002", 1),
        ("018f0000-0000-7000-8000-00000000000", 2),
        ("018f0000", 2),
        ("018f0001", 0),
        ("trade-1", 0),
        ("", 0),
        ("018f0000-0000-7000-8000-0000000000011", 0),
    ],
)
async def test_an_execution_is_found_by_the_beginning_of_its_id(link, beginning, count):
    ids = [UUID(f"018f0000-0000-7000-8000-00000000000{n}") for n in (1, 2)]
    await apply(link.pool, [at(NOON, id=id_) for id_ in ids])
    assert len(await read(link, reading_executions.execution_ids, beginning)) == count


async def test_an_execution_is_found_by_its_actions_as_well(link):
    action = an_action()
    await apply(link.pool, [action])
    for id_ in (action.id, action.execution_id):
        found = await read(link, reading_executions.execution_ids, str(id_))
        assert found == (action.execution_id,)
    assert await read(link, reading_executions.execution, action.execution_id) is None
    found = await read(link, reading_executions.actions_of_execution, action.execution_id)
    assert found == (action,)


async def test_notifications_are_found_by_time_by_execution_and_by_position(link):
    run = at(NOON)
    told = a_notification(
        notice=a_notice(execution_id=run.id, position_id="trade-1"),
        status=NotificationStatus.DELIVERED,
        settled_at=after(seconds=2),
        created_at=NOON,
    )
    other = a_notification(notice=a_notice(position_id="trade-2"), created_at=after(hours=-1))
    await upsert(link.pool, [told, other])
    [found] = await read(link, reading_executions.deliveries, since=NOON, limit=9)
    assert (found.id, found.kind, found.subject) == (told.id, told.notice.kind, told.subject)
    assert (found.status, found.settled_at) == (told.status, told.settled_at)
    assert await read(link, reading_executions.deliveries_of_execution, run.id) == (found,)
    ids = ["trade-1"]
    assert await read(link, reading_positions.deliveries_of, "main", ids, limit=9) == (found,)
    assert await read(link, reading_positions.deliveries_of, "other", ids, limit=9) == ()


async def test_a_position_keeps_its_life_over_every_id_that_it_had(link):
    cuts = [
        a_reduction(position_id="a", successor="b", intended_at=NOON),
        a_reduction(position_id="b", successor="c", intended_at=after(minutes=1)),
    ]
    foreign = [
        a_reduction(account_id="other", position_id="c", successor="d"),
        a_reduction(account_id="other", position_id="z", successor="a"),
    ]
    unopened = a_reduction(position_id="c", successor=None, intended_at=after(minutes=2))
    await apply(link.pool, [a_guard_state(), *cuts, *foreign, unopened])
    for id_ in "abc":
        assert set(await read(link, reading_positions.lineage, "main", id_)) == {"a", "b", "c"}
        assert await read(link, reading_positions.accounts_of, id_) == ("main",)
    found = await read(link, reading_positions.actions_of, "main", ["a", "b", "c"], limit=2)
    assert found == (cuts[1], unopened)


async def test_a_position_that_runs_is_read_with_its_levels(link):
    observations = DatabaseObservations(link)
    for minute, price in enumerate([99_000.0, 95_000.0, 97_000.0]):
        seen = {"trade-1": a_sighting(a_position(id="trade-1"), price)}
        observations.positions("main", seen, after(minutes=minute))
        await observations.flush()
    running = await read(link, reading_positions.running, "main", ["trade-0", "trade-1"])
    assert (running.position_id, running.seen_at) == ("trade-1", after(minutes=2))
    assert await read(link, reading_positions.running, "main", ["trade-0"]) is None
    bounds = {"since": after(minutes=1), "limit": 9}
    levels = await read(link, reading_positions.levels, "main", ["trade-1"], **bounds)
    assert [one.price for one in levels] == [95_000.0, 97_000.0]
    bounds = {"since": NOON, "limit": 1}
    [newest] = await read(link, reading_positions.levels, "main", ["trade-1"], **bounds)
    assert (newest.seen_at, newest.level) == (after(minutes=2), running.level)


async def test_the_ids_that_may_have_been_meant_are_those_of_what_is_on_record(link):
    run, action = at(NOON), settled(an_action(position_id="trade-9"))
    await apply(link.pool, [run, action])
    assert set(await read(link, reading_executions.known_ids, newest=5)) == {
        str(run.id),
        "trade-9",
    }


async def test_the_newest_look_is_that_of_whatever_saw_something_last(link):
    assert await read(link, reading_executions.newest_look) is None
    await apply(link.pool, [at(NOON, finished_at=after(seconds=1))])
    assert await read(link, reading_executions.newest_look) == after(seconds=1)
    observations = DatabaseObservations(link)
    observations.checked("guard-1", "main", after(seconds=5))
    await observations.flush()
    assert await read(link, reading_executions.newest_look) == after(seconds=5)
