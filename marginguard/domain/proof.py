"""How it is told from a read whether an action took effect."""

from collections.abc import Iterable
from enum import StrEnum

from marginguard.domain.model import ClosedTrade, Position, Transfer
from marginguard.domain.records import PositionState
from marginguard.domain.units import Sats


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


def prove_deposit(
    amount: Sats, since_intent: Iterable[Transfer], running: Position | None
) -> Proof:
    """Tell whether `amount` sats were deposited into the cross margin since the intent.

    The margin itself does not tell: fees, funding and the P&L of reductions move it too.
    """
    if any(transfer.amount == amount for transfer in since_intent):
        return Proof.APPLIED
    return Proof.GONE if running is None else Proof.NOT_APPLIED


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
