"""Reading how an action ended, and writing that down."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from marginguard.domain.model import ClosedTrade, CrossOrder, Position
from marginguard.domain.proof import (
    Proof,
    prove_added_margin,
    prove_close_of_ours,
    prove_cut,
    prove_deposit,
    prove_reopened,
    prove_stop_loss,
)
from marginguard.domain.records import ActionRecord, ActionStatus, PositionState
from marginguard.domain.reduction import begin_reopening
from marginguard.domain.units import CROSS, PositionId, Price
from marginguard.ports import Exchange

_CLOCKS_MAY_DIFFER_BY: Final = timedelta(hours=1)

# Less than the time between two deposits of ours, so that one never proves the next.
_CLOCK_ERROR: Final = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What a read says of an action. `read_at_s` is monotonic.

    `running` is the position that the action is about, or that it opened. `transfer_id` is the
    transfer that proves a deposit; it must not prove another one. `gone` says that there is
    nothing left to act on.
    """

    proof: Proof
    read_at_s: float
    running: Position | None = None
    closed: ClosedTrade | None = None
    order: CrossOrder | None = None
    transfer_id: str | None = None
    gone: bool = False


async def inspect(
    exchange: Exchange,
    record: ActionRecord,
    positions: tuple[Position, ...],
    read_at_s: float,
    *,
    since: datetime,
    seen_transfers: Collection[str] = (),
) -> Inspection:
    """Hold an action against a read of all running positions.

    `since` is when it was first sent, by the clock as it goes now. Reads the lists of closed
    trades, filled orders or transfers too where the proof is there. Raises what these reads raise.
    """
    running = next((p for p in positions if p.id == record.position_id), None)
    if record.is_reopening:
        return await _inspect_reopening(exchange, record, positions, read_at_s)
    if record.closes:
        return await _inspect_close(exchange, record, running, read_at_s)
    if record.kind.spends and record.position_id == CROSS:
        deposits = await exchange.deposits(since - _CLOCK_ERROR)
        unused = [t for t in deposits if t.id not in seen_transfers]
        ours = next((t.id for t in unused if t.amount == record.amount), None)
        return Inspection(
            proof=prove_deposit(record.before, record.amount, unused, running),
            read_at_s=read_at_s,
            running=running,
            transfer_id=ours,
            gone=running is None,
        )
    order = None
    if record.kind.spends:
        proof = prove_added_margin(record.before, record.amount, running)
    elif record.client_id is not None:
        since = record.intended_at - _CLOCKS_MAY_DIFFER_BY
        order = await exchange.cross_order(record.client_id, since)
        proof = prove_cut(record.before, order, running)
    else:
        proof = prove_stop_loss(record.stop_loss, running)
    return Inspection(
        proof=proof, read_at_s=read_at_s, running=running, order=order, gone=running is None
    )


async def _inspect_reopening(
    exchange: Exchange, record: ActionRecord, positions: tuple[Position, ...], read_at_s: float
) -> Inspection:
    running = next((p for p in positions if p.client_id == record.client_id), None)
    closed = None
    if running is None and record.client_id is not None and record.sent_at is not None:
        since = record.intended_at - _CLOCKS_MAY_DIFFER_BY
        closed = await exchange.closed_by_client_id(record.client_id, since)
    return Inspection(
        proof=prove_reopened(running, closed), read_at_s=read_at_s, running=running, closed=closed
    )


async def _inspect_close(
    exchange: Exchange, record: ActionRecord, running: Position | None, read_at_s: float
) -> Inspection:
    closed = None
    if running is None:
        since = record.intended_at - _CLOCKS_MAY_DIFFER_BY
        closed = await exchange.closed_trade(record.position_id, since)
    proof = prove_close_of_ours(record, running, closed)
    return Inspection(
        proof=proof, read_at_s=read_at_s, running=running, closed=closed, gone=running is None
    )


