"""The journal and the observations as the engine knows them, with everything counted on its way."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from marginguard.domain.model import Sighting
from marginguard.domain.records import (
    ActionRecord,
    CommandRecord,
    ExecutionRecord,
    GuardState,
    Record,
)
from marginguard.domain.units import AccountId, GuardId, PositionId
from marginguard.ports import Journal, Observations
from marginguard.telemetry.metrics import Metrics

NO_PLAN: Final = "none"
"""The plan of a guard that is no longer configured: an old action of it may end yet."""


class MeasuredJournal:
    """A journal that counts what is written; `plans` has the plan of each guard's user.

    `on_action` hears of every record of an action.
    """

    def __init__(
        self,
        journal: Journal,
        metrics: Metrics,
        *,
        plans: Mapping[GuardId, str],
        on_action: Callable[[ActionRecord], None] = lambda _record: None,
    ) -> None:
        self._journal = journal
        self._metrics = metrics
        self._plans = plans
        self._on_action = on_action

    async def append(self, *records: Record, patience_s: float = 0.0) -> None:
        """Count the records, whatever becomes of them, and append them."""
        for record in records:
            self._count(record)
        await self._journal.append(*records, patience_s=patience_s)

    def unsettled_actions(self) -> Sequence[ActionRecord]:
        """Return what the journal does."""
        return self._journal.unsettled_actions()

    def guard_states(self) -> Mapping[GuardId, GuardState]:
        """Return what the journal does."""
        return self._journal.guard_states()

    def _count(self, record: Record) -> None:
        match record:
            case ExecutionRecord():
                plan = self._plans.get(record.guard_id, NO_PLAN)
                self._metrics.execution(record, plan=plan)
            case ActionRecord():
                self._metrics.action(record)
                self._on_action(record)
            case GuardState():
                self._metrics.guard(record.guard_id, record.armed)
            case CommandRecord():
                pass


class MeasuredObservations:
    """Observations that are counted; `plans` has the plan of each guard's user."""

    def __init__(
        self, observations: Observations, metrics: Metrics, *, plans: Mapping[GuardId, str]
    ) -> None:
        self._observations = observations
        self._metrics = metrics
        self._plans = plans

    def positions(
        self, account_id: AccountId, seen: Mapping[PositionId, Sighting], at: datetime
    ) -> None:
        """Count the positions by risk and cover, and pass them on."""
        self._metrics.positions(
            account_id,
            [sighting.assessment.risk for sighting in seen.values()],
            sum(sighting.guard_id is None for sighting in seen.values()),
        )
        self._observations.positions(account_id, seen, at)

    def checked(self, guard_id: GuardId, account_id: AccountId, at: datetime) -> None:
        """Count the run that found nothing to do, and pass it on."""
        self._metrics.quiet_run(plan=self._plans.get(guard_id, NO_PLAN))
        self._observations.checked(guard_id, account_id, at)
