"""What the commands that explain and draw read of a position's life."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import TypeAdapter

from marginguard.domain.history import Delivery, LevelSample
from marginguard.domain.records import ActionRecord
from marginguard.domain.units import AccountId, PositionId
from marginguard.storage.codec import decode_actions
from marginguard.storage.database import Connection
from marginguard.storage.reading import PositionView
from marginguard.storage.sql_files import statement

_SAMPLES = TypeAdapter(tuple[LevelSample, ...])
_POSITIONS = TypeAdapter(tuple[PositionView, ...])
_DELIVERIES = TypeAdapter(tuple[Delivery, ...])


async def accounts_of(connection: Connection, position_id: PositionId) -> tuple[AccountId, ...]:
    """Return the accounts that have, or had, the position; `cross` is one in each account."""
    rows = await connection.fetch(statement("select_accounts_of_position"), position_id)
    return tuple(row["account_id"] for row in rows)


async def lineage(
    connection: Connection, account_id: AccountId, position_id: PositionId
) -> tuple[PositionId, ...]:
    """Return all ids that the position has had: a reduction gives the rest of a trade a new one."""
    rows = await connection.fetch(statement("select_lineage"), account_id, position_id)
    return tuple(row["position_id"] for row in rows)


async def running(
    connection: Connection, account_id: AccountId, ids: Sequence[PositionId]
) -> PositionView | None:
    """Return the position as it was last seen; None where it no longer runs."""
    rows = await connection.fetch(statement("select_running_position"), account_id, list(ids))
    found = _POSITIONS.validate_python(tuple(dict(row) for row in rows))
    return found[0] if found else None


async def levels(
    connection: Connection,
    account_id: AccountId,
    ids: Sequence[PositionId],
    *,
    since: datetime,
    limit: int,
) -> tuple[LevelSample, ...]:
    """Return the newest samples of the position's level from `since` on, oldest first."""
    rows = await connection.fetch(
        statement("select_margin_history"), account_id, list(ids), since, limit
    )
    return _SAMPLES.validate_python(tuple(dict(row) for row in rows))


async def actions_of(
    connection: Connection, account_id: AccountId, ids: Sequence[PositionId], *, limit: int
) -> tuple[ActionRecord, ...]:
    """Return the newest actions on the position, oldest first."""
    return decode_actions(
        await connection.fetchval(
            statement("select_actions_of_positions"), account_id, list(ids), limit
        )
    )


async def deliveries_of(
    connection: Connection, account_id: AccountId, ids: Sequence[PositionId], *, limit: int
) -> tuple[Delivery, ...]:
    """Return how telling of the position went: the newest notices, oldest first."""
    rows = await connection.fetch(
        statement("select_deliveries_of_positions"), account_id, list(ids), limit
    )
    return _DELIVERIES.validate_python(tuple(dict(row) for row in rows))
