"""One account: who covers which of its positions, and what ended without our doing."""

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import structlog

from marginguard.domain import margin
from marginguard.domain.model import Assessment, Position, PriceQuote
from marginguard.domain.records import ArmedState
from marginguard.domain.units import AccountId, GuardId, PositionId
from marginguard.engine import telling
from marginguard.engine.book import Book
from marginguard.engine.reminder import Reminder
from marginguard.engine.settings import Guard
from marginguard.ports import Clock, Notifier, Observations

UNCOVERED_REPEAT_S = 3600.0
"""How often a position that nobody covers is spoken of again."""

Seen = Mapping[PositionId, tuple[Assessment, GuardId | None]]


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
        self._running: Mapping[PositionId, Position] = {}
        self._closed_by_us: set[PositionId] = set()

    def closed(self, position_id: PositionId) -> None:
        """Note that a guard closed this position, so that its end surprises nobody."""
        self._closed_by_us.add(position_id)

    def report(self, positions: Sequence[Position], quote: PriceQuote) -> None:
        """Take in a complete read of the account's positions, made just now."""
        seen = {position.id: self._assess(position, quote) for position in positions}
        for assessment, guard_id in seen.values():
            if guard_id is None:
                self._tell_uncovered(assessment)
            else:
                self._uncovered.forget(assessment.position.id)
        for position_id in self._running.keys() - seen.keys():
            self._tell_ended(self._running[position_id])
        self._running = {position.id: position for position in positions}
        self._observations.positions(self.id, seen, self._clock.now())

    def _assess(self, position: Position, quote: PriceQuote) -> tuple[Assessment, GuardId | None]:
        covering = next(
            (
                guard
                for guard, book in self._guards
                if book.state.armed is not ArmedState.DISARMED and guard.rules.covers(position.id)
            ),
            None,
        )
        threshold = None if covering is None else covering.rules.rung.threshold
        assessment = margin.assess(position, quote.last, threshold)
        return assessment, None if covering is None else covering.id

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
        if position.id in self._closed_by_us:
            self._closed_by_us.discard(position.id)
            structlog.get_logger().info(
                "position.closed", account=self.id, position=position.id, by="guard"
            )
            return
        self._notifier.tell(
            telling.of_vanished(position, self.id, notice_id=self._new_id(), at=self._clock.now())
        )
