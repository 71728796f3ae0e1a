"""The records in the database: written so that writing one again changes nothing."""

from collections.abc import Sequence

import asyncpg

from marginguard.domain.errors import Malformed, MarginguardError
from marginguard.domain.records import (
    ActionRecord,
    CommandRecord,
    ExecutionRecord,
    GuardState,
    Record,
)
from marginguard.storage.codec import decode_actions, decode_guard_states, json_rows
from marginguard.storage.database import Connection, Pool, acquired
from marginguard.storage.sql_files import statement

REFUSALS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    Malformed,
)
"""A value that no JSON or no column can hold: the same statement would always be refused."""


class RecordsRefusedError(MarginguardError):
    """Keep the records aside: the database understood them and will never take them."""


async def apply(pool: Pool, records: Sequence[Record]) -> None:
    """Write the records, given in order, in one transaction.

    Of several records of one action or guard only the newest is written. Raises
    `DatabaseUnavailable`, after which it may have been committed or not, and
    `RecordsRefusedError` when at least one record has a value that the schema does not allow.
    """
    executions = [record for record in records if isinstance(record, ExecutionRecord)]
    actions = {record.id: record for record in records if isinstance(record, ActionRecord)}
    commands = [record for record in records if isinstance(record, CommandRecord)]
    guards = {record.guard_id: record for record in records if isinstance(record, GuardState)}
    parts = (
        ("insert_executions", executions),
        ("upsert_actions", list(actions.values())),
        ("upsert_guard_states", list(guards.values())),
        ("insert_commands", commands),
    )
    async with acquired(pool) as connection:
        try:
            async with connection.transaction():
                for name, rows in parts:
                    if rows:
                        await connection.execute(statement(name), json_rows(rows))
        except REFUSALS as error:
            raise RecordsRefusedError(f"{type(error).__name__}: {error.args[0]}") from error


async def load_guard_states(connection: Connection) -> tuple[GuardState, ...]:
    """Return every guard's state, for a daemon whose state directory was lost.

    Raises `Malformed` when a state is not one that this version knows.
    """
    return decode_guard_states(await connection.fetchval(statement("select_guard_states")))


async def load_unsettled_actions(connection: Connection) -> tuple[ActionRecord, ...]:
    """Return every action that is not settled, oldest first.

    For a daemon whose state directory was lost: whoever forgets them may act twice. Raises
    `Malformed` when an action is not one that this version knows.
    """
    return decode_actions(await connection.fetchval(statement("select_unsettled_actions")))
