"""One run of a guard as it is recorded: its phases, its counts and how it ended."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import marginguard
from marginguard.domain.decision import Decision, Verdict
from marginguard.domain.errors import ErrorCode, ErrorType
from marginguard.domain.records import (
    ActionRecord,
    ActionStatus,
    ExecutionRecord,
    ExecutionSource,
    ExecutionStatus,
)
from marginguard.domain.units import PositionId, Price
from marginguard.engine.failure import Failure
from marginguard.engine.settings import Guard
from marginguard.ports import Clock

_NEEDS_ACTION = frozenset({Verdict.ACT, Verdict.UNPROTECTED, Verdict.SETTLING})


@dataclass(kw_only=True, slots=True)
class Execution:
    """A run under way."""

    id: UUID
    guard: Guard
    source: ExecutionSource
    clock: Clock
    started_at: datetime
    started_s: float
    positions_total: int = 0
    price: Price | None = None
    phase: str = ""
    phases: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Time a phase, and remember it as the one under way."""
        self.phase = phase
        begun_s = self.clock.monotonic()
        try:
            yield
        finally:
            spent_s = self.clock.monotonic() - begun_s
            self.phases[phase] = round(self.phases.get(phase, 0.0) + spent_s, 6)

    def failed(self, failure: Failure) -> ExecutionRecord:
        """Return the record of a run that ended before it could decide."""
        return self._record(ExecutionStatus.FAILED, failure=failure)

    def acted(
        self,
        decisions: Sequence[Decision],
        ends: Sequence[ActionRecord],
        recovered: Sequence[ActionRecord],
        failure: Failure | None,
    ) -> ExecutionRecord:
        """Return the record of a run that decided, and carried out what it could."""
        needed = [d for d in decisions if d.verdict in _NEEDS_ACTION]
        proved = {e.position_id for e in (*ends, *recovered) if e.status is ActionStatus.DONE}
        gone = {e.position_id for e in (*ends, *recovered) if e.status is ActionStatus.GONE}
        acted_on = {record.position_id for record in (*ends, *recovered)}
        wanted = {d.position.id for d in needed} | acted_on
        succeeded = len(wanted & (proved | gone))
        unmet = len(wanted) - succeeded
        if not wanted or self.guard.dry_run:
            status = ExecutionStatus.SKIPPED
        elif unmet == 0:
            status = ExecutionStatus.COMPLETED
        else:
            status = ExecutionStatus.PARTIAL if succeeded else ExecutionStatus.FAILED
        return self._record(
            status,
            failure=failure if unmet else None,
            requiring=len(wanted),
            succeeded=succeeded,
            failed=0 if self.guard.dry_run else unmet,
            results=_results(decisions, (*recovered, *ends)),
        )

    def _record(
        self,
        status: ExecutionStatus,
        *,
        failure: Failure | None,
        requiring: int = 0,
        succeeded: int = 0,
        failed: int = 0,
        results: dict[PositionId, str] | None = None,
    ) -> ExecutionRecord:
        return ExecutionRecord(
            id=self.id,
            guard_id=self.guard.id,
            account_id=self.guard.account_id,
            user_id=self.guard.user_id,
            status=status,
            source=self.source,
            version=marginguard.__version__,
            dry_run=self.guard.dry_run,
            positions_total=self.positions_total,
            positions_requiring_action=requiring,
            positions_succeeded=succeeded,
            positions_failed=failed,
            price=self.price,
            error_code=failure.code if failure else None,
            error_type=failure.error_type if failure else None,
            error=failure.message if failure else None,
            started_at=self.started_at,
            finished_at=self.clock.now(),
            duration_s=round(self.clock.monotonic() - self.started_s, 6),
            results=results or {},
            phases=self.phases,
        )


def interrupted(record: ActionRecord, user_id: str, now: datetime) -> ExecutionRecord:
    """Return the record of a run that the daemon's end cut short, by an action that it left."""
    return ExecutionRecord(
        id=record.execution_id,
        guard_id=record.guard_id,
        account_id=record.account_id,
        user_id=user_id,
        status=ExecutionStatus.FAILED,
        source=ExecutionSource.SCHEDULE,
        version=marginguard.__version__,
        dry_run=record.dry_run,
        positions_total=1,
        positions_requiring_action=1,
        positions_succeeded=0,
        positions_failed=1,
        price=record.before.price,
        error_code=ErrorCode.INTERRUPTED,
        error_type=ErrorType.EXECUTION,
        error="the daemon ended before this run did",
        started_at=record.intended_at,
        finished_at=now,
        duration_s=(now - record.intended_at).total_seconds(),
        results={record.position_id: record.reason},
    )


def _results(decisions: Sequence[Decision], ends: Sequence[ActionRecord]) -> dict[PositionId, str]:
    results = {d.position.id: d.reason for d in decisions if d.verdict is not Verdict.SAFE}
    for end in ends:
        outcome = end.proof or end.error or end.outcome or ""
        results[end.position_id] = f"{end.reason}: {end.kind.value} {end.status.value}" + (
            f", {outcome}" if outcome else ""
        )
    return results
