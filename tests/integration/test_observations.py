"""What is seen reaches a real PostgreSQL: the newest view, and a thinned history."""

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from marginguard.storage import reading
from marginguard.storage.database import acquired
from marginguard.storage.link import DatabaseLink
from marginguard.storage.observations import DatabaseObservations
from tests.integration.relay import relayed
from tests.records import NOON, a_sighting
from tests.unit.strategies import a_position, price_at

LONG_S = 30.0


@pytest.fixture
async def link(database_url):
    link = DatabaseLink(database_url)
    await link.connect()
    yield link
    await link.close(timeout_s=10.0)


def seen(*ids, level=10.0, guard_id="guard-1", **changes):
    """Return positions at about a level, as the engine reports them."""
    return {
        name: a_sighting(
            a_position(id=name), price_at(a_position(), level), guard_id=guard_id, **changes
        )
        for name in ids
    }


def after(seconds):
    return NOON + timedelta(seconds=seconds)


async def positions(link):
    async with acquired(link.pool) as connection:
        rows = await reading.positions(connection)
    return sorted((row.account_id, row.position_id) for row in rows)


async def fetch(link, query):
    async with acquired(link.pool) as connection:
        return [tuple(row) for row in await connection.fetch(query)]


async def history(link):
    return await fetch(
        link, "SELECT position_id, seen_at FROM margin_history ORDER BY seen_at, position_id"
    )


async def test_a_position_that_vanished_is_gone_and_other_accounts_are_not(link):
    observations = DatabaseObservations(link)
    observations.positions("main", seen("one", "two"), NOON)
    observations.positions("other", seen("three"), NOON)
    await observations.flush()
    assert await positions(link) == [("main", "one"), ("main", "two"), ("other", "three")]
    observations.positions("main", seen("two"), after(1))
    await observations.flush()
    assert await positions(link) == [("main", "two"), ("other", "three")]
    observations.positions("main", {}, after(2))
    await observations.flush()
    assert await positions(link) == [("other", "three")]


async def test_an_older_view_never_replaces_a_newer_one(link):
    observations = DatabaseObservations(link)
    observations.positions("main", seen("one"), after(5))
    observations.positions("main", seen("two"), after(4))
    await observations.flush()
    late = DatabaseObservations(link)
    late.positions("main", seen("one", level=50.0), after(4))
    await late.flush()
    assert await positions(link) == [("main", "one")]
    assert await fetch(link, "SELECT seen_at, level < 20 FROM positions") == [(after(5), True)]


async def test_a_backstop_that_was_moved_or_removed_is_seen_as_it_is_now(link):
    observations = DatabaseObservations(link)
    query = "SELECT backstop, original_margin FROM positions"
    observations.positions("main", seen("one", backstop=91_234.5, original_margin=200_000), NOON)
    await observations.flush()
    assert await fetch(link, query) == [(91_234.5, 200_000)]
    observations.positions("main", seen("one", backstop=91_300.0), after(1))
    await observations.flush()
    assert await fetch(link, query) == [(91_300.0, None)]
    observations.positions("main", seen("one"), after(2))
    await observations.flush()
    assert await fetch(link, query) == [(None, None)]


@pytest.mark.parametrize(
    ("second", "at", "kept"),
    [
        (seen("one", level=10.5), 1, False),
        (seen("one", level=11.5), 1, True),
        (seen("one", level=10.0), 59.9, False),
        (seen("one", level=10.0), 60, True),
        (seen("one", level=10.0, guard_id=None), 1, True),
        (seen("one", level=10.0, guard_id="guard-2"), 1, True),
    ],
)
async def test_the_history_keeps_what_changed_and_one_a_minute(link, second, at, kept):
    observations = DatabaseObservations(link)
    observations.positions("main", seen("one"), NOON)
    observations.positions("main", second, after(at))
    await observations.flush()
    expected = [("one", NOON)] + ([("one", after(at))] if kept else [])
    assert await history(link) == expected


async def test_the_history_keeps_a_change_of_the_risk_level(link):
    observations = DatabaseObservations(link)
    observations.positions("main", seen("one", level=69.9), NOON)
    observations.positions("main", seen("one", level=70.1), after(1))
    await observations.flush()
    assert await fetch(link, "SELECT risk FROM margin_history ORDER BY seen_at") == [
        ("safe",),
        ("low",),
    ]


