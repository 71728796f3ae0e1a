"""Keeping the backstop: the stop-losses on the exchange follow margin, funding and quantity."""

import asyncio
from collections.abc import Callable, Collection
from uuid import UUID

import structlog

from marginguard.domain.backstop import StopLossChange, stop_loss_changes
from marginguard.domain.records import ActionRecord, ActionStatus
from marginguard.domain.units import PositionId
from marginguard.engine import telling
from marginguard.engine.action import Action
from marginguard.engine.book import Book
from marginguard.engine.executor import Executor
from marginguard.engine.intent import stop_loss_intent
from marginguard.engine.looking import Sight
from marginguard.engine.reminder import Reminder
from marginguard.engine.settings import EngineSettings, Guard
from marginguard.ports import Clock, Notifier

AGAIN_AFTER_S = 25.0
"""How long a stop-loss that could not be set is left alone: a breach runs its guard often."""

FAILED_REPEAT_S = 3600.0
"""How often a stop-loss that cannot be set is spoken of again."""


class StopLossKeeper:
    """Sets, moves and removes the stop-losses of one guard, one after another.

    It works beside the guard's runs and never holds one up; a position on which a protective
    action is under way is left alone.
    """

    def __init__(
        self,
        *,
        guard: Guard,
        book: Book,
        executor: Executor,
        notifier: Notifier,
        clock: Clock,
        settings: EngineSettings,
        new_id: Callable[[], UUID],
    ) -> None:
        self._guard = guard
        self._book = book
        self._executor = executor
        self._notifier = notifier
        self._clock = clock
        self._settings = settings
        self._new_id = new_id
        self._failed = Reminder(repeat_s=FAILED_REPEAT_S)
        self._again_s: dict[PositionId, float] = {}
        self._round: asyncio.Task[None] | None = None

    def keep(
        self,
        sight: Sight,
        execution_id: UUID,
        tasks: asyncio.TaskGroup,
        *,
        acted_on: Collection[PositionId] = (),
    ) -> None:
        """Bring the stop-losses in line with what was just read; returns at once.

        The positions that were `acted_on` since are no longer as they were read. While the guard
        is paused its stop-losses stay as they are.
        """
        if self._guard.dry_run or (self._round is not None and not self._round.done()):
            return
        as_read = [one for one in sight.positions if one.id not in acted_on]
        changes = stop_loss_changes(as_read, sight.quote.last, self._guard.rules, self._book.memory)
        if changes:
            work = self._change_all(changes, sight, execution_id)
            self._round = tasks.create_task(work, name=f"stop-losses:{self._guard.id}")

    async def _change_all(
        self, changes: tuple[StopLossChange, ...], sight: Sight, execution_id: UUID
    ) -> None:
        """Change one after another, as long as the read is fresh; the next run goes on."""
        for change in changes:
            age_s = self._clock.monotonic() - sight.read_at_s
            if self._book.paused is not None:
                return
            if self._executor.stop.is_set() or age_s > self._settings.view_max_age_s:
                return
            if not self._may_change(change):
                continue
            record = stop_loss_intent(
                change,
                guard=self._guard,
                execution_id=execution_id,
                action_id=self._new_id(),
                now=self._clock.now(),
                price=sight.quote.last,
            )
            action = Action(
                record,
                book=self._book,
                executor=self._executor,
                read_at_s=sight.read_at_s,
                quoted_s=sight.quote.received_s,
                deadline_s=self._clock.monotonic() + self._settings.timeout_s,
            )
            self._note((await action.carry_out()).record)

    def _may_change(self, change: StopLossChange) -> bool:
        position_id = change.position.id
        unsettled = any(r.position_id == position_id for r in self._book.unsettled)
        rests = self._clock.monotonic() < self._again_s.get(position_id, float("-inf"))
        return not unsettled and not rests and position_id not in self._executor.in_flight

    def _note(self, record: ActionRecord) -> None:
        if record.status in {ActionStatus.DONE, ActionStatus.GONE}:
            self._failed.forget(record.position_id)
            self._again_s.pop(record.position_id, None)
            return
        self._again_s[record.position_id] = self._clock.monotonic() + AGAIN_AFTER_S
        structlog.get_logger().warning(
            "backstop.not_kept",
            guard=record.guard_id,
            position=record.position_id,
            stop_loss=record.stop_loss,
            error=record.error,
            advice="the exchange does not close this position while the daemon is away; it is"
            " tried again soon",
        )
        if self._failed.due(record.position_id, record.outcome, self._clock.monotonic()):
            self._notifier.tell(
                telling.of_action(record, notice_id=self._new_id(), at=self._clock.now())
            )
