"""Records in a real PostgreSQL: written any number of times, there once, and read back whole."""

import json
from dataclasses import replace
from datetime import timedelta
from math import inf

import pytest

from marginguard.domain.errors import ErrorCode, ErrorType
from marginguard.domain.model import Side
from marginguard.domain.pause import Pause
from marginguard.domain.records import (
    ActionRecord,
    ActionStatus,
    ArmedState,
    ExecutionSource,
    ExecutionStatus,
)
from marginguard.storage import reading
from marginguard.storage.database import acquired
from marginguard.storage.link import DatabaseLink
from marginguard.storage.reading_incident import rows_since
from marginguard.storage.records import (
    RecordsRefusedError,
    apply,
    load_guard_states,
    load_unsettled_actions,
)
from tests.records import (
    NOON,
    a_command,
    a_guard_state,
    a_position_state,
    a_reduction,
    a_reopening,
    a_stop_loss,
    an_action,
    an_execution,
    settled,
)


@pytest.fixture
async def pool(database_url):
    link = DatabaseLink(database_url)
    yield await link.connect()
    await link.close(timeout_s=10.0)


async def fetch(pool, query, *arguments):
    async with acquired(pool) as connection:
        return [dict(row) for row in await connection.fetch(query, *arguments)]


async def stored_actions(pool):
    async with acquired(pool) as connection:
        return await reading.newest_actions(connection, 100, stop_losses=100)


async def test_an_action_comes_back_to_the_last_bit(pool):
    action = settled(
        an_action(
            level=80.20000000000001,
            threshold=1 / 3,
            before=a_position_state(liquidation_price=90_909.09090909091, price=None),
            frozen=True,
        ),
        after=a_position_state(price=1e22),
        error='quotes " and \\ and ü',
    )
    await apply(pool, [action])
    assert await stored_actions(pool) == (action,)


@pytest.mark.parametrize(
    "action",
    [
        a_reduction(),
        a_reduction(
            status=ActionStatus.SENT,
            reopening=a_reopening(closed_price=None, closed_at=None, margin=None, leverage=None),
            successor=None,
        ),
        a_reduction(reopening=a_reopening(side=Side.SHORT, leverage=1 / 3, take_profit=None)),
        a_reduction(reopening=None, successor=None),
        a_stop_loss(1 / 3),
        a_stop_loss(None),
    ],
    ids=["reopened", "closing", "short", "cross", "stop-loss", "no stop-loss"],
)
async def test_a_reduction_and_a_stop_loss_come_back_to_the_last_bit(pool, action):
    await apply(pool, [an_action(id=action.id), action])
    assert await stored_actions(pool) == (action,)


async def test_a_reduction_cut_short_comes_back_with_the_step_it_has_reached(pool):
    """Failure 24: Crash between the call and the record: settled at start."""
    closing = a_reduction(
        status=ActionStatus.SENT,
        reopening=a_reopening(closed_price=None, closed_at=None, margin=None, leverage=None),
        successor=None,
    )
    reopening = replace(closing, reopening=a_reopening())
    await apply(pool, [closing])
    await apply(pool, [reopening])
    async with acquired(pool) as connection:
        (action,) = await load_unsettled_actions(connection)
    assert action == reopening
    assert action.is_reopening


async def test_the_state_of_every_guard_comes_back_whole(pool):
    pause = Pause(until=NOON + timedelta(minutes=10), by="root (control socket)")
    states = (
        a_guard_state(),
        a_guard_state(guard_id="guard-2", armed=ArmedState.DISARMED, pause=pause),
    )
    await apply(pool, states)
    async with acquired(pool) as connection:
        assert await load_guard_states(connection) == states


async def test_a_pause_that_ended_is_ended_in_the_database_too(pool):
    pause = Pause(until=NOON + timedelta(minutes=10), by="root (control socket)")
    paused = a_guard_state(pause=pause)
    await apply(pool, [paused])
    await apply(pool, [replace(paused, pause=None)])
    async with acquired(pool) as connection:
        assert await load_guard_states(connection) == (replace(paused, pause=None),)


async def test_a_command_is_stored_once_however_often_it_is_written(pool):
    refused = a_command(guard_id=None, command="reload", accepted=False, answer="a\x00b")
    await apply(pool, [a_command(), refused])
    await apply(pool, [refused])
    rows = await fetch(pool, "SELECT * FROM commands ORDER BY accepted")
    assert [row["command"] for row in rows] == ["reload", "pause guard-1 600s"]
    assert rows[0] == {
        "id": refused.id,
        "at": refused.at,
        "by": "root (control socket)",
        "command": "reload",
        "guard_id": None,
        "accepted": False,
        "answer": "a\ufffdb",
    }


async def test_an_incident_has_the_commands_since_then(pool):
    old = a_command(at=NOON - timedelta(hours=3), command="resume guard-1")
    await apply(pool, [old, a_command()])
    async with acquired(pool) as connection:
        [row] = (await rows_since(connection, NOON - timedelta(hours=2)))["commands"]
    assert json.loads(row)["command"] == "pause guard-1 600s"


