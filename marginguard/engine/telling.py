"""Notices in plain English: what happened, to which position, and what to do."""

from datetime import datetime
from uuid import UUID

from marginguard.domain.decision import Decision, Verdict
from marginguard.domain.model import ActionKind, Position
from marginguard.domain.notice import Notice, NoticeKind, Severity
from marginguard.domain.records import ActionRecord, ActionStatus, ArmedState, GuardState
from marginguard.domain.units import AccountId
from marginguard.engine import telling_figures
from marginguard.engine.failure import Failure

_ARMED_NOTICES = {
    ArmedState.ARMED: (NoticeKind.GUARD_ARMED, Severity.INFO, "guards"),
    ArmedState.DEGRADED: (NoticeKind.GUARD_DEGRADED, Severity.CRITICAL, "CANNOT SEE"),
    ArmedState.DISARMED: (NoticeKind.GUARD_DISARMED, Severity.CRITICAL, "DOES NOT GUARD"),
}


def of_action(record: ActionRecord, *, notice_id: UUID, at: datetime) -> Notice:
    """Tell how an action ended."""
    done = record.status is ActionStatus.DONE
    what = _what(record)
    if done and record.error is not None:
        kind, severity = NoticeKind.ACTION_FAILED, Severity.CRITICAL
        text = (
            f"{record.reason}. {what} was done in part: {record.proof}; {record.error}. Open the"
            " rest again yourself if you want it."
        )
    elif done:
        kind, severity = NoticeKind.ACTION_DONE, Severity.WARNING
        text = f"{record.reason}. Done: {what}. Proof: {record.proof}."
    elif record.dry_run:
        kind, severity = NoticeKind.ACTION_DONE, Severity.INFO
        text = f"{record.reason}. Dry run: {what} would be sent now; nothing was."
    elif record.status is ActionStatus.GONE:
        kind, severity = NoticeKind.POSITION_GONE, Severity.WARNING
        text = f"{what} came too late: {record.error}. Look at the position's end on the exchange."
    else:
        kind, severity = NoticeKind.ACTION_FAILED, Severity.CRITICAL
        text = (
            f"{record.reason}. {what} is {record.status.value}: {record.error}. Look at the"
            " position on the exchange now; the guard looks again at its next run."
        )
    return Notice(
        id=notice_id,
        kind=kind,
        severity=severity,
        text=text,
        at=at,
        guard_id=record.guard_id,
        account_id=record.account_id,
        position_id=record.position_id,
        execution_id=record.execution_id,
        data=telling_figures.of_action(record),
    )


def _what(record: ActionRecord) -> str:
    what = f"{record.kind.value} on position {record.position_id}"
    if record.kind.spends:
        return f"{what} of {record.amount:,} sats"
    if record.kind is ActionKind.REDUCE_POSITION:
        return f"{what} by {record.quantity:,} USD"
    if record.kind is ActionKind.SET_STOP_LOSS:
        at = "none" if record.stop_loss is None else f"{record.stop_loss:,.1f}"
        return f"{what} to {at}"
    return what


def of_decision(
    decision: Decision, state: GuardState, *, execution_id: UUID, notice_id: UUID, at: datetime
) -> Notice:
    """Tell of a breach that the guard does nothing about."""
    unprotected = decision.verdict is Verdict.UNPROTECTED
    assessment = decision.assessment
    step = (
        "Close it, add margin yourself, or change the guard's budget."
        if unprotected
        else "Decide whether to close it or to add margin."
    )
    headline = "UNPROTECTED" if unprotected else "Threshold reached"
    return Notice(
        id=notice_id,
        kind=NoticeKind.UNPROTECTED if unprotected else NoticeKind.THRESHOLD_REACHED,
        severity=Severity.CRITICAL,
        text=f"{headline}: position {decision.position.id}: {decision.reason}. {step}",
        at=at,
        guard_id=state.guard_id,
        account_id=state.account_id,
        position_id=decision.position.id,
        execution_id=execution_id,
        data={
            "level": decision.level,
            "own_level": assessment.level,
            "threshold": decision.threshold,
            "side": decision.position.side.value,
            "quantity_usd": decision.position.quantity,
            "price": assessment.price,
            "liquidation_price": assessment.liquidation_price,
            "liquidation_distance": assessment.liquidation_distance,
            "at_risk_sats": decision.position.margin,
            "risk": assessment.risk.value,
        },
    )


