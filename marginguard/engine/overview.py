"""What an operator sees of the engine at one moment, from memory alone."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from uuid import UUID

from marginguard.domain.errors import Refused
from marginguard.domain.model import Sighting
from marginguard.domain.operating import GuardNow, PositionNow
from marginguard.domain.records import ActionRecord, ArmedState
from marginguard.domain.units import GuardId
from marginguard.engine.account import Account
from marginguard.engine.book import Book


def guard_now(book: Book, looked_at: datetime | None) -> GuardNow:
    """Return the guard of this book as it is now."""
    state = book.state
    return GuardNow(
        guard_id=state.guard_id,
        account_id=state.account_id,
        armed=state.armed,
        reason=state.reason,
        since=state.since,
        looked_at=looked_at,
        pause=book.paused,
    )


def positions_now(
    accounts: Iterable[Account], books: Mapping[GuardId, Book]
) -> tuple[PositionNow, ...]:
    """Return the running positions as they were last seen, the riskiest first.

    A guard that was disarmed since then covers none of them.
    """

    def keeper(sighting: Sighting) -> GuardId | None:
        book = None if sighting.guard_id is None else books.get(sighting.guard_id)
        disarmed = book is None or book.state.armed is ArmedState.DISARMED
        return None if disarmed else sighting.guard_id

    found = []
    for account in accounts:
        if account.newest is None:
            continue
        seen_at, sightings = account.newest
        for position_id, sighting in sightings.items():
            one = sighting.assessment
            found.append(
                PositionNow(
                    position_id=position_id,
                    account_id=account.id,
                    guard_id=keeper(sighting),
                    level=one.level,
                    risk=one.risk,
                    price=one.price,
                    liquidation_price=one.liquidation_price,
                    seen_at=seen_at,
                )
            )
    return tuple(sorted(found, key=lambda one: (-one.level, one.position_id)))


def unsettled_in(books: Iterable[Book], action_id: UUID) -> tuple[Book, ActionRecord]:
    """Return an action that is not settled, with its book; raises `Refused` if there is none."""
    for book in books:
        for record in book.unsettled:
            if record.id == action_id:
                return book, record
    raise Refused(
        f"no action {action_id} waits to be settled: it is settled already, or there never was"
        " one; marginguard status shows the newest"
    )
