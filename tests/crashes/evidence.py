"""What a run leaves behind: the exchange's calls and state, and the record's rows."""

from dataclasses import dataclass
from datetime import datetime

import orjson

from marginguard.domain.units import CROSS

_UNSETTLED = frozenset({"intended", "sent", "unknown"})
_SPENDS = frozenset({"add_margin", "increase_liquidation_distance"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A call that asked the exchange for a change, by its own list. `account` is our name of it."""

    time: datetime
    account: str
    method: str
    path: str
    body: dict
    applied: bool

    @classmethod
    def of(cls, payload, accounts):
        """Return a row of `GET /simulator/calls`; `accounts` has our name for every key."""
        return cls(
            time=datetime.fromisoformat(payload["time"]),
            account=accounts[payload["account"]],
            method=payload["method"],
            path=payload["path"],
            body=payload["body"] or {},
            applied=payload["applied"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of the table `actions`."""

    id: str
    account: str
    position: str
    kind: str
    amount: int
    status: str
    intended_at: datetime
    level: float = 0.0
    dry_run: bool = False
    frozen: bool = False
    client_id: str | None = None
    quantity: int = 0
    stop_loss: float | None = None
    reopening: dict | None = None
    successor: str | None = None

    @classmethod
    def of(cls, record):
        """Return the row that the database gave."""
        reopening = record["reopening"]
        return cls(
            id=str(record["id"]),
            account=record["account_id"],
            position=record["position_id"],
            kind=record["kind"],
            amount=record["amount"],
            status=record["status"],
            intended_at=record["intended_at"],
            level=record["level"],
            dry_run=record["dry_run"],
            frozen=record["frozen"],
            client_id=record["client_id"],
            quantity=record["quantity"],
            stop_loss=record["stop_loss"],
            reopening=orjson.loads(reopening) if reopening else None,
            successor=record["successor"],
        )

    @property
    def settled(self):
        """Whether its end is known."""
        return self.status not in _UNSETTLED

    @property
    def waits(self):
        """Whether it must not be repeated, nor another one begun, before its end is known."""
        cut = self.kind == "reduce_position" and self.position == CROSS
        return not self.settled and (cut or self.kind in _SPENDS)

    def __str__(self):
        return f"{self.kind} {self.id} on {self.account}/{self.position}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """A position by the exchange's state; `level` is 0 for one that does not run."""

    account: str
    position: str
    running: bool
    liquidated: bool
    level: float

    def __str__(self):
        return f"{self.account}/{self.position}"


def holdings_of(state, accounts):
    """Return every position in `GET /simulator/state`, ended ones too."""
    trades = [_of_trade(trade, accounts) for trade in state["trades"]]
    return trades + [_of_cross(position, accounts) for position in state["crossPositions"]]


def _of_trade(trade, accounts):
    running = trade["running"]
    return Holding(
        account=accounts[trade["account"]],
        position=trade["id"],
        running=running,
        liquidated=trade["ending"] == "liquidation",
        level=_level(trade["pl"], trade["margin"]) if running else 0.0,
    )


def _of_cross(position, accounts):
    running = position["quantity"] != 0
    buffer = position["margin"] - position["maintenanceMargin"]
    return Holding(
        account=accounts[position["account"]],
        position=CROSS,
        running=running,
        liquidated=not running and position["margin"] == 0,
        level=_level(position["totalPl"], buffer) if running else 0.0,
    )


def _level(pl, buffer):
    return 100.0 * max(0, -pl) / buffer if buffer > 0 else 100.0