async def test_a_slow_drift_is_measured_from_the_last_sample(link):
    observations = DatabaseObservations(link)
    for second in range(16):
        observations.positions("main", seen("one", level=10 + 0.1 * second), after(second))
    await observations.flush()
    assert len(await history(link)) == 2


async def test_a_position_that_comes_back_is_sampled_again(link):
    observations = DatabaseObservations(link)
    for second, ids in enumerate([("one",), (), ("one",)]):
        observations.positions("main", seen(*ids), after(second))
    await observations.flush()
    assert await history(link) == [("one", NOON), ("one", after(2))]


async def test_checks_are_counted(link):
    observations = DatabaseObservations(link)
    for second in range(3):
        observations.checked("guard-1", "main", after(second))
    observations.checked("guard-2", "main", NOON)
    await observations.flush()
    observations.checked("guard-1", "main", after(3))
    await observations.flush()
    assert await fetch(
        link, "SELECT guard_id, checks, last_checked_at FROM guard_stats ORDER BY guard_id"
    ) == [("guard-1", 4, after(3)), ("guard-2", 1, NOON)]


async def test_while_the_database_is_away_the_newest_is_kept(database_url):
    """Failure 28: Postgres down or hung."""
    async with relayed(database_url) as relay:
        link = DatabaseLink(relay.url)
        await link.connect()
        observations = DatabaseObservations(link, max_samples=3)
        await relay.cut()
        for second in range(0, 600, 60):
            observations.positions("main", seen("one"), after(second))
            observations.checked("guard-1", "main", after(second))
            await observations.flush()
        await relay.heal()
        await observations.flush()
        assert await fetch(link, "SELECT seen_at FROM positions") == [(after(540),)]
        assert await history(link) == [("one", after(s)) for s in (420, 480, 540)]
        assert await fetch(link, "SELECT checks FROM guard_stats") == [(10,)]
        await link.close(timeout_s=5.0)


async def test_what_is_noted_while_a_write_fails_counts_as_newer(database_url):
    async with relayed(database_url) as relay:
        link = DatabaseLink(relay.url)
        await link.connect()
        observations = DatabaseObservations(link, max_samples=2)
        relay.hang()
        for second in (0, 60):
            observations.positions("main", seen("one"), after(second))
        observations.checked("guard-1", "main", NOON)
        writing = asyncio.create_task(observations.flush())
        await relay.held_back.wait()
        observations.positions("main", seen("two"), after(120))
        observations.checked("guard-1", "main", after(120))
        await relay.heal()
        await writing
        await observations.flush()
        assert await positions(link) == [("main", "two")]
        assert await history(link) == [("one", after(60)), ("two", after(120))]
        assert await fetch(link, "SELECT checks, last_checked_at FROM guard_stats") == [
            (2, after(120))
        ]
        await link.close(timeout_s=5.0)


async def test_before_the_database_has_ever_answered_nothing_grows(database_url):
    link = DatabaseLink(database_url)
    observations = DatabaseObservations(link, max_samples=2)
    for second in range(0, 600, 60):
        observations.positions("main", seen("one"), after(second))
    await observations.flush()
    assert len(observations._samples) == 2
    await link.connect()
    await observations.flush()
    assert len(await history(link)) == 2
    await link.close(timeout_s=5.0)


@pytest.mark.parametrize("quantity", [1 << 63, 1 << 70])
async def test_a_value_that_the_database_refuses_does_not_block_what_follows(link, quantity):
    observations = DatabaseObservations(link)
    huge = a_sighting(a_position(id="two", quantity=quantity), 99_000.0)
    observations.positions("main", {"two": huge}, after(1))
    with capture_logs() as logs:
        await observations.flush()
    assert [log["event"] for log in logs] == ["observations.refused"]
    observations.positions("main", seen("one"), after(2))
    await observations.flush()
    assert await positions(link) == [("main", "one")]


async def test_the_stop_writes_what_is_left(link):
    observations = DatabaseObservations(link, interval_s=600.0)
    stop = asyncio.Event()
    running = asyncio.create_task(observations.run(stop))
    observations.positions("main", seen("one"), NOON)
    stop.set()
    async with asyncio.timeout(LONG_S):
        await running
    assert await positions(link) == [("main", "one")]
