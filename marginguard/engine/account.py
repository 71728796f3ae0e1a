"""One account: who covers which of its positions, and what ended without our doing."""

from collections.abc import Callable, Collection, Mapping, Sequence
from uuid import UUID

import structlog

from marginguard.domain import backstop, margin
from marginguard.domain.breach import covers
from marginguard.domain.foreign import foreign_change
from marginguard.domain.model import ActionKind, Assessment, Position, PriceQuote, Sighting
from marginguard.domain.records import ActionRecord, ActionStatus, ArmedState
from marginguard.domain.units import AccountId, PositionId
from marginguard.engine import telling
from marginguard.engine.book import Book
from marginguard.engine.intent import OUR_TAG
from marginguard.engine.reminder import Reminder
from marginguard.engine.settings import Guard
from marginguard.ports import Clock, Notifier, Observations

UNCOVERED_REPEAT_S = 3600.0
"""How often a position that nobody covers is spoken of again."""


class Account:
    """Holds every read of an account against its guards, and tells of what nobody guards."""

    def __init__(
        self,
        *,
        account_id: AccountId,
        guards: Sequence[tuple[Guard, Book]],
        observations: Observations,
        notifier: Notifier,
        clock: Clock,
        new_id: Callable[[], UUID],
    ) -> None:
        self.id = account_id
        self._guards = tuple(guards)
        self._observations = observations
        self._notifier = notifier
        self._clock = clock
        self._new_id = new_id
        self._uncovered = Reminder(repeat_s=UNCOVERED_REPEAT_S)
        self._running: dict[PositionId, Position] | None = None
        self._acted_s: dict[PositionId, float] = {}
        self._ended_by_us: set[PositionId] = set()

    def acted_on(self, record: ActionRecord) -> None:
        """Note what a guard did to a position, so that the change surprises nobody."""
        self._acted_s[record.position_id] = self._clock.monotonic()
        if record.status is not ActionStatus.DONE:
            return
        if record.kind is ActionKind.CLOSE_POSITION or record.is_reopening:
            self._ended_by_us.add(record.position_id)

    def report(
        self,
        positions: Sequence[Position],
        quote: PriceQuote,
        *,
        read_at_s: float,
        in_flight: Collection[PositionId] = (),
    ) -> None:
        """Take in a complete read of the account's positions, made at `read_at_s` (monotonic)."""
        seen = {position.id: self._sighting(position, quote) for position in positions}
        for sighting in seen.values():
            if sighting.guard_id is None:
                self._tell_uncovered(sighting.assessment)
            else:
                self._uncovered.forget(sighting.assessment.position.id)
        now = {position.id: position for position in positions}
        if self._running is not None:
            self._tell_changes(self._running, now, in_flight)
        waits = {
            id_: position
            for id_, position in (self._running or {}).items()
            if id_ in in_flight and id_ not in now
        }
        self._running = {**waits, **now}
        self._acted_s = {
            id_: at_s
            for id_, at_s in self._acted_s.items()
            if at_s >= read_at_s or id_ in in_flight
        }
        self._observations.positions(self.id, seen, self._clock.now())

    def _tell_changes(
        self,
        before: Mapping[PositionId, Position],
        now: Mapping[PositionId, Position],
        in_flight: Collection[PositionId],
    ) -> None:
        """Tell what somebody else did since the last read; what we do is told elsewhere."""
        for position_id in before.keys() - now.keys() - frozenset(in_flight):
            self._tell_ended(before[position_id])
        for position in now.values():
            known = before.get(position.id)
            if position.id in in_flight or position.id in self._acted_s:
                continue
            if known is None:
                self._tell_opened(position)
            elif (change := foreign_change(known, position)) is not None:
                self._tell_changed(position, change)

    def _sighting(self, position: Position, quote: PriceQuote) -> Sighting:
        found = next(
            (
                (guard, book)
                for guard, book in self._guards
                if book.state.armed is not ArmedState.DISARMED
                and covers(guard.rules, book.memory, position.id)
            ),
            None,
        )
        if found is None:
            return Sighting(assessment=margin.assess(position, quote.last, None), guard_id=None)
        guard, book = found
        lineage = book.memory.lineage(position.id)
        ladder = guard.rules.ladder_of(book.memory.origin_of(position.id))
        stands = ladder.backstop is not None and backstop.stands(position, ladder.backstop)
        return Sighting(
            assessment=margin.assess(position, quote.last, ladder.lowest),
            guard_id=guard.id,
            backstop=position.stop_loss if stands else None,
            original_margin=None if lineage is None else lineage.original_margin,
        )

    def _tell_uncovered(self, assessment: Assessment) -> None:
        position = assessment.position
        if not self._uncovered.due(position.id, "uncovered", self._clock.monotonic()):
            return
        self._notifier.tell(
            telling.of_uncovered(
                position,
                self.id,
                level=assessment.level,
                notice_id=self._new_id(),
                at=self._clock.now(),
            )
        )

    def _tell_ended(self, position: Position) -> None:
        self._uncovered.forget(position.id)
        if position.id in self._ended_by_us:
            self._ended_by_us.discard(position.id)
            structlog.get_logger().info(
                "position.closed", account=self.id, position=position.id, by="guard"
            )
            return
        self._notifier.tell(
            telling.of_vanished(position, self.id, notice_id=self._new_id(), at=self._clock.now())
        )

    def _tell_opened(self, position: Position) -> None:
        if (position.client_id or "").startswith(OUR_TAG):
            return
        self._notifier.tell(
            telling.of_opened(position, self.id, notice_id=self._new_id(), at=self._clock.now())
        )

    def _tell_changed(self, position: Position, change: str) -> None:
        self._notifier.tell(
            telling.of_changed(
                position, self.id, change, notice_id=self._new_id(), at=self._clock.now()
            )
        )
