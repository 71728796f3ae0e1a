"""Turning a decision into the intent that is written down before anything is sent."""

from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

from marginguard.domain import margin
from marginguard.domain.backstop import StopLossChange
from marginguard.domain.decision import Decision
from marginguard.domain.model import ActionKind
from marginguard.domain.records import ActionRecord, ActionStatus, PositionState
from marginguard.domain.units import Percent, Price, Sats
from marginguard.engine.settings import Guard

OUR_TAG: Final = "mg-"
"""What the client id of every order of ours begins with."""


def intent(
    decision: Decision,
    *,
    guard: Guard,
    execution_id: UUID,
    action_id: UUID,
    now: datetime,
    resumes: ActionRecord | None,
) -> ActionRecord:
    """Return the intent of a decision whose verdict is ACT.

    `resumes` is a close that an earlier run left unsettled on a position that still runs: it is
    asked for again under its own id, for the position as it is now. A dry run's intent is settled
    at once as not having happened. A reduction has a tag, by which the order is found again.
    """
    plan, episode = decision.plan, decision.episode
    if plan is None or episode is None:
        raise ValueError("only a decision to act has an intent")
    if resumes is not None:
        return replace(
            resumes,
            status=ActionStatus.SENT,
            sent_at=now,
            before=PositionState.of(decision.position, decision.assessment.price),
            quantity=plan.quantity,
            reopening=plan.reopening,
        )
    return ActionRecord(
        id=action_id,
        execution_id=execution_id,
        guard_id=guard.id,
        account_id=guard.account_id,
        position_id=decision.position.id,
        episode_id=episode.id,
        kind=plan.kind,
        amount=plan.amount,
        status=ActionStatus.REJECTED if guard.dry_run else ActionStatus.INTENDED,
        dry_run=guard.dry_run,
        reason=decision.reason,
        level=decision.level,
        threshold=decision.threshold,
        before=PositionState.of(decision.position, decision.assessment.price),
        intended_at=now,
        sent_at=None if guard.dry_run else now,
        settled_at=now if guard.dry_run else None,
        outcome="dry_run" if guard.dry_run else None,
        error="dry run: nothing was sent" if guard.dry_run else None,
        client_id=f"{OUR_TAG}{action_id}" if plan.kind is ActionKind.REDUCE_POSITION else None,
        quantity=plan.quantity,
        reopening=plan.reopening,
    )


def stop_loss_intent(
    change: StopLossChange,
    *,
    guard: Guard,
    execution_id: UUID,
    action_id: UUID,
    now: datetime,
    price: Price,
) -> ActionRecord:
    """Return the intent of setting or removing a stop-loss."""
    level = margin.margin_level(change.position, price)
    return ActionRecord(
        id=action_id,
        execution_id=execution_id,
        guard_id=guard.id,
        account_id=guard.account_id,
        position_id=change.position.id,
        episode_id="",
        kind=ActionKind.SET_STOP_LOSS,
        amount=Sats(0),
        status=ActionStatus.INTENDED,
        dry_run=False,
        reason=change.reason,
        level=level,
        threshold=Percent(0.0),
        before=PositionState.of(change.position, price),
        intended_at=now,
        sent_at=now,
        stop_loss=change.price,
    )
