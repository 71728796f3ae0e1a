"""What is written down: intents and actions, executions, and what a guard remembers.

Each record is a whole snapshot of its subject. The journal keeps every snapshot in order, so
the newest one of an id is the truth, and writing one twice changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Self
from uuid import UUID

from marginguard.domain.errors import ErrorCode, ErrorType
from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import ActionKind, Position, Side
from marginguard.domain.pause import Pause
from marginguard.domain.units import AccountId, GuardId, Percent, PositionId, Price, Sats, Usd


class ActionStatus(StrEnum):
    """How far an action has come.

    `intended`: written down, nothing sent. `sent`: a request went out or is about to. `done`:
    proved. `rejected`: certain not to have happened. `unknown`: cannot be told yet. `gone`: the
    position ended before the action could work or another runs in its place, or a stop-loss that
    may have stood stands no longer.
    """

    INTENDED = "intended"
    SENT = "sent"
    DONE = "done"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    GONE = "gone"

    @property
    def settled(self) -> bool:
        """Whether nothing more can follow."""
        return self in {ActionStatus.DONE, ActionStatus.REJECTED, ActionStatus.GONE}


class ExecutionStatus(StrEnum):
    """How one run of a guard ended; `completed` means that every needed action is proved."""

    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    SKIPPED = "skipped"


class ExecutionSource(StrEnum):
    """Why a guard was run."""

    SCHEDULE = "schedule"
    PRICE = "price"
    RETRY = "retry"
    RUN_NOW = "run-now"
    RECOVER = "recover"


class ArmedState(StrEnum):
    """Whether a guard guards. `degraded`: it cannot see for now; `disarmed`: it will not act."""

    ARMED = "armed"
    DEGRADED = "degraded"
    DISARMED = "disarmed"


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionState:
    """What an action is measured against: the position's figures at one read."""

    quantity: Usd
    margin: Sats
    entry_price: Price
    liquidation_price: Price | None
    funding_paid: Sats
    cashed_in: Sats
    price: Price | None
    stop_loss: Price | None = None
    side: Side | None = None
    maintenance_margin: Sats = Sats(0)

    @classmethod
    def of(cls, position: Position, price: Price | None) -> Self:
        """Return the state of `position`, read when the last price was `price`."""
        return cls(
            quantity=position.quantity,
            margin=position.margin,
            entry_price=position.entry_price,
            liquidation_price=position.liquidation_price,
            funding_paid=position.funding_paid,
            cashed_in=position.cashed_in,
            price=price,
            stop_loss=position.stop_loss,
            side=position.side,
            maintenance_margin=position.maintenance_margin,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reopening:
    """The second step of reducing an isolated trade: what is opened once it is closed.

    The side, quantity, stop-loss and take-profit are decided before the trade is closed. How it
    was closed, and the `leverage` that spends no more than what the close brought (`margin`), are
    known after; they are None until then.
    """

    side: Side
    quantity: Usd
    stop_loss: Price | None
    take_profit: Price | None
    closed_price: Price | None = None
    closed_at: datetime | None = None
    margin: Sats | None = None
    leverage: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionRecord:
    """One protective step on one position, from intent to proof.

    `sent_at` is when the newest attempt was about to be signed: the 35 s rule counts from it.
    `frozen` marks an action whose outcome can never be told by reading. `proof` says in words
    what the position showed afterwards.

    `amount` is what a step spends (sats), `quantity` what a reduction cuts (USD), `stop_loss`
    what the stop-loss is set to (None: it is removed). Reducing an isolated trade has a
    `reopening`, and ends with the id of the new trade as `successor`, or with none and an
    `error` where the rest stays closed.
    """

    id: UUID
    execution_id: UUID
    guard_id: GuardId
    account_id: AccountId
    position_id: PositionId
    episode_id: str
    kind: ActionKind
    amount: Sats
    status: ActionStatus
    dry_run: bool
    reason: str
    level: Percent
    threshold: Percent
    before: PositionState
    intended_at: datetime
    after: PositionState | None = None
    sent_at: datetime | None = None
    settled_at: datetime | None = None
    attempts: int = 0
    outcome: str | None = None
    exchange_id: str | None = None
    client_id: str | None = None
    error: str | None = None
    proof: str | None = None
    frozen: bool = False
    quantity: Usd = Usd(0)
    stop_loss: Price | None = None
    reopening: Reopening | None = None
    successor: PositionId | None = None

    @property
    def is_reopening(self) -> bool:
        """Whether the trade is closed already, so that only opening the rest is left."""
        return self.reopening is not None and self.reopening.closed_at is not None

    @property
    def closes(self) -> bool:
        """Whether what is asked for now is to close the position."""
        return self.kind is ActionKind.CLOSE_POSITION or (
            self.reopening is not None and not self.is_reopening
        )

    @property
    def repeatable(self) -> bool:
        """Whether asking twice does no more than asking once, as with a close."""
        return self.closes or self.kind is ActionKind.SET_STOP_LOSS


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionRecord:
    """One finished run of a guard that had something to do or failed.

    `results` has one line of plain English for each position that required action; `phases`
    says how many seconds each phase took.
    """

    id: UUID
    guard_id: GuardId
    account_id: AccountId
    user_id: str
    status: ExecutionStatus
    source: ExecutionSource
    version: str
    dry_run: bool
    positions_total: int
    positions_requiring_action: int
    positions_succeeded: int
    positions_failed: int
    price: Price | None
    error_code: ErrorCode | None
    error_type: ErrorType | None
    error: str | None
    started_at: datetime
    finished_at: datetime
    duration_s: float
    results: Mapping[PositionId, str] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardState:
    """What must survive a restart: whether the guard guards, and what it remembers.

    A `pause` may be over: whoever looks holds it against the time.
    """

    guard_id: GuardId
    account_id: AccountId
    armed: ArmedState
    reason: str
    since: datetime
    memory: GuardMemory
    updated_at: datetime
    pause: Pause | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandRecord:
    """One thing that an operator asked of the running daemon, and what came of it.

    `by` says who asked and by which way, such as "root (control socket)" or "telegram chat
    12345". `command` is what was asked, as it was given. `answer` is what the asker was told.
    """

    id: UUID
    at: datetime
    by: str
    command: str
    guard_id: GuardId | None
    accepted: bool
    answer: str


Record = ActionRecord | ExecutionRecord | GuardState | CommandRecord
