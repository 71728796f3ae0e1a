"""Records for the tests of storage: builders with sensible defaults."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from uuid_utils.compat import uuid7

from marginguard.domain import margin
from marginguard.domain.memory import DayOpening, Episode, GuardMemory, Spend
from marginguard.domain.model import ActionKind, Side, Sighting
from marginguard.domain.records import (
    ActionRecord,
    ActionStatus,
    ArmedState,
    CommandRecord,
    ExecutionRecord,
    ExecutionSource,
    ExecutionStatus,
    GuardState,
    PositionState,
    Reopening,
)

NOON = datetime(2026, 3, 14, 12, 0, 0, 123456, tzinfo=UTC)


def a_position_state(**changes):
    """Return the figures of a 10x long, changed."""
    state = PositionState(
        quantity=1_000,
        margin=100_000,
        entry_price=100_000.0,
        liquidation_price=90_909.5,
        funding_paid=-3,
        cashed_in=0,
        price=93_000.5,
    )
    return replace(state, **changes)


def an_action(**changes):
    """Return a fresh intent to add margin, changed."""
    action = ActionRecord(
        id=uuid7(),
        execution_id=uuid7(),
        guard_id="guard-1",
        account_id="main",
        position_id="trade-1",
        episode_id="guard-1/trade-1/80/2026-03-14T12:00:00+00:00",
        kind=ActionKind.ADD_MARGIN,
        amount=25_000,
        status=ActionStatus.INTENDED,
        dry_run=False,
        reason="level 80.2 % has reached the threshold 80 %",
        level=80.2,
        threshold=80.0,
        before=a_position_state(),
        intended_at=NOON,
    )
    return replace(action, **changes)


def a_reopening(**changes):
    """Return the second half of cutting the long in two, once the first is done, changed."""
    reopening = Reopening(
        side=Side.LONG,
        quantity=500,
        stop_loss=91_234.5,
        take_profit=120_000.0,
        closed_price=93_000.5,
        closed_at=NOON + timedelta(milliseconds=80),
        margin=24_100,
        leverage=22.3120000000001,
    )
    return replace(reopening, **changes)


def a_reduction(**changes):
    """Return the record of cutting an isolated long in two, reopened as `trade-2`, changed."""
    return settled(
        an_action(kind=ActionKind.REDUCE_POSITION, amount=0, quantity=500),
        **{
            "after": a_position_state(quantity=500, margin=24_100),
            "reopening": a_reopening(),
            "successor": "trade-2",
            "proof": "500 USD less, and liquidation is farther from the price",
            **changes,
        },
    )


def a_stop_loss(price=91_234.5, **changes):
    """Return the intent to set the stop-loss of a trade, changed."""
    return an_action(
        **{"kind": ActionKind.SET_STOP_LOSS, "amount": 0, "stop_loss": price, **changes}
    )


def a_sighting(position, price, *, guard_id="guard-1", threshold=80.0, **changes):
    """Return `position` as it was seen at `price`, looked after by `guard_id`, changed."""
    return Sighting(
        assessment=margin.assess(position, price, threshold), guard_id=guard_id, **changes
    )


def settled(action, **changes):
    """Return the record of `action` once it is proved."""
    return replace(
        action,
        **{
            "status": ActionStatus.DONE,
            "after": a_position_state(margin=action.before.margin + action.amount),
            "sent_at": action.intended_at + timedelta(milliseconds=20),
            "settled_at": action.intended_at + timedelta(milliseconds=150),
            "attempts": 1,
            "outcome": "done",
            "proof": "the margin rose from 100,000 to 125,000 sats",
            **changes,
        },
    )


def an_execution(**changes):
    """Return a completed run that acted on one position, changed."""
    execution = ExecutionRecord(
        id=uuid7(),
        guard_id="guard-1",
        account_id="main",
        user_id="owner",
        status=ExecutionStatus.COMPLETED,
        source=ExecutionSource.SCHEDULE,
        version="0.1.0",
        dry_run=False,
        positions_total=2,
        positions_requiring_action=1,
        positions_succeeded=1,
        positions_failed=0,
        price=93_000.5,
        error_code=None,
        error_type=None,
        error=None,
        started_at=NOON,
        finished_at=NOON + timedelta(milliseconds=750),
        duration_s=0.75,
        results={"trade-1": "added 25,000 sats"},
        phases={"positions": 0.21, "actions": 0.4},
    )
    return replace(execution, **changes)


def a_guard_state(**changes):
    """Return the state of an armed guard that remembers an episode and a spend, changed."""
    state = GuardState(
        guard_id="guard-1",
        account_id="main",
        armed=ArmedState.ARMED,
        reason="the account answers",
        since=NOON,
        memory=GuardMemory(
            episodes=(
                Episode(
                    id="guard-1/trade-1/80/2026-03-14T12:00:00+00:00",
                    position_id="trade-1",
                    threshold=80.0,
                    opened_at=NOON,
                ),
            ),
            spends=(Spend(action_id=uuid7(), position_id="trade-1", amount=25_000, at=NOON),),
            opening=DayOpening(day=NOON.date(), balance=1_000_000),
        ),
        updated_at=NOON,
    )
    return replace(state, **changes)


def a_command(**changes):
    """Return the record of a pause that was carried out, changed."""
    command = CommandRecord(
        id=uuid7(),
        at=NOON,
        by="root (control socket)",
        command="pause guard-1 600s",
        guard_id="guard-1",
        accepted=True,
        answer="Guard guard-1 is paused until 12:10:00 UTC.",
    )
    return replace(command, **changes)