def of_armed_state(state: GuardState, *, notice_id: UUID) -> Notice:
    """Tell that a guard guards again, cannot see, or does not guard."""
    kind, severity, verb = _ARMED_NOTICES[state.armed]
    data = {"armed": state.armed.value}
    if state.armed is ArmedState.DISARMED and state.pause is not None:
        data["advice"] = (
            f"It ends by itself; sooner by: marginguard resume {state.guard_id}. Until then watch"
            " your positions on the exchange yourself."
        )
    return Notice(
        id=notice_id,
        kind=kind,
        severity=severity,
        text=f"Guard {state.guard_id} {verb}: {state.reason}.",
        at=state.since,
        guard_id=state.guard_id,
        account_id=state.account_id,
        data=data,
    )


def of_uncovered(
    position: Position, account_id: AccountId, *, level: float, notice_id: UUID, at: datetime
) -> Notice:
    """Tell of a running position that no armed guard covers."""
    return Notice(
        id=notice_id,
        kind=NoticeKind.POSITION_NOT_COVERED,
        severity=Severity.WARNING,
        text=(
            f"Position {position.id} of account {account_id} ({position.side.value}"
            f" {position.quantity:,} USD) runs and no armed guard covers it. Add a [[guards]]"
            " table for it, or arm the guard that should."
        ),
        at=at,
        account_id=account_id,
        position_id=position.id,
        data={"level": level},
    )


def of_opened(
    position: Position, account_id: AccountId, *, notice_id: UUID, at: datetime
) -> Notice:
    """Tell of a position that somebody else opened."""
    return Notice(
        id=notice_id,
        kind=NoticeKind.POSITION_OPENED,
        severity=Severity.INFO,
        text=(
            f"Position {position.id} of account {account_id} was opened: {position.side.value}"
            f" {position.quantity:,} USD at {position.entry_price:,.1f}."
        ),
        at=at,
        account_id=account_id,
        position_id=position.id,
    )


def of_changed(
    position: Position, account_id: AccountId, change: str, *, notice_id: UUID, at: datetime
) -> Notice:
    """Tell of a position that somebody else changed."""
    return Notice(
        id=notice_id,
        kind=NoticeKind.POSITION_CHANGED,
        severity=Severity.INFO,
        text=(
            f"Position {position.id} of account {account_id} was changed, and not by a guard:"
            f" {change}. Whatever is planned for it is planned afresh."
        ),
        at=at,
        account_id=account_id,
        position_id=position.id,
    )


def of_failure(
    failure: Failure,
    state: GuardState,
    *,
    attempts: int,
    execution_id: UUID,
    notice_id: UUID,
    at: datetime,
) -> Notice:
    """Tell that a guard could not look, however often it tried."""
    tries = f" after {attempts} attempts" if attempts > 1 else ""
    return Notice(
        id=notice_id,
        kind=NoticeKind.EXECUTION_FAILED,
        severity=Severity.WARNING,
        text=(
            f"Guard {state.guard_id} could not look at account {state.account_id}{tries}:"
            f" {failure.message}. It goes on trying and does nothing until it sees; look at your"
            " positions on the exchange, and whether this machine reaches it."
        ),
        at=at,
        guard_id=state.guard_id,
        account_id=state.account_id,
        execution_id=execution_id,
        data={
            "status": "failed",
            "code": failure.code.value,
            "error_type": failure.error_type.value,
            "error": failure.message,
            "attempts": attempts,
        },
    )


def of_looking_again(state: GuardState, *, notice_id: UUID, at: datetime) -> Notice:
    """Tell that a guard whose runs failed looks again."""
    return Notice(
        id=notice_id,
        kind=NoticeKind.RECOVERED,
        severity=Severity.INFO,
        text=(
            f"Guard {state.guard_id} sees account {state.account_id} again. Nothing is to be done."
        ),
        at=at,
        guard_id=state.guard_id,
        account_id=state.account_id,
    )