def proved(record: ActionRecord, inspection: Inspection, now: datetime) -> ActionRecord | None:
    """Return the record as the read leaves it, or None if the read does not settle it.

    That is settled, or, where it proves that the trade of a reduction is closed, with the rest
    still to be opened.
    """
    if inspection.proof is Proof.GONE:
        return ended(record, ActionStatus.GONE, now, error="the position no longer runs")
    if inspection.proof is not Proof.APPLIED:
        return None
    if record.closes and record.reopening is not None and inspection.closed is not None:
        return replace(
            record,
            status=ActionStatus.INTENDED,
            reopening=begin_reopening(record, inspection.closed, now),
            sent_at=None,
            outcome=None,
            error=None,
        )
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
        exchange_id=inspection.transfer_id or record.exchange_id,
        successor=_successor(record, inspection),
        proof=_in_words(record, inspection),
    )


def ended(record: ActionRecord, status: ActionStatus, now: datetime, *, error: str) -> ActionRecord:
    """Return the record settled without having worked.

    A reduction whose trade is closed has protected: it is done, and `error` says why the rest
    stays closed.
    """
    if record.is_reopening and record.reopening is not None:
        closed = f"closed at {_price(record.reopening.closed_price)}"
        return replace(
            record,
            status=ActionStatus.DONE,
            settled_at=now,
            error=f"the rest stays closed: {error}",
            frozen=False,
            proof=f"the position is {closed}; {record.reopening.quantity:,} USD of it were to be"
            " opened again and were not",
        )
    return replace(record, status=status, settled_at=now, error=error, frozen=False)


def by_word(record: ActionRecord, *, applied: bool, by: str, now: datetime) -> ActionRecord:
    """Return a frozen record as its owner, who has looked at the exchange, settles it.

    Of a reduction whose trade is closed the word is on its rest: whether that was opened again.
    """
    word = f"by the owner's word ({by})"
    if not applied:
        return ended(record, ActionStatus.REJECTED, now, error=f"it was not carried out, {word}")
    closed = record.reopening is not None and not record.is_reopening
    return replace(
        record,
        status=ActionStatus.DONE,
        settled_at=now,
        error="the trade is closed and its rest was not opened again" if closed else None,
        frozen=False,
        proof=word,
    )


def _successor(record: ActionRecord, inspection: Inspection) -> PositionId | None:
    if not record.is_reopening:
        return None
    found = inspection.running or inspection.closed
    return None if found is None else found.id


def _in_words(record: ActionRecord, inspection: Inspection) -> str:
    before, after, closed = record.before, inspection.running, inspection.closed
    if record.is_reopening:
        return _reopening_in_words(record, inspection)
    if after is None and closed is None:
        if inspection.order is not None:
            return f"{record.quantity:,} USD were cut, and the position no longer runs"
        return f"{record.amount:,} sats were deposited, and the position no longer runs"
    if after is None and closed is not None:
        earned = "" if closed.pl is None else f" with {closed.pl:,} sats P&L"
        return f"the position is closed at {_price(closed.exit_price)}{earned}"
    if after is None:
        return "the position no longer runs"
    liquidation = (
        f"liquidation price {_price(before.liquidation_price)} -> {_price(after.liquidation_price)}"
    )
    if inspection.order is not None:
        return f"quantity {before.quantity:,} -> {after.quantity:,} USD, {liquidation}"
    if record.kind.spends:
        return f"margin {before.margin:,} -> {after.margin:,} sats, {liquidation}"
    return f"stop-loss {_price(before.stop_loss)} -> {_price(after.stop_loss)}"


def _reopening_in_words(record: ActionRecord, inspection: Inspection) -> str:
    before, after = record.before, inspection.running
    price = None if record.reopening is None else record.reopening.closed_price
    if after is None:
        return (
            f"the position was closed at {_price(price)}, the rest was opened again and has"
            " ended since"
        )
    return (
        f"quantity {before.quantity:,} -> {after.quantity:,} USD as trade {after.id}, liquidation"
        f" price {_price(before.liquidation_price)} -> {_price(after.liquidation_price)}, closed"
        f" at {_price(price)} and opened at {_price(after.entry_price)}"
    )


def _price(price: Price | None) -> str:
    return "none" if price is None else f"{price:,.1f}"
