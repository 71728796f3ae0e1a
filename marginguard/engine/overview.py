"""What an operator sees of the engine at one moment, from memory alone."""

from collections.abc import Collection, Iterable, Mapping
from uuid import UUID

from marginguard.domain.errors import Refused
from marginguard.domain.model import Assessment, Side, Sighting
from marginguard.domain.operating import GuardNow, PositionNow
from marginguard.domain.records import ActionRecord, ArmedState
from marginguard.domain.units import GuardId
from marginguard.engine.account import Account
from marginguard.engine.book import Book
from marginguard.engine.guard import GuardRunner


def guard_now(book: Book, runner: GuardRunner | None) -> GuardNow:
    """Return the guard of this book as it is now; without a runner it is not run."""
    state = book.state
    return GuardNow(
        guard_id=state.guard_id,
        account_id=state.account_id,
        armed=state.armed,
        reason=state.reason,
        since=state.since,
        looked_at=None if runner is None else runner.looked_at,
        pause=book.paused,
        acts=runner is None or runner.guard.rules.auto_execution,
    )


def positions_now(
    accounts: Iterable[Account], books: Mapping[GuardId, Book], failing: Collection[GuardId]
) -> tuple[PositionNow, ...]:
    """Return the running positions as they were last seen, the riskiest first.

    A guard that was disarmed since then covers none of them. Those `failing` did not get done
    what was needed, when they last had something to do.
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
            one, guard_id = sighting.assessment, keeper(sighting)
            found.append(
                PositionNow(
                    position_id=position_id,
                    account_id=account.id,
                    guard_id=guard_id,
                    level=one.level,
                    risk=one.risk,
                    price=one.price,
                    liquidation_price=one.liquidation_price,
                    seen_at=seen_at,
                    unmet=guard_id in failing and _breached(one),
                )
            )
    return tuple(sorted(found, key=lambda one: (-one.level, one.position_id)))


def _breached(one: Assessment) -> bool:
    if one.trigger_price is None:
        return False
    is_long = one.position.side is Side.LONG
    return one.price <= one.trigger_price if is_long else one.price >= one.trigger_price


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
