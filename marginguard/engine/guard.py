"""One execution of a guard: look, decide, act, record, tell."""

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from marginguard.domain.decision import Decision, Verdict
from marginguard.domain.errors import MarginguardError, StaleData, Unauthorized
from marginguard.domain.model import Position, PriceQuote
from marginguard.domain.policy import calls_for_a_look, decide
from marginguard.domain.records import ActionRecord, ExecutionSource
from marginguard.engine import telling
from marginguard.engine.account import Account
from marginguard.engine.book import Book
from marginguard.engine.execution import Execution
from marginguard.engine.executor import ActionEnd, Executor
from marginguard.engine.failure import of_ends, of_read
from marginguard.engine.health import Awaited, Health
from marginguard.engine.looking import Looker, Sight
from marginguard.engine.protection import Answer, Protector
from marginguard.engine.reminder import Reminder
from marginguard.engine.settings import EngineSettings, Guard
from marginguard.engine.stop_losses import StopLossKeeper
from marginguard.ports import Clock, Notifier, Observations

UNPROTECTED_REPEAT_S = 60.0
"""How often a breach that nothing is done about is spoken of again."""


class GuardRunner:
    """Runs one guard, never twice at once.

    `actions` is the task group in which an action outlives a run that times out.
    """

    def __init__(
        self,
        *,
        guard: Guard,
        book: Book,
        health: Health,
        account: Account,
        executor: Executor,
        looker: Looker,
        protector: Protector,
        stop_losses: StopLossKeeper,
        observations: Observations,
        notifier: Notifier,
        clock: Clock,
        settings: EngineSettings,
        actions: asyncio.TaskGroup,
        new_id: Callable[[], UUID],
        on_refused: Callable[[], None],
    ) -> None:
        self.guard = guard
        self._book = book
        self._health = health
        self._account = account
        self._executor = executor
        self._looker = looker
        self._protector = protector
        self._stop_losses = stop_losses
        self._observations = observations
        self._notifier = notifier
        self._clock = clock
        self._settings = settings
        self._actions = actions
        self._new_id = new_id
        self._on_refused = on_refused
        self._known: tuple[Position, ...] = ()
        self._refusals: list[str] = []
        self._unprotected = Reminder(repeat_s=UNPROTECTED_REPEAT_S)
        self._log = structlog.get_logger().bind(guard=guard.id)

    async def run(self, source: ExecutionSource) -> int:
        """Look, decide, act, record and tell; return how often a failed run may be retried."""
        execution = Execution(
            id=self._new_id(),
            guard=self.guard,
            source=source,
            clock=self._clock,
            started_at=self._clock.now(),
            started_s=self._clock.monotonic(),
        )
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                sight = await self._looker.look(execution)
        except TimeoutError:
            error = StaleData(f"reading took longer than {self._settings.timeout_s:g} s")
            return await self._blind(execution, error, stalled=True)
        except MarginguardError as error:
            return await self._blind(execution, error, stalled=False)
        self._known = sight.positions
        await self._see(sight.positions)
        return await self._decide_and_act(execution, sight)

    def next_look_s(self, beat_s: float) -> float:
        """Return in how many seconds to run again, `beat_s` being when the interval says so."""
        return self._health.next_look_s(beat_s)

    def bar(self, reason: str | None) -> None:
        """Say why the guard cannot guard though it sees; None: it can."""
        self._health.bar(reason)

    def breached_at(self, quote: PriceQuote) -> bool:
        """Return whether the positions known from the last look call for another one at `quote`."""
        return self.guard.real_time_monitoring and calls_for_a_look(
            self._known, quote, self.guard.rules, self._book.memory, self._clock.now()
        )

    async def _blind(self, execution: Execution, error: MarginguardError, *, stalled: bool) -> int:
        """Record a run that could not see: unknown is not flat."""
        failure = of_read(
            error, phase=execution.phase, stalled=stalled, retries=self._settings.retry_attempts
        )
        self._log.warning(
            "execution.failed",
            execution_id=str(execution.id),
            phase=execution.phase,
            code=failure.code.value,
            error=failure.message,
            advice="the guard sees nothing and does nothing until a read works",
        )
        await self._book.append(execution.failed(failure))
        await self._health.blind(error)
        if isinstance(error, Unauthorized):
            self._on_refused()
        return failure.retries

    async def _see(self, positions: Sequence[Position]) -> None:
        if self.guard.dry_run:
            await self._health.disarm("dry run: it decides and records, and sends nothing")
        else:
            await self._health.sees(self._awaited(positions))

    def _awaited(self, positions: Sequence[Position]) -> Awaited:
        """Return which of the positions that it is to guard do not run."""
        selected = self.guard.rules.selected
        if selected is None:
            return Awaited()
        running = {self._book.memory.origin_of(position.id) for position in positions}
        return Awaited(missing=tuple(sorted(selected - running)), found=bool(selected & running))

    async def _decide_and_act(self, execution: Execution, sight: Sight) -> int:
        with execution.timed("decision"):
            view = self._protector.view(sight)
            decided = decide(view, self.guard.rules, self._book.memory, self._clock.now())
            self._book.adopt(decided.memory)
        with execution.timed("actions"):
            answers, stalled = await self._act(decided.items, execution, sight)
        ends = [end for answer in answers for end in answer.ends]
        last = {one.decision.position.id: one.decision for one in answers if one.decision}
        decisions = [last.get(one.position.id, one) for one in decided.items]
        await self._book.keep()
        for error in self._take_refusals():
            await self._health.blind(Unauthorized(error, status=401, code=None))
        self._account.report(sight.positions, sight.quote, read_at_s=sight.read_at_s)
        acted_on = frozenset(end.position_id for end in ends)
        self._stop_losses.keep(sight, execution.id, self._actions, acted_on=acted_on)
        reminded = self._remind(decisions, execution)
        if not (ends or stalled or sight.recovered or reminded):
            self._observations.checked(self.guard.id, self.guard.account_id, execution.started_at)
            return 0
        return await self._conclude(execution, sight, decisions, ends, stalled=stalled)

    async def _conclude(
        self,
        execution: Execution,
        sight: Sight,
        decisions: Sequence[Decision],
        ends: Sequence[ActionRecord],
        *,
        stalled: bool,
    ) -> int:
        """Record a run that had something to do."""
        failure = of_ends(ends, stalled=stalled, retries=self._settings.retry_attempts)
        if sight.recovered:
            execution.source = ExecutionSource.RECOVER
        record = execution.acted(decisions, ends, sight.recovered, failure)
        log = self._log.info if record.error_code is None else self._log.warning
        log(
            "execution." + record.status.value,
            execution_id=str(record.id),
            source=record.source.value,
            positions=record.positions_total,
            requiring_action=record.positions_requiring_action,
            succeeded=record.positions_succeeded,
            failed=record.positions_failed,
            price=record.price,
            duration_s=record.duration_s,
        )
        await self._book.append(record)
        return failure.retries if record.error_code is not None else 0

    async def _act(
        self, decisions: Sequence[Decision], execution: Execution, sight: Sight
    ) -> tuple[list[Answer], bool]:
        """Carry out what was decided, worst first, side by side; say if some did not end.

        Reductions that were cut short after their close come first: their time is short.
        """
        deadline_s = execution.started_s + self._settings.timeout_s
        unopened = [r for r in self._book.unopened() if not self._under_way(r)]
        works = [self._reopen(record, deadline_s) for record in unopened]
        works += [
            self._protector.protect(
                decision, execution, sight, deadline_s=deadline_s, on_end=self._take_note
            )
            for decision in decisions
            if decision.verdict is Verdict.ACT
        ]
        tasks = [self._actions.create_task(work) for work in works]
        if not tasks:
            return [], False
        remaining_s = max(0.0, deadline_s - self._clock.monotonic())
        _, unfinished = await asyncio.wait(tasks, timeout=remaining_s)
        if unfinished:
            self._log.warning(
                "execution.stalled",
                execution_id=str(execution.id),
                unfinished=len(unfinished),
                advice="the actions go on and are settled; see the exchange's answer times",
            )
        return [task.result() for task in tasks if task.done()], bool(unfinished)

    def _under_way(self, record: ActionRecord) -> bool:
        return record.position_id in self._executor.in_flight

    async def _reopen(self, record: ActionRecord, deadline_s: float) -> Answer:
        end = await self._protector.reopen(record, deadline_s=deadline_s)
        self._take_note(end)
        return Answer(ends=(end.record,))

    def _take_note(self, end: ActionEnd) -> None:
        """Tell how an action ended, and disarm the guard where the key was refused."""
        self._account.ended(end.record)
        if end.unauthorized:
            self._refusals.append(end.record.error or "refused")
            self._on_refused()

    def _take_refusals(self) -> list[str]:
        refusals, self._refusals = self._refusals, []
        return refusals

    def _remind(self, decisions: Sequence[Decision], execution: Execution) -> bool:
        """Tell of breaches that nothing is done about; return whether any was due."""
        told = False
        for decision in decisions:
            if decision.verdict not in {Verdict.UNPROTECTED, Verdict.ALERT}:
                self._unprotected.forget(decision.position.id)
                continue
            now_s = self._clock.monotonic()
            if not self._unprotected.due(decision.position.id, decision.verdict, now_s):
                continue
            told = True
            self._notifier.tell(
                telling.of_decision(
                    decision,
                    self._book.state,
                    execution_id=execution.id,
                    notice_id=self._new_id(),
                    at=self._clock.now(),
                )
            )
        return told
