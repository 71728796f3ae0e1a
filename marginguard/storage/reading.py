"""Reading the record, for commands."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from marginguard.storage.database import Connection
from marginguard.storage.statements import statement


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionRow:
    """The newest view of a running position; `guard_id` None: no armed guard covers it."""

    account_id: str
    position_id: str
    guard_id: str | None
    mode: str
    side: str
    quantity: int
    entry_price: float
    leverage: float
    margin: int
    pl: int
    price: float
    level: float
    risk: str
    trigger_price: float | None
    liquidation_price: float | None
    liquidation_distance: float | None
    seen_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardRow:
    """Whether a guard guards, when it looked last, and its newest recorded execution."""

    guard_id: str
    account_id: str
    armed: str
    reason: str
    since: datetime
    executions: int | None
    checks: int | None
    last_looked_at: datetime | None
    execution_id: UUID | None
    execution_status: str | None
    execution_started_at: datetime | None
    execution_error: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionRow:
    """One action, without its states before and after."""

    id: UUID
    execution_id: UUID
    guard_id: str
    account_id: str
    position_id: str
    kind: str
    amount: int
    status: str
    dry_run: bool
    reason: str
    level: float
    threshold: float
    intended_at: datetime
    settled_at: datetime | None
    attempts: int
    proof: str | None
    error: str | None


_Row = TypeVar("_Row", PositionRow, GuardRow, ActionRow)


async def read_positions(connection: Connection) -> tuple[PositionRow, ...]:
    """Return all running positions: those that nobody guards first, then the worst level."""
    return await _rows(connection, PositionRow, "positions")


async def read_guards(connection: Connection) -> tuple[GuardRow, ...]:
    """Return all guards ever recorded: those that are not armed first."""
    return await _rows(connection, GuardRow, "guards")


async def read_actions(
    connection: Connection, *, account_id: str | None = None, limit: int = 20
) -> tuple[ActionRow, ...]:
    """Return the newest actions, of one account or of all, the newest first."""
    return await _rows(connection, ActionRow, "actions", account_id, limit)


async def count_executions(connection: Connection) -> int:
    """Return how many executions are on record."""
    return int(await connection.fetchval(statement("reading", "count_executions")))


async def _rows(
    connection: Connection, row_type: type[_Row], name: str, *arguments: object
) -> tuple[_Row, ...]:
    names = [field.name for field in fields(row_type)]
    rows = await connection.fetch(statement("reading", name), *arguments)
    return tuple(row_type(**{name: row[name] for name in names}) for row in rows)
