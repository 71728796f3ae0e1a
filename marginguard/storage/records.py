"""Records in the database: written any number of times, there once."""

from collections.abc import Iterable, Sequence
from typing import Final

import asyncpg

from marginguard.domain.errors import MarginguardError
from marginguard.domain.records import ActionRecord, ExecutionRecord, GuardState, Record
from marginguard.storage import codec
from marginguard.storage.database import Pool, acquired
from marginguard.storage.statements import statement

APPLY_TIMEOUT_S: Final = 10.0


class RecordRefused(MarginguardError):
    """Put the record aside: the database will never take it as it is."""


async def apply(pool: Pool, records: Sequence[Record]) -> None:
    """Write the records in one transaction; doing it again changes nothing.

    Raises `DatabaseUnavailable`, and `RecordRefused` if one of them breaks a rule of the schema.
    """
    async with acquired(pool) as connection:
        try:
            async with connection.transaction():
                for name, rows in _rows(records):
                    await connection.execute(
                        statement("records", name), codec.json_rows(rows), timeout=APPLY_TIMEOUT_S
                    )
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            raise RecordRefused(f"{type(error).__name__}: {error.args[0]}") from error


async def remembered(pool: Pool) -> tuple[Record, ...]:
    """Return what a start needs: every guard's state, and the actions that are not settled.

    Raises `DatabaseUnavailable`, and `Malformed` for rows that another program has changed.
    """
    async with acquired(pool) as connection:
        states = await connection.fetchval(statement("records", "select_guard_states"))
        actions = await connection.fetchval(statement("records", "select_unsettled_actions"))
    return (*codec.decode_guard_states(states), *codec.decode_actions(actions))


def _rows(records: Sequence[Record]) -> Iterable[tuple[str, Sequence[Record]]]:
    """Yield each statement with its rows: of each action and guard the newest alone."""
    actions = {r.id: r for r in records if isinstance(r, ActionRecord)}
    executions = {r.id: r for r in records if isinstance(r, ExecutionRecord)}
    states = {r.guard_id: r for r in records if isinstance(r, GuardState)}
    if actions:
        yield "upsert_actions", tuple(actions.values())
    if executions:
        yield "insert_executions", tuple(executions.values())
    if states:
        yield "upsert_guard_states", tuple(states.values())
