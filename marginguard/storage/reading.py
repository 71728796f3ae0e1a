"""What `marginguard status` and the demo read from the database."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import TypeAdapter

from marginguard.domain.model import MarginMode, RiskLevel, Side
from marginguard.domain.records import ActionRecord, ArmedState, ExecutionStatus
from marginguard.domain.units import AccountId, GuardId, Percent, PositionId, Price, Sats, Usd
from marginguard.storage.codec import decode_actions
from marginguard.storage.database import Connection
from marginguard.storage.sql_files import statement


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionView:
    """A running position as it was last seen, at `seen_at`; no `guard_id`: not covered.

    `pl` and `margin` are sats, `level` and `liquidation_distance` percentages. `backstop` is the
    stop-loss where it stands at the guard's backstop or nearer to the market. `original_margin`
    (sats) is what the trade began with before a reduction reopened it; None if none did.
    """

    account_id: AccountId
    position_id: PositionId
    guard_id: GuardId | None
    mode: MarginMode
    side: Side
    quantity: Usd
    margin: Sats
    entry_price: Price
    leverage: float
    price: Price
    level: Percent
    risk: RiskLevel
    trigger_price: Price | None
    liquidation_price: Price | None
    liquidation_distance: Percent | None
    pl: Sats
    stop_loss: Price | None
    take_profit: Price | None
    backstop: Price | None
    original_margin: Sats | None
    seen_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardView:
    """What a guard is, what it has done so far, and how its newest execution ended.

    `checks` counts the looks at which there was nothing to do. A pause may be over.
    """

    guard_id: GuardId
    account_id: AccountId
    armed: ArmedState
    reason: str
    since: datetime
    updated_at: datetime
    paused_until: datetime | None
    paused_by: str | None
    checks: int
    last_checked_at: datetime | None
    executions: int
    completed: int
    partial: int
    failed: int
    skipped: int
    last_execution_id: UUID | None
    last_execution_status: ExecutionStatus | None
    last_execution_at: datetime | None
    last_execution_error: str | None


_POSITIONS = TypeAdapter(tuple[PositionView, ...])
_GUARDS = TypeAdapter(tuple[GuardView, ...])


async def has_records(connection: Connection) -> bool:
    """Return whether a daemon has ever made its tables in this database."""
    found: bool = await connection.fetchval(statement("has_records"))
    return found


async def positions(connection: Connection) -> tuple[PositionView, ...]:
    """Return every running position: those that no guard covers first, then the worst first."""
    rows = await connection.fetch(statement("select_positions"))
    return _POSITIONS.validate_python(tuple(dict(row) for row in rows))


async def guards(connection: Connection) -> tuple[GuardView, ...]:
    """Return every guard that has a state, by id."""
    rows = await connection.fetch(statement("select_guards"))
    return _GUARDS.validate_python(tuple(dict(row) for row in rows))


async def newest_actions(
    connection: Connection, limit: int, *, stop_losses: int = 0
) -> tuple[ActionRecord, ...]:
    """Return at most `limit` actions, the newest first.

    Those that only set a stop-loss do not count among them: of these, at most `stop_losses`.
    """
    return decode_actions(
        await connection.fetchval(statement("select_newest_actions"), limit, stop_losses)
    )


async def proved_actions(connection: Connection, account_id: AccountId) -> tuple[ActionRecord, ...]:
    """Return the account's actions that were carried out and proved, the oldest first."""
    return decode_actions(await connection.fetchval(statement("select_proved_actions"), account_id))


async def count_executions(connection: Connection) -> int:
    """Return how many executions there are."""
    count: int = await connection.fetchval(statement("count_executions"))
    return count
