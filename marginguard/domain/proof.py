"""How it is told from a read whether an action took effect."""

from collections.abc import Collection
from dataclasses import replace
from enum import StrEnum

from marginguard.domain.model import ClosedTrade, CrossOrder, Position, Transfer
from marginguard.domain.outcome import OutcomeKind
from marginguard.domain.records import ActionRecord, PositionState
from marginguard.domain.units import Price, Sats


class Proof(StrEnum):
    """What a read says of an action.

    `unclear`: the read fits neither "applied" nor "not applied".
    """

    APPLIED = "applied"
    NOT_APPLIED = "not_applied"
    GONE = "gone"
    UNCLEAR = "unclear"


def prove_close(running: Position | None, closed: ClosedTrade | None) -> Proof:
    """Tell whether a close took effect: the trade no longer runs and is in the closed list."""
    if running is not None:
        return Proof.NOT_APPLIED
    return Proof.UNCLEAR if closed is None else Proof.APPLIED


def prove_close_of_ours(
    record: ActionRecord, running: Position | None, closed: ClosedTrade | None
) -> Proof:
    """Tell whether the first step of a reduction, to close the trade, took effect.

    A trade that ended at or beyond its stop-loss, take-profit or liquidation price while our
    request was under way is taken to have ended by itself: what its owner or the exchange ended is
    not opened again, and is nobody's success.
    """
    proof = prove_close(running, closed)
    if proof is not Proof.APPLIED or record.outcome == OutcomeKind.DONE or closed is None:
        return proof
    before, exit_price = record.before, closed.exit_price
    if exit_price is None or before.side is None:
        return proof
    sign = before.side.sign
    take_profit = None if record.reopening is None else record.reopening.take_profit
    lost = (before.stop_loss, before.liquidation_price)
    if any(end is not None and sign * exit_price <= sign * end for end in lost):
        return Proof.GONE
    won = take_profit is not None and sign * exit_price >= sign * take_profit
    return Proof.GONE if won else Proof.APPLIED


def prove_cut(before: PositionState, order: CrossOrder | None, running: Position | None) -> Proof:
    """Tell whether the order that cuts the cross position was carried out, by its tag.

    Without it the quantity must be what it was: another one fits neither.
    """
    if order is not None:
        return Proof.APPLIED
    if running is None:
        return Proof.GONE
    same = running.side is before.side and running.quantity == before.quantity
    return Proof.NOT_APPLIED if same else Proof.UNCLEAR


def prove_reopened(running: Position | None, closed: ClosedTrade | None) -> Proof:
    """Tell whether a trade with our tag was opened: it runs, or it has ended since."""
    return Proof.NOT_APPLIED if running is None and closed is None else Proof.APPLIED


def prove_stop_loss(wanted: Price | None, running: Position | None) -> Proof:
    """Tell whether the stop-loss stands where it was asked for (None: is removed)."""
    if running is None:
        return Proof.GONE
    return Proof.APPLIED if running.stop_loss == wanted else Proof.NOT_APPLIED


def prove_deposit(
    before: PositionState,
    amount: Sats,
    since_intent: Collection[Transfer],
    running: Position | None,
) -> Proof:
    """Tell whether `amount` sats were deposited into the cross margin since the intent.

    The margin alone does not tell: fees, funding and the P&L of reductions move it too. But where
    no transfer of the amount is found and the margin has grown by it all the same, the list of
    transfers is not to be trusted: a wall clock that was set asks it for the wrong time.
    """
    if any(transfer.amount == amount for transfer in since_intent):
        return Proof.APPLIED
    if running is None:
        return Proof.GONE
    others = sum(transfer.amount for transfer in since_intent)
    ours_alone = replace(running, margin=Sats(running.margin - others))
    grown = prove_added_margin(before, amount, ours_alone) is Proof.APPLIED
    return Proof.UNCLEAR if grown else Proof.NOT_APPLIED


def prove_added_margin(before: PositionState, amount: Sats, running: Position | None) -> Proof:
    """Tell whether `amount` sats were added to a position since the read `before`.

    The margin that it would have without the addition is known but for one thing: funding that
    the position received (net) may or may not have been paid into it; funding that it paid was
    taken from it. So it is a range, and the margin found is compared with that range with and
    without the amount.
    """
    if running is None:
        return Proof.GONE
    funding = running.funding_paid - before.funding_paid
    cashed_in = running.cashed_in - before.cashed_in
    low = before.margin - cashed_in - max(0, funding)
    high = before.margin - cashed_in - funding
    could_be_without = low <= running.margin <= high
    could_be_with = running.margin >= low + amount
    if could_be_with != could_be_without:
        return Proof.APPLIED if could_be_with else Proof.NOT_APPLIED
    return Proof.UNCLEAR
