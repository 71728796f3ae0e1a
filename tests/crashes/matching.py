"""Which action asked for which call: every call belongs to one step of one row.

A kind of action is one line in `_STEPS`, a call one line in `_READERS`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType

from marginguard.domain.units import CROSS
from tests.crashes.evidence import Call, Row

CLOCK_GRAIN = timedelta(milliseconds=1)
"""The exchange cuts its times down to whole milliseconds; the rows keep microseconds."""


class Step(StrEnum):
    """One thing that an action asks the exchange for."""

    CLOSE = "close"
    ADD = "add"
    OPEN = "open"
    ORDER = "order"
    STOP = "stop"


REPEATABLE = frozenset({Step.STOP})
"""What may be carried out twice, since the second time changes nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A call in the words of the records.

    `position` None: it opens a new one, found by `client_id`. `figure` is how much is asked for:
    sats, USD, or a price; None where there is nothing to say.
    """

    call: Call
    step: Step
    position: str | None
    figure: float | None = None
    client_id: str | None = None

    def __str__(self):
        what = "" if self.figure is None else f" of {self.figure:g}"
        where = f"{self.call.account}/{self.position or 'a new trade'}"
        return f"{self.step}{what} on {where} at {self.call.time.isoformat()}"


@dataclass(kw_only=True, slots=True)
class Assignment:
    """The calls of each row (by its id), and what is wrong with those that fit none."""

    rows: tuple[Row, ...]
    changes: dict[str, list[Change]] = field(default_factory=dict)
    unmatched: list[Change] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def applied(self, row, step):
        """Return the calls of the row's step that were carried out."""
        return [c for c in self.changes.get(row.id, []) if c.step is step and c.call.applied]

    def spent(self):
        """Return every call that took sats from the balance, with its row or None."""
        matched = [(c, row) for row in self.rows for c in self.changes.get(row.id, [])]
        strays = [(c, None) for c in self.unmatched]
        return [(c, row) for c, row in matched + strays if c.step is Step.ADD and c.call.applied]


def steps_of(row):
    """Return what a row may ask for, in order."""
    if row.kind == "reduce_position" and row.position == CROSS:
        return (Step.ORDER,)
    return _STEPS[row.kind]


def assign(calls, rows):
    """Give every call to the newest row before it that may have asked for it.

    Right, because no position has two actions of one kind under way: an action that is not
    settled is gone on with or keeps the next one back.
    """
    assignment = Assignment(rows=tuple(sorted(rows, key=lambda row: row.intended_at)))
    for call in sorted(calls, key=lambda call: call.time):
        reader = _READERS.get((call.method, call.path))
        if reader is None:
            assignment.wrong.append(f"no action makes the call {call.method} {call.path}")
            continue
        change = reader(call)
        row = _row_of(change, assignment.rows)
        if row is None:
            assignment.unmatched.append(change)
            assignment.wrong.append(f"no intent came before the call: {change}")
            continue
        assignment.changes.setdefault(row.id, []).append(change)
        wanted = _FIGURES[change.step](row)
        if change.figure != wanted:
            assignment.wrong.append(f"the intent of {row} says {wanted}, and the call: {change}")
    return assignment


def _row_of(change, rows):
    return next((row for row in reversed(rows) if _may_have_asked(row, change)), None)


def _may_have_asked(row, change):
    if change.step not in steps_of(row) or row.account != change.call.account or row.dry_run:
        return False
    if row.intended_at > change.call.time + CLOCK_GRAIN:
        return False
    if change.client_id is not None and change.client_id != row.client_id:
        return False
    return change.position is None or change.position == row.position


_STEPS = MappingProxyType(
    {
        "close_position": (Step.CLOSE,),
        "reduce_position": (Step.CLOSE, Step.OPEN),
        "add_margin": (Step.ADD,),
        "increase_liquidation_distance": (Step.ADD,),
        "set_stop_loss": (Step.STOP,),
    }
)

_FIGURES = MappingProxyType(
    {
        Step.CLOSE: lambda row: None,
        Step.ADD: lambda row: row.amount,
        Step.OPEN: lambda row: (row.reopening or {}).get("quantity"),
        Step.ORDER: lambda row: row.quantity,
        Step.STOP: lambda row: row.stop_loss,
    }
)
"""What the row says of the figure that the call of a step carries."""


def _on_trade(step, figure=None):
    def read(call):
        return Change(
            call=call,
            step=step,
            position=call.body["id"],
            figure=None if figure is None else call.body[figure],
        )

    return read


def _on_cross(step, figure=None):
    def read(call):
        return Change(
            call=call,
            step=step,
            position=CROSS,
            figure=None if figure is None else call.body[figure],
            client_id=call.body.get("clientId"),
        )

    return read


def _opening(call):
    return Change(
        call=call,
        step=Step.OPEN,
        position=None,
        figure=call.body["quantity"],
        client_id=call.body.get("clientId", ""),
    )


_TRADE = "/v3/futures/isolated/trade"
_CROSS = "/v3/futures/cross"
_READERS: MappingProxyType[tuple[str, str], Callable[[Call], Change]] = MappingProxyType(
    {
        ("POST", f"{_TRADE}/close"): _on_trade(Step.CLOSE),
        ("POST", f"{_TRADE}/add-margin"): _on_trade(Step.ADD, "amount"),
        ("POST", _TRADE): _opening,
        ("PUT", f"{_TRADE}/stoploss"): _on_trade(Step.STOP, "value"),
        ("DELETE", f"{_TRADE}/stoploss"): _on_trade(Step.STOP),
        ("POST", f"{_CROSS}/position/close"): _on_cross(Step.CLOSE),
        ("POST", f"{_CROSS}/deposit"): _on_cross(Step.ADD, "amount"),
        ("POST", f"{_CROSS}/order"): _on_cross(Step.ORDER, "quantity"),
    }
)
