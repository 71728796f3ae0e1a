"""Telling when the risk of an account's positions rises."""

from collections.abc import Callable, Collection, Mapping
from uuid import UUID

from marginguard.domain.model import RiskLevel, Sighting
from marginguard.domain.rising import risen
from marginguard.domain.units import AccountId, Percent, PositionId
from marginguard.engine import telling_risk
from marginguard.ports import Clock, Notifier


class Rises:
    """Remembers how far the risk of each position of one account has risen."""

    def __init__(
        self,
        *,
        account_id: AccountId,
        notifier: Notifier,
        clock: Clock,
        new_id: Callable[[], UUID],
    ) -> None:
        self._account_id = account_id
        self._notifier = notifier
        self._clock = clock
        self._new_id = new_id
        self._marks: dict[PositionId, RiskLevel] = {}

    def report(
        self,
        seen: Mapping[PositionId, Sighting],
        *,
        thresholds: Mapping[PositionId, Percent],
        told: Collection[PositionId],
    ) -> None:
        """Take in all running positions of the account; those `told` of by others are not again.

        `thresholds` are the levels at which guards answer, of the positions that have one.
        """
        marks = {}
        for position_id, sighting in seen.items():
            assessment = sighting.assessment
            mark, has_risen = risen(self._marks.get(position_id), assessment.level)
            marks[position_id] = mark
            if has_risen and position_id not in told:
                self._notifier.tell(
                    telling_risk.of_risen(
                        assessment,
                        self._account_id,
                        guard_id=sighting.guard_id,
                        threshold=thresholds.get(position_id),
                        notice_id=self._new_id(),
                        at=self._clock.now(),
                    )
                )
        self._marks = marks
