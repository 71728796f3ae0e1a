"""What must hold after every run, whatever was killed and whatever failed.

Each function returns what is wrong, a line of plain English each; nothing wrong is an empty list.
"""

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta

from marginguard.domain.units import CROSS
from tests.crashes.matching import REPEATABLE, Step, steps_of

_HOUR = timedelta(hours=1)
_RISEN_BY = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What the guard of an account may spend, in sats and in actions an hour."""

    max_per_position: int
    max_per_day: int
    max_per_hour: int


def applied_once(assignment):
    """No step of an action is carried out twice."""
    return [
        f"{step} of {row} was carried out {len(applied)} times"
        for row in assignment.rows
        for step in steps_of(row)
        if step not in REPEATABLE and len(applied := assignment.applied(row, step)) > 1
    ]


def record_agrees(assignment):
    """What the record calls done was carried out, and what it calls rejected was not."""
    return [f"{row} {why}" for row in assignment.rows if (why := _disagreement(row, assignment))]


def _disagreement(row, assignment):
    """Return what the record says wrongly of a row, or None."""
    steps = steps_of(row)
    applied = [step for step in steps if assignment.applied(row, step)]
    missing = [step for step in steps if step not in applied]
    closers = _closers(row, assignment)
    # Where a close takes over from a reduction, the request of either may have closed the trade.
    if Step.CLOSE in missing and any(assignment.applied(r, Step.CLOSE) for r in closers):
        missing.remove(Step.CLOSE)
    # A trade is reduced also where its rest stays closed: then it has no successor.
    if row.successor is None and Step.OPEN in missing:
        missing.remove(Step.OPEN)
    if row.dry_run and applied:
        return f"is a dry run, and {', '.join(applied)} was carried out"
    if row.status == "rejected" and applied:
        return f"is rejected, and {', '.join(applied)} was carried out"
    if row.status == "gone" and Step.CLOSE in applied:
        taken_over = any(r.status == "done" for r in closers)
        return None if taken_over else "is gone, and it was this action that closed it"
    if row.status == "done" and missing:
        return f"is done, and {', '.join(missing)} was never carried out"
    if row.status == "done" and row.successor is None and Step.OPEN in applied:
        return "says that the rest stays closed, and it was opened"
    return None


def _closers(row, assignment):
    """Return the other rows that close the same isolated trade, which ends only once."""
    return [
        other
        for other in assignment.rows
        if other.id != row.id
        and (other.account, other.position) == (row.account, row.position)
        and other.position != CROSS
        and Step.CLOSE in steps_of(other)
    ]


def within_budget(assignment, bounds):
    """By the exchange's own list no guard spends more than it may. `bounds` is by account."""
    by_position, by_day, times = defaultdict(int), defaultdict(int), defaultdict(list)
    for change, row in assignment.spent():
        account = change.call.account
        day = (change.call.time if row is None else row.intended_at).date()
        by_position[account, change.position] += change.figure
        by_day[account, day] += change.figure
        times[account].append(change.call.time)
    wrong = [
        f"{spent:,} sats were spent on {account}/{position}, above max_per_position"
        f" {bounds[account].max_per_position:,}"
        for (account, position), spent in by_position.items()
        if spent > bounds[account].max_per_position
    ]
    wrong += [
        f"{spent:,} sats were spent by {account} on {day}, above max_per_day"
        f" {bounds[account].max_per_day:,}"
        for (account, day), spent in by_day.items()
        if spent > bounds[account].max_per_day
    ]
    for account, spends in times.items():
        most = max(sum(start <= at < start + _HOUR for at in spends) for start in spends)
        if most > bounds[account].max_per_hour:
            wrong.append(
                f"{account} spent {most} times within an hour, above"
                f" max_spending_actions_per_hour {bounds[account].max_per_hour}"
            )
    return wrong


def _is_reduction(row):
    return row.kind == "reduce_position" and row.status == "done"


def none_liquidated(holdings, leapt_over=frozenset()):
    """No position was lost: the price of a run never goes as far as where one was opened to.

    Nobody could have saved those that the price `leapt_over` in one move.
    """
    return [
        f"{holding} was liquidated"
        for holding in holdings
        if holding.liquidated and str(holding) not in leapt_over
    ]


def unhandled(holdings, rows, told, *, threshold, patient):
    """Return the breached positions that nobody took care of and nobody was told of.

    `told` holds the account and position of every notice of UNPROTECTED since the last start. A
    action whose outcome cannot be told yet may hold its position back; `patient` does not take
    that for an answer, nor any action that is not settled or frozen. A position that was reduced
    is handled until its level has risen further: the cut moves its liquidation, not its level.
    """
    reduced = {(r.account, r.position): r.level for r in rows if _is_reduction(r)}
    waiting = {(row.account, row.position) for row in rows if row.waits}
    frozen = {(row.account, row.position) for row in rows if row.frozen}
    excused = told | frozen if patient else told | frozen | waiting
    wrong = [
        f"{holding} is at {holding.level:.1f} %: neither handled nor told of"
        for holding in holdings
        if holding.running
        and holding.level >= threshold
        and (holding.account, holding.position) not in excused
        and holding.level >= reduced.get((holding.account, holding.position), 0) + _RISEN_BY
    ]
    if patient:
        wrong += [f"{r} is still {r.status}" for r in rows if not r.settled and not r.frozen]
    return wrong
