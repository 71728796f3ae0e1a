"""What the daemon has written down about a guard, and what that says of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from marginguard.diagnose.account import Cause
from marginguard.domain.decision import Pending
from marginguard.domain.memory import GuardMemory
from marginguard.domain.pause import Pause
from marginguard.domain.records import ActionRecord, ArmedState, ExecutionStatus
from marginguard.domain.units import GuardId


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardRecord:
    """A guard as the daemon recorded it; `armed` None: it has never run.

    `unsettled` are its actions whose end is not known. `looked_at` is its last look, and the
    `execution` fields are about its last run that had something to do or failed.
    """

    guard_id: GuardId
    armed: ArmedState | None = None
    reason: str = ""
    since: datetime | None = None
    pause: Pause | None = None
    memory: GuardMemory = field(default_factory=GuardMemory)
    unsettled: tuple[ActionRecord, ...] = ()
    looked_at: datetime | None = None
    execution_at: datetime | None = None
    execution_status: ExecutionStatus | None = None
    execution_error: str | None = None


def causes_in(record: GuardRecord, *, now: datetime, patience: timedelta) -> Iterator[Cause]:
    """Yield why the daemon does not let the guard act.

    `patience` is how long a daemon that runs may go without a look.
    """
    if record.armed is None:
        yield Cause(
            issue="the daemon has never run this guard",
            solution="let it read the configuration again: systemctl reload marginguard",
            action="reload_daemon",
        )
        return
    looked = max((at for at in (record.looked_at, record.execution_at) if at), default=None)
    if looked is None or now - looked > patience:
        when = "never" if looked is None else f"last at {looked:%Y-%m-%d %H:%M:%S} UTC"
        yield Cause(
            issue=f"the daemon looked {when}",
            solution="see whether it runs: systemctl status marginguard, and its log:"
            " journalctl -u marginguard",
            action="start_daemon",
        )
    if record.pause is not None and record.pause.left(now):
        yield Cause(
            issue=f"the guard only alerts: it is {record.pause}",
            solution=f"end its pause: marginguard resume {record.guard_id}",
            action="resume_guard",
        )
    elif record.armed is not ArmedState.ARMED:
        yield Cause(
            issue=f"the daemon has it {record.armed.value} since"
            f" {record.since:%Y-%m-%d %H:%M:%S} UTC: {record.reason}",
            solution="change what the reason names; the steps above say how things stand now",
            action="arm_guard",
        )


def pending_of(
    record: GuardRecord, *, now: datetime, verify_within: timedelta
) -> tuple[Pending, ...]:
    """Return what the unsettled actions mean for the next decision."""
    return tuple(
        _pending(action, now, verify_within) for action in record.unsettled if action.kind.protects
    )


def _pending(action: ActionRecord, now: datetime, verify_within: timedelta) -> Pending:
    # The daemon measures this by a clock that never jumps; the record has the wall clock's time.
    age = now - (action.sent_at or action.intended_at)
    overdue = action.frozen or age >= verify_within
    waits = "not proved in time" if overdue else "not settled yet"
    state = "its outcome cannot be told" if action.frozen else waits
    return Pending(
        position_id=action.position_id,
        kind=action.kind,
        threshold=action.threshold,
        reason=f"action {action.id} ({action.kind.value}): {state}",
        overdue=overdue,
        frozen=action.frozen,
        repeatable=action.repeatable,
    )
