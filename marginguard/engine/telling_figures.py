"""The figures of an action's notice: what it was about, what it did, and what is left at risk."""

from marginguard.domain import margin
from marginguard.domain.model import ActionKind, Assessment, MarginMode, Position
from marginguard.domain.records import ActionRecord, ActionStatus, PositionState
from marginguard.domain.units import CROSS, Percent, Sats

Figures = dict[str, str | int | float | bool | None]


def of_action(record: ActionRecord) -> Figures:
    """Return the figures by the names that notices have for them."""
    before, after = record.before, record.after
    return {
        "action_id": str(record.id),
        "action": record.kind.value,
        "status": record.status.value,
        "amount_sats": record.amount,
        "quantity_usd": before.quantity,
        "quantity_cut_usd": record.quantity,
        "side": None if before.side is None else before.side.value,
        "stop_loss": record.stop_loss,
        "proof": record.proof,
        "error": record.error,
        "reason": record.reason,
        "successor": record.successor,
        "liquidation_price_before": before.liquidation_price,
        "liquidation_price_after": None if after is None else after.liquidation_price,
        "margin_before_sats": before.margin,
        "margin_after_sats": None if after is None else after.margin,
        "level": record.level,
        "threshold": record.threshold,
        "risk": margin.risk_level(record.level).value,
        "price": before.price,
        "dry_run": record.dry_run,
        **_left_at_risk(record),
    }


def _left_at_risk(record: ActionRecord) -> Figures:
    """Return what liquidation would still take, and how far away it is."""
    if _has_ended(record):
        return {"at_risk_sats": Sats(0), "liquidation_distance": None, "level_after": None}
    state = record.after or record.before
    found = _assessment(record, state)
    return {
        "at_risk_sats": state.margin,
        "liquidation_distance": None if found is None else found.liquidation_distance,
        "level_after": None if found is None else _level_after(record, found),
    }


def _has_ended(record: ActionRecord) -> bool:
    """Return whether nothing of the position runs any more."""
    if record.status is not ActionStatus.DONE:
        return record.status is ActionStatus.GONE and record.kind is not ActionKind.SET_STOP_LOSS
    closed_whole = record.kind is ActionKind.CLOSE_POSITION
    return closed_whole or (record.reopening is not None and record.successor is None)


def _level_after(record: ActionRecord, found: Assessment) -> Percent | None:
    # A reduction may set the entry anew: its level afterwards says nothing of what was lost.
    return found.level if record.kind.spends and record.after is not None else None


def _assessment(record: ActionRecord, state: PositionState) -> Assessment | None:
    side, price = record.before.side, record.before.price
    if side is None or price is None:
        return None
    is_cross = record.position_id == CROSS
    position = Position(
        id=record.position_id,
        mode=MarginMode.CROSS if is_cross else MarginMode.ISOLATED,
        side=side,
        quantity=state.quantity,
        entry_price=state.entry_price,
        margin=state.margin,
        maintenance_margin=state.maintenance_margin,
        leverage=0.0,  # from here on: what an assessment does not ask for
        pl=Sats(0),
        liquidation_price=state.liquidation_price,
        stop_loss=None,
        take_profit=None,
        entry_margin=state.margin,
        funding_paid=state.funding_paid,
        cashed_in=state.cashed_in,
        client_id=None,
    )
    return margin.assess(position, price, None)