async def test_unsettled_actions_come_back_oldest_first_and_settled_ones_do_not(pool):
    """Failure 24: Crash between the call and the record: settled at start."""
    newer = an_action(intended_at=NOON + timedelta(seconds=5), status=ActionStatus.SENT)
    older = an_action(status=ActionStatus.UNKNOWN)
    await apply(pool, [newer, settled(an_action()), older, an_action(status=ActionStatus.GONE)])
    async with acquired(pool) as connection:
        assert await load_unsettled_actions(connection) == (older, newer)


async def test_an_execution_is_stored_with_every_figure(pool):
    execution = an_execution(
        status=ExecutionStatus.FAILED,
        error_code=ErrorCode.STALLED,
        error_type=ErrorType.EXECUTION,
        error="it took too long",
    )
    await apply(pool, [execution])
    (row,) = await fetch(pool, "SELECT * FROM executions")
    assert (row["id"], row["started_at"], row["duration_s"]) == (execution.id, NOON, 0.75)
    assert (row["error_code"], row["error_type"]) == ("STALLED", "EXECUTION_ERROR")
    assert (row["positions_total"], row["price"]) == (2, 93_000.5)
    (row,) = await fetch(pool, "SELECT results->>'trade-1' AS result FROM executions")
    assert row["result"] == "added 25,000 sats"


async def test_an_execution_is_counted_when_it_is_inserted_and_never_again(pool):
    """Failure 29: A commit whose answer is lost: the insert is repeatable."""
    executions = [
        an_execution(),
        an_execution(status=ExecutionStatus.FAILED),
        an_execution(status=ExecutionStatus.PARTIAL),
        an_execution(status=ExecutionStatus.SKIPPED, finished_at=NOON + timedelta(hours=1)),
        an_execution(guard_id="guard-2"),
    ]
    await apply(pool, executions[:3])
    await apply(pool, executions)
    await apply(pool, [*executions, executions[0]])
    rows = await fetch(pool, "SELECT * FROM guard_stats ORDER BY guard_id")
    first, second = rows
    counts = [first[key] for key in ("executions", "completed", "partial", "failed", "skipped")]
    assert counts == [4, 1, 1, 1, 1]
    assert first["last_execution_at"] == NOON + timedelta(hours=1)
    assert first["total_duration_s"] == 3.0
    assert (second["executions"], second["checks"]) == (1, 0)


async def test_of_several_records_of_an_action_the_newest_is_kept(pool):
    action = an_action()
    sent = replace(action, status=ActionStatus.SENT, sent_at=NOON, attempts=1)
    await apply(pool, [action, sent])
    assert await stored_actions(pool) == (sent,)
    done = settled(action)
    await apply(pool, [sent, done])
    assert await stored_actions(pool) == (done,)


@pytest.mark.parametrize("status", [s for s in ActionStatus if s.settled])
@pytest.mark.parametrize("older", [s for s in ActionStatus if not s.settled])
async def test_what_is_settled_is_never_made_unsettled(pool, status, older):
    action = an_action(status=older)
    done = settled(action, status=status)
    await apply(pool, [done])
    await apply(pool, [action])
    assert await stored_actions(pool) == (done,)


async def test_of_two_states_of_a_guard_the_newer_stays(pool):
    old = a_guard_state()
    new = replace(old, reason="changed", updated_at=NOON + timedelta(seconds=1))
    for states in ([new], [old]):
        await apply(pool, states)
    async with acquired(pool) as connection:
        assert await load_guard_states(connection) == (new,)


@pytest.mark.parametrize(
    "bad",
    [
        an_action(amount=-1),
        an_action(amount=1 << 63),
        an_action(amount=1 << 70),
        an_action(quantity=-1),
        an_action(level=inf),
    ],
    ids=["against a rule", "beyond bigint", "beyond 64 bits", "a negative cut", "infinite"],
)
async def test_one_bad_record_leaves_none_of_its_batch_behind(pool, bad):
    with pytest.raises(RecordsRefusedError):
        await apply(pool, [an_execution(), an_action(), bad])
    assert await stored_actions(pool) == ()
    assert await fetch(pool, "SELECT FROM executions") == []


async def test_a_text_with_nul_does_not_keep_an_action_out(pool):
    await apply(pool, [an_action(error="a\x00b")])
    (stored,) = await stored_actions(pool)
    assert stored.error == "a\ufffdb"


async def test_the_schema_knows_every_status_source_and_kind(pool):
    kinds = ActionRecord.__dataclass_fields__["kind"].type
    actions = [an_action(status=status) for status in ActionStatus]
    actions += [an_action(kind=kind) for kind in kinds]
    executions = [an_execution(status=status) for status in ExecutionStatus]
    executions += [an_execution(source=source) for source in ExecutionSource]
    executions += [an_execution(error_type=error_type) for error_type in ErrorType]
    guards = [a_guard_state(guard_id=armed.value, armed=armed) for armed in ArmedState]
    await apply(pool, [*actions, *executions, *guards])
    assert len(await stored_actions(pool)) == len(actions)
