"""Reading how an action ended, and writing that down."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from marginguard.domain.model import ActionKind, ClosedTrade, Position
from marginguard.domain.proof import Proof, prove_added_margin, prove_close, prove_deposit
from marginguard.domain.records import ActionRecord, ActionStatus, PositionState
from marginguard.domain.units import CROSS, Price
from marginguard.ports import Exchange

_CLOCKS_MAY_DIFFER_BY: Final = timedelta(hours=1)

# Less than the time between two deposits of ours, so that one never proves the next.
_CLOCK_ERROR: Final = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What a read says of an action. `read_at_s` is monotonic.

    `transfer_id` is the transfer that proves a deposit; it must not prove another one.
    """

    proof: Proof
    running: Position | None
    closed: ClosedTrade | None
    read_at_s: float
    transfer_id: str | None = None


async def inspect(
    exchange: Exchange,
    record: ActionRecord,
    positions: tuple[Position, ...],
    read_at_s: float,
    *,
    seen_transfers: Collection[str] = (),
) -> Inspection:
    """Hold an action against a read of all running positions.

    Reads the closed trades too where a closed position has to be found, and the transfers where a
    deposit has to be. Raises what these reads raise.
    """
    running = next((p for p in positions if p.id == record.position_id), None)
    if record.kind is ActionKind.ADD_MARGIN and record.position_id == CROSS:
        deposits = await exchange.deposits(record.intended_at - _CLOCK_ERROR)
        unused = [t for t in deposits if t.id not in seen_transfers]
        ours = next((t.id for t in unused if t.amount == record.amount), None)
        return Inspection(
            proof=prove_deposit(record.amount, unused, running),
            running=running,
            closed=None,
            read_at_s=read_at_s,
            transfer_id=ours,
        )
    if record.kind is ActionKind.ADD_MARGIN:
        proof = prove_added_margin(record.before, record.amount, running)
        return Inspection(proof=proof, running=running, closed=None, read_at_s=read_at_s)
    closed = None
    if running is None:
        since = record.intended_at - _CLOCKS_MAY_DIFFER_BY
        closed = await exchange.closed_trade(record.position_id, since)
    proof = prove_close(running, closed)
    return Inspection(proof=proof, running=running, closed=closed, read_at_s=read_at_s)


def proved(record: ActionRecord, inspection: Inspection, now: datetime) -> ActionRecord | None:
    """Return the record settled by what was read, or None if the read does not settle it."""
    if inspection.proof is Proof.GONE:
        return ended(record, ActionStatus.GONE, now, error="the position no longer runs")
    if inspection.proof is not Proof.APPLIED:
        return None
    after = None
    if inspection.running is not None:
        after = PositionState.of(inspection.running, record.before.price)
    return replace(
        record,
        status=ActionStatus.DONE,
        after=after,
        settled_at=now,
        error=None,
        frozen=False,
        proof=_in_words(record, inspection),
    )


def ended(record: ActionRecord, status: ActionStatus, now: datetime, *, error: str) -> ActionRecord:
    """Return the record settled without having worked."""
    return replace(record, status=status, settled_at=now, error=error, frozen=False)


def _in_words(record: ActionRecord, inspection: Inspection) -> str:
    if inspection.running is not None:
        after = inspection.running
        return (
            f"margin {record.before.margin:,} -> {after.margin:,} sats, liquidation price"
            f" {_price(record.before.liquidation_price)} -> {_price(after.liquidation_price)}"
        )
    closed = inspection.closed
    if closed is None:
        return f"{record.amount:,} sats were deposited, and the position no longer runs"
    earned = "" if closed.pl is None else f" with {closed.pl:,} sats P&L"
    return f"the position is closed at {_price(closed.exit_price)}{earned}"


def _price(price: Price | None) -> str:
    return "none" if price is None else f"{price:,.1f}"
