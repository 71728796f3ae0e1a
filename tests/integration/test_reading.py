"""What `status` and the demo read."""

from dataclasses import replace
from datetime import timedelta

import pytest

from marginguard.domain.model import RiskLevel, Side
from marginguard.domain.records import ActionStatus, ArmedState, ExecutionStatus
from marginguard.storage import reading
from marginguard.storage.database import acquired
from marginguard.storage.link import DatabaseLink
from marginguard.storage.observations import DatabaseObservations
from marginguard.storage.records import apply
from tests.records import (
    NOON,
    a_guard_state,
    a_sighting,
    a_stop_loss,
    an_action,
    an_execution,
    settled,
)
from tests.unit.strategies import a_position


@pytest.fixture
async def link(database_url):
    link = DatabaseLink(database_url)
    await link.connect()
    yield link
    await link.close(timeout_s=10.0)


async def read(link, query, *arguments):
    async with acquired(link.pool) as connection:
        return await query(connection, *arguments)


async def test_a_database_without_tables_is_told_from_one_with_them(database_url, link):
    assert await read(link, reading.has_records)


async def test_an_empty_database_reads_as_nothing(link):
    assert await read(link, reading.positions) == ()
    assert await read(link, reading.guards) == ()
    assert await read(link, reading.newest_actions, 10) == ()
    assert await read(link, reading.count_executions) == 0


async def test_positions_that_no_guard_covers_stand_first_then_the_worst(link):
    observations = DatabaseObservations(link)
    prices = {"calm": 99_000.0, "bad": 92_000.0, "alone": 99_500.0}
    seen = {
        name: a_sighting(a_position(id=name), price)
        if name != "alone"
        else a_sighting(a_position(id=name), price, guard_id=None, threshold=None)
        for name, price in prices.items()
    }
    observations.positions("main", seen, NOON)
    await observations.flush()
    rows = await read(link, reading.positions)
    assert [row.position_id for row in rows] == ["alone", "bad", "calm"]
    assert [row.guard_id for row in rows] == [None, "guard-1", "guard-1"]
    bad, assessment = rows[1], seen["bad"].assessment
    assert bad.level == assessment.level
    assert bad.trigger_price == assessment.trigger_price
    assert bad.liquidation_price == assessment.liquidation_price
    assert bad.liquidation_distance == assessment.liquidation_distance
    assert (bad.side, bad.quantity, bad.margin) == (Side.LONG, 1_000, 100_000)
    assert (bad.risk, bad.seen_at) == (RiskLevel.MEDIUM, NOON)
    assert rows[0].trigger_price is None


async def test_a_position_is_read_with_its_stop_loss_its_backstop_and_its_first_margin(link):
    observations = DatabaseObservations(link)
    stopped = a_position(id="stopped", stop_loss=91_234.5, take_profit=120_000.0, margin=34_210)
    seen = {
        "stopped": a_sighting(stopped, 99_000.0, backstop=91_234.5, original_margin=100_000),
        "users": a_sighting(a_position(id="users", stop_loss=80_000.0), 99_100.0),
        "bare": a_sighting(a_position(id="bare"), 99_200.0),
    }
    observations.positions("main", seen, NOON)
    await observations.flush()
    rows = {row.position_id: row for row in await read(link, reading.positions)}
    figures = {
        name: (row.stop_loss, row.take_profit, row.backstop, row.margin, row.original_margin)
        for name, row in rows.items()
    }
    assert figures == {
        "stopped": (91_234.5, 120_000.0, 91_234.5, 34_210, 100_000),
        "users": (80_000.0, None, None, 100_000, None),
        "bare": (None, None, None, 100_000, None),
    }


async def test_a_guard_is_read_with_its_counts_and_its_newest_execution(link):
    newest = an_execution(
        status=ExecutionStatus.FAILED,
        error="no price",
        started_at=NOON + timedelta(minutes=1),
        finished_at=NOON + timedelta(minutes=2),
    )
    fresh = a_guard_state(guard_id="guard-2", armed=ArmedState.DISARMED, reason="key refused")
    await apply(link.pool, [newest, an_execution(), a_guard_state(), fresh])
    observations = DatabaseObservations(link)
    observations.checked("guard-1", "main", NOON)
    await observations.flush()
    first, second = await read(link, reading.guards)
    assert (first.guard_id, first.armed, first.executions) == ("guard-1", ArmedState.ARMED, 2)
    assert (first.completed, first.failed, first.checks) == (1, 1, 1)
    assert first.last_checked_at == NOON
    assert (first.last_execution_id, first.last_execution_error) == (newest.id, "no price")
    assert first.last_execution_status is ExecutionStatus.FAILED
    assert first.last_execution_at == NOON + timedelta(minutes=2)
    assert (second.armed, second.reason) == (ArmedState.DISARMED, "key refused")
    assert (second.executions, second.checks, second.last_execution_id) == (0, 0, None)


async def test_the_newest_actions_come_first_and_no_more_than_asked(link):
    actions = [an_action(intended_at=NOON + timedelta(seconds=i)) for i in range(5)]
    await apply(link.pool, actions)
    assert await read(link, reading.newest_actions, 3) == tuple(reversed(actions[2:]))


async def test_changes_of_stop_losses_do_not_crowd_out_what_answered_a_breach(link):
    def at(second):
        return NOON + timedelta(seconds=second)

    breaches = [an_action(intended_at=at(second)) for second in (0, 10, 25)]
    stop_losses = [a_stop_loss(intended_at=at(second)) for second in range(20, 30)]
    await apply(link.pool, [*breaches, *stop_losses])
    assert await read(link, reading.newest_actions, 2) == (breaches[2], breaches[1])
    async with acquired(link.pool) as connection:
        both = await reading.newest_actions(connection, 2, stop_losses=6)
    assert both == (*stop_losses[:5:-1], stop_losses[5], breaches[2], stop_losses[4], breaches[1])


async def test_only_what_was_really_done_and_proved_counts_as_proved(link):
    first = settled(an_action())
    second = settled(an_action(intended_at=NOON + timedelta(seconds=1)))
    others = [
        replace(settled(an_action()), proof=None),
        settled(an_action(), dry_run=True),
        settled(an_action(), account_id="other"),
        settled(an_action(), status=ActionStatus.REJECTED),
        an_action(),
    ]
    await apply(link.pool, [second, *others, first])
    assert await read(link, reading.proved_actions, "main") == (first, second)


async def test_executions_are_counted(link):
    await apply(link.pool, [an_execution(), an_execution(guard_id="guard-2")])
    assert await read(link, reading.count_executions) == 2
