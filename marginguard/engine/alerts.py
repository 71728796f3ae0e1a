"""What a guard says beside its actions: breaches left alone, budgets spent, runs that fail."""

from collections.abc import Callable, Collection, Sequence
from uuid import UUID

from marginguard.domain.budget import BudgetLimit
from marginguard.domain.decision import Decision, Verdict
from marginguard.domain.policy import ALONE_AT_RISK
from marginguard.domain.rules import ProtectionMode
from marginguard.domain.units import Percent, PositionId
from marginguard.engine import telling, telling_risk
from marginguard.engine.book import Book
from marginguard.engine.execution import Execution
from marginguard.engine.failure import Failure
from marginguard.engine.reminder import Reminder
from marginguard.engine.settings import Guard
from marginguard.ports import Clock, Notifier

UNPROTECTED_REPEAT_S = 60.0
"""How often a breach that nothing is done about is spoken of again."""

_LEFT_ALONE = frozenset({Verdict.UNPROTECTED, Verdict.ALERT})


class Alerts:
    """Tells of what its owner must know of one guard, each thing once or at its own pace.

    What was told is forgotten with the process: a new one tells what still holds anew.
    """

    def __init__(
        self,
        *,
        guard: Guard,
        book: Book,
        notifier: Notifier,
        clock: Clock,
        new_id: Callable[[], UUID],
    ) -> None:
        self._guard = guard
        self._book = book
        self._notifier = notifier
        self._clock = clock
        self._new_id = new_id
        self._left_alone = Reminder(repeat_s=UNPROTECTED_REPEAT_S)
        self._alarmed: dict[PositionId, Percent] = {}
        self._spent: set[tuple[str, BudgetLimit]] = set()
        self._failures = 0
        self._failing_told = False

    def remind(self, decisions: Sequence[Decision], execution: Execution) -> frozenset[PositionId]:
        """Tell of breaches that nothing is done about; return of which positions it was due."""
        told = set()
        for decision in decisions:
            position_id = decision.position.id
            if decision.verdict not in _LEFT_ALONE:
                self._left_alone.forget(position_id)
                continue
            now_s = self._clock.monotonic()
            self._alarmed[position_id] = decision.threshold
            if not self._left_alone.due(position_id, decision.verdict, now_s):
                continue
            told.add(position_id)
            self._notifier.tell(
                telling.of_decision(
                    decision,
                    self._book.state,
                    execution_id=execution.id,
                    notice_id=self._new_id(),
                    at=self._clock.now(),
                )
            )
        self._tell_recovered(decisions)
        return frozenset(told)

    def tell_spent(self, decisions: Sequence[Decision], execution: Execution) -> None:
        """Tell of steps that a budget did not allow, once in an episode for each limit.

        What the balance does not pay for is told with the account's funds.
        """
        open_ones = {episode.id for episode in self._book.memory.episodes}
        self._spent = {key for key in self._spent if key[0] in open_ones}
        for decision in decisions:
            for one in decision.over_budget:
                if decision.episode is None or one.decided_by is BudgetLimit.RESERVE_BALANCE:
                    continue
                key = (decision.episode.id, one.decided_by)
                if key in self._spent:
                    continue
                self._spent.add(key)
                self._notifier.tell(
                    telling_risk.of_over_budget(
                        decision,
                        one,
                        self._book.state,
                        execution_id=execution.id,
                        notice_id=self._new_id(),
                        at=self._clock.now(),
                    )
                )

    def failed(self, failure: Failure, execution: Execution) -> None:
        """Take note of a run that could not look; tell once the schedule repeats it no more.

        An outage is told once. Who is refused by the exchange hears of that instead.
        """
        self._failures += 1
        if self._failures <= failure.retries:
            return
        attempts, self._failures = self._failures, 0
        if self._failing_told:
            return
        self._failing_told = True
        self._notifier.tell(
            telling.of_failure(
                failure,
                self._book.state,
                attempts=attempts,
                execution_id=execution.id,
                notice_id=self._new_id(),
                at=self._clock.now(),
            )
        )

    def looks_again(self, *, told: bool) -> None:
        """Take note of a look that worked; `told` says that the guard's owner knows already."""
        self._failures = 0
        if self._failing_told and not told:
            self._notifier.tell(
                telling.of_looking_again(
                    self._book.state, notice_id=self._new_id(), at=self._clock.now()
                )
            )
        self._failing_told = False

    def _tell_recovered(self, decisions: Sequence[Decision]) -> None:
        """Tell of positions that were spoken of as at risk and are not any more."""
        decided = {decision.position.id: decision for decision in decisions}
        for position_id in self._alarmed.keys() - decided.keys():
            del self._alarmed[position_id]  # how it ended is told elsewhere
        for position_id in tuple(self._alarmed):
            decision = decided[position_id]
            if not self._is_over(decision):
                continue
            threshold = self._alarmed.pop(position_id)
            self._notifier.tell(
                telling_risk.of_recovered(
                    decision,
                    self._book.state,
                    threshold=threshold,
                    notice_id=self._new_id(),
                    at=self._clock.now(),
                )
            )

    def _is_over(self, decision: Decision) -> bool:
        """Return whether no breach of the position is open any more."""
        if decision.verdict is not Verdict.SAFE or decision.position.id in self._breached():
            return False
        rules = self._guard.rules
        alone = rules.mode is ProtectionMode.TOTAL
        return not alone or decision.assessment.level < ALONE_AT_RISK - rules.hysteresis

    def _breached(self) -> Collection[PositionId]:
        return {episode.position_id for episode in self._book.memory.episodes}
