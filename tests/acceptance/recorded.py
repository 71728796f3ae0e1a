"""A record in the database, and the commands that read it."""

import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from marginguard.domain.errors import ErrorCode, ErrorType
from marginguard.domain.memory import GuardMemory
from marginguard.domain.records import ActionStatus, ExecutionStatus
from marginguard.storage.link import DatabaseLink
from marginguard.storage.notifications import upsert
from marginguard.storage.observations import DatabaseObservations
from marginguard.storage.records import apply
from tests.commands import run_alone, run_here
from tests.daemons import Market, a_guard, write_config
from tests.notifying import a_notice, a_notification
from tests.records import a_guard_state, a_sighting, an_action, an_execution, settled
from tests.unit.strategies import a_position

NOW = datetime.now(UTC).replace(microsecond=0)


class Command:
    """Runs marginguard's commands with one configuration, in this process unless `alone`."""

    def __init__(self, config, database_url=None, *, alone=False):
        self.config = config
        self.database_url = database_url
        self._alone = alone

    async def __call__(self, name, *arguments, columns=80, **environment):
        run = run_alone if self._alone else run_here
        words = (*name.split(), *arguments, "--config", str(self.config))
        return await run(*words, COLUMNS=str(columns), **environment)

    async def json(self, name, *arguments):
        code, out, err = await self(name, *arguments, "--json")
        assert err == ""
        return code, json.loads(out)


def ago(**span):
    return NOW - timedelta(**span)


def ran(at, **changes):
    """Return an execution that began at a time."""
    return an_execution(
        **{"started_at": at, "finished_at": at + timedelta(milliseconds=750), **changes}
    )


def failed(at, **changes):
    return ran(
        at,
        **{
            "status": ExecutionStatus.FAILED,
            "positions_succeeded": 0,
            "positions_failed": 1,
            "error_code": ErrorCode.ACTION_FAILED,
            "error_type": ErrorType.NETWORK,
            "error": "connection refused",
            "results": {"trade-1": "close_position rejected"},
            "duration_s": 4.0,
            **changes,
        },
    )


async def a_failed_story(link):
    """Put an execution into the record whose action was refused, and which was told of."""
    run = failed(ago(hours=1), error_type=ErrorType.EXECUTION, error="insufficient balance")
    refused = settled(
        an_action(
            execution_id=run.id,
            intended_at=run.started_at + timedelta(milliseconds=100),
            amount=25_000,
        ),
        status=ActionStatus.REJECTED,
        outcome="rejected",
        error="insufficient balance",
        proof=None,
        after=None,
    )
    await apply(link.pool, [run, refused])
    notice = a_notice(execution_id=run.id, at=run.finished_at)
    told = a_notification(notice=notice, created_at=run.finished_at, subject="ACTION FAILED")
    await upsert(link.pool, [told])
    return run, refused


async def seen(link, level_prices, *, position_id="trade-1"):
    """Let a position be seen at prices, some minutes apart; the last a moment ago."""
    observations = DatabaseObservations(link)
    position = a_position(id=position_id)
    for index, price in enumerate(level_prices):
        at = ago(minutes=4 * (len(level_prices) - 1 - index))
        observations.positions("main", {position_id: a_sighting(position, price)}, at)
        await observations.flush()


@asynccontextmanager
async def linked(database_url):
    """Hold a link to the database."""
    link = DatabaseLink(database_url)
    await link.connect()
    yield link
    await link.close(timeout_s=10.0)


async def commands_over_a_record(state_dir, database_url, link):
    """Return the commands, over the record of a daemon that looked a moment ago at nothing."""
    observations = DatabaseObservations(link)
    observations.checked("guard-1", "main", datetime.now(UTC))
    await observations.flush()
    state = a_guard_state(since=NOW, updated_at=NOW, memory=GuardMemory())
    await apply(link.pool, [state])
    market = Market()
    async with market.open_for_trade():
        config = write_config(state_dir, market, a_guard(), database_url=database_url)
    return Command(config, database_url)
