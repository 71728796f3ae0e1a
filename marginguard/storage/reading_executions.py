"""What the commands that explain and analyze read of executions, actions and notifications."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from pydantic import ConfigDict, TypeAdapter, ValidationError

from marginguard.domain.errors import Malformed
from marginguard.domain.history import Delivery, Run
from marginguard.domain.records import ActionRecord, ExecutionRecord, ExecutionStatus
from marginguard.domain.units import GuardId
from marginguard.storage.codec import decode_actions
from marginguard.storage.database import Connection
from marginguard.storage.sql_files import statement

LONGEST_ID: Final = 32
"""How many hexadecimal digits an id has."""

_EXECUTIONS: TypeAdapter[tuple[ExecutionRecord, ...]] = TypeAdapter(
    tuple[ExecutionRecord, ...], config=ConfigDict(strict=True, extra="forbid")
)
_RUNS = TypeAdapter(tuple[Run, ...])
_PHASES = TypeAdapter(dict[str, float])
_DELIVERIES = TypeAdapter(tuple[Delivery, ...])


async def executions(
    connection: Connection,
    *,
    since: datetime,
    guard_id: GuardId | None,
    status: ExecutionStatus | None,
    limit: int,
) -> tuple[ExecutionRecord, ...]:
    """Return the newest executions that began at `since` or later, newest first.

    Raises `Malformed` for one that this program cannot read.
    """
    return _decoded(
        await connection.fetchval(statement("select_executions"), since, guard_id, status, limit)
    )


async def count_by_status(
    connection: Connection, *, since: datetime, guard_id: GuardId | None
) -> dict[ExecutionStatus, int]:
    """Return how many executions began at `since` or later, for every status."""
    rows = await connection.fetch(statement("select_counts_of_executions"), since, guard_id)
    found = {row["status"]: row["count"] for row in rows}
    return {status: found.get(status.value, 0) for status in ExecutionStatus}


async def runs(
    connection: Connection, *, since: datetime, guard_id: GuardId | None, limit: int
) -> tuple[Run, ...]:
    """Return how the newest executions from `since` on went, newest first, without phases."""
    rows = await connection.fetch(statement("select_runs"), since, guard_id, limit)
    return _RUNS.validate_python(tuple(dict(row) for row in rows))


async def profiled_runs(
    connection: Connection, *, guard_id: GuardId | None, limit: int
) -> tuple[Run, ...]:
    """Return how the newest executions that were not skipped went, newest first, with phases."""
    rows = await connection.fetch(statement("select_profiled_runs"), guard_id, limit)
    return _RUNS.validate_python(
        tuple({**row, "phases": _PHASES.validate_json(row["phases"])} for row in rows)
    )


async def execution_ids(connection: Connection, beginning: str) -> tuple[UUID, ...]:
    """Return the executions, at most three, whose id or that of an action begins so."""
    digits = beginning.replace("-", "").lower()
    if not 1 <= len(digits) <= LONGEST_ID or set(digits) - set("0123456789abcdef"):
        return ()
    rows = await connection.fetch(
        statement("select_execution_ids"),
        UUID(digits.ljust(LONGEST_ID, "0")),
        UUID(digits.ljust(LONGEST_ID, "f")),
    )
    return tuple(row["id"] for row in rows)


async def execution(connection: Connection, execution_id: UUID) -> ExecutionRecord | None:
    """Return the execution, or None where it has left no record of its end."""
    found = _decoded(await connection.fetchval(statement("select_execution"), execution_id))
    return found[0] if found else None


async def actions_of_execution(
    connection: Connection, execution_id: UUID
) -> tuple[ActionRecord, ...]:
    """Return what the execution set out to do, oldest first."""
    return decode_actions(
        await connection.fetchval(statement("select_actions_of_execution"), execution_id)
    )


async def deliveries(
    connection: Connection, *, since: datetime, limit: int
) -> tuple[Delivery, ...]:
    """Return how telling of the newest notices from `since` on went, newest first."""
    rows = await connection.fetch(statement("select_deliveries"), since, limit)
    return _DELIVERIES.validate_python(tuple(dict(row) for row in rows))


async def failed_deliveries(connection: Connection, *, since: datetime) -> tuple[Delivery, ...]:
    """Return the notifications that were given up at `since` or later, newest first."""
    rows = await connection.fetch(statement("select_failed_notifications"), since)
    return _DELIVERIES.validate_python(tuple(dict(row) for row in rows))


async def deliveries_by_id(connection: Connection, ids: Sequence[UUID]) -> tuple[Delivery, ...]:
    """Return how telling of these notices goes or went, newest first."""
    rows = await connection.fetch(statement("select_notifications_by_id"), list(ids))
    return _DELIVERIES.validate_python(tuple(dict(row) for row in rows))


async def deliveries_of_execution(
    connection: Connection, execution_id: UUID
) -> tuple[Delivery, ...]:
    """Return how telling of the execution went, oldest first."""
    rows = await connection.fetch(statement("select_deliveries_of_execution"), execution_id)
    return _DELIVERIES.validate_python(tuple(dict(row) for row in rows))


async def known_ids(connection: Connection, *, newest: int) -> tuple[str, ...]:
    """Return ids of positions and of the newest executions, for who mistyped one."""
    rows = await connection.fetch(statement("select_known_ids"), newest)
    return tuple(row["id"] for row in rows)


async def newest_look(connection: Connection) -> datetime | None:
    """Return when the daemon last looked, as far as the record shows."""
    looked: datetime | None = await connection.fetchval(statement("select_newest_look"))
    return looked


def _decoded(rows: str) -> tuple[ExecutionRecord, ...]:
    try:
        return _EXECUTIONS.validate_json(rows)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise Malformed(
            f"an execution in the record cannot be read ({where}: {fault['msg']}): another version"
            " of marginguard wrote it, install that one"
        ) from error
