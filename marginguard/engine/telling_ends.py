"""Notices of positions that ended without the daemon's doing, and why."""

from datetime import datetime
from typing import Final
from uuid import UUID

from marginguard.domain.ending import Ending, Vanished
from marginguard.domain.model import ClosedTrade, Position
from marginguard.domain.notice import Notice, NoticeKind, Severity
from marginguard.domain.units import AccountId

_HOW: Final = {
    Ending.LIQUIDATED: "was LIQUIDATED",
    Ending.STOP_LOSS: "was closed by its stop-loss",
    Ending.TAKE_PROFIT: "was closed by its take-profit",
    Ending.CLOSED: "was closed by hand or by another program",
}
_NEXT_STEP: Final = {
    Ending.LIQUIDATED: "See what else of the account is at risk, and whether its guards have the"
    " budget and the balance that they need.",
    Ending.STOP_LOSS: "Nothing is to be done.",
    Ending.TAKE_PROFIT: "Nothing is to be done.",
    Ending.CLOSED: "If that was not you, see who else has a key to the account.",
}


def of_vanished(
    position: Position, account_id: AccountId, *, notice_id: UUID, at: datetime
) -> Notice:
    """Tell that a position ended, where why cannot be read."""
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
        data={"side": position.side.value, "quantity_usd": position.quantity},
    )


def of_ended(
    vanished: Vanished,
    closed: ClosedTrade,
    ending: Ending,
    account_id: AccountId,
    *,
    notice_id: UUID,
    at: datetime,
) -> Notice:
    """Tell how a position ended, at which price and with what profit or loss."""
    position, liquidated = vanished.position, ending is Ending.LIQUIDATED
    how = _HOW[ending]
    if ending is Ending.STOP_LOSS and vanished.backstop:
        how = "was closed by the stop-loss that its guard keeps on the exchange"
    price = "" if closed.exit_price is None else f" at {closed.exit_price:,.1f} USD"
    result = "" if closed.pl is None else f", with a {_profit_or_loss(closed.pl)}"
    return Notice(
        id=notice_id,
        kind=NoticeKind.POSITION_LIQUIDATED if liquidated else NoticeKind.POSITION_GONE,
        severity=Severity.CRITICAL if liquidated else Severity.WARNING,
        text=(
            f"Position {position.id} of account {account_id} ({position.side.value}"
            f" {position.quantity:,} USD) {how}{price}{result}. {_NEXT_STEP[ending]}"
        ),
        at=at,
        account_id=account_id,
        position_id=position.id,
        data={
            "side": position.side.value,
            "quantity_usd": position.quantity,
            "ending": ending.value,
            "price": closed.exit_price,
            "pl_sats": closed.pl,
            "closed_at": None if closed.closed_at is None else closed.closed_at.isoformat(),
        },
    )


def _profit_or_loss(pl: int) -> str:
    return f"loss of {-pl:,} sats" if pl < 0 else f"profit of {pl:,} sats"
