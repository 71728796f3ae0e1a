"""Notices in plain English: what happened, to which position, and what to do."""

from datetime import datetime
from uuid import UUID

from marginguard.domain.decision import Decision, Verdict
from marginguard.domain.model import ActionKind, Position
from marginguard.domain.notice import Notice, NoticeKind, Severity
from marginguard.domain.records import ActionRecord, ActionStatus, ArmedState, GuardState
from marginguard.domain.units import AccountId

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
        data={
            "action_id": str(record.id),
            "action": record.kind.value,
            "status": record.status.value,
            "amount_sats": record.amount,
            "quantity_usd": record.quantity,
            "stop_loss": record.stop_loss,
            "proof": record.proof,
            "error": record.error,
            "reason": record.reason,
            "successor": record.successor,
            "liquidation_price_before": record.before.liquidation_price,
            "liquidation_price_after": (
                record.after.liquidation_price if record.after is not None else None
            ),
            "margin_before_sats": record.before.margin,
            "margin_after_sats": record.after.margin if record.after is not None else None,
            "level": record.level,
            "threshold": record.threshold,
            "price": record.before.price,
            "dry_run": record.dry_run,
        },
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
            "price": assessment.price,
            "liquidation_price": assessment.liquidation_price,
            "risk": assessment.risk.value,
        },
    )


def of_armed_state(state: GuardState, *, notice_id: UUID) -> Notice:
    """Tell that a guard guards again, cannot see, or does not guard."""
    kind, severity, verb = _ARMED_NOTICES[state.armed]
    return Notice(
        id=notice_id,
        kind=kind,
        severity=severity,
        text=f"Guard {state.guard_id} {verb}: {state.reason}.",
        at=state.since,
        guard_id=state.guard_id,
        account_id=state.account_id,
        data={"armed": state.armed.value},
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


def of_vanished(
    position: Position, account_id: AccountId, *, notice_id: UUID, at: datetime
) -> Notice:
    """Tell that a position ended without the daemon's doing."""
    return Notice(
        id=notice_id,
        kind=NoticeKind.POSITION_GONE,
        severity=Severity.WARNING,
        text=(
            f"Position {position.id} of account {account_id} no longer runs, and no guard closed"
            " it: it was liquidated, stopped out or closed by hand. See the exchange's list of"
            " closed trades."
        ),
        at=at,
        account_id=account_id,
        position_id=position.id,
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
