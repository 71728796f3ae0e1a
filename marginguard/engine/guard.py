"""One execution of a guard: look, decide, act, record, tell."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

import structlog

from marginguard.domain.decision import Decision, Verdict
from marginguard.domain.errors import MarginguardError, StaleData, Unauthorized
from marginguard.domain.funds import shortfall
from marginguard.domain.model import Position, PriceQuote
from marginguard.domain.pause import Pause
from marginguard.domain.policy import calls_for_a_look, decide
from marginguard.domain.records import (
    ActionRecord,
    ExecutionRecord,
    ExecutionSource,
    ExecutionStatus,
)
from marginguard.domain.units import PositionId
from marginguard.engine.account import Account
from marginguard.engine.alerts import Alerts
from marginguard.engine.book import Book
from marginguard.engine.execution import Execution
from marginguard.engine.executor import ActionEnd, Executor
from marginguard.engine.failure import of_ends, of_read
from marginguard.engine.health import Awaited, Health
from marginguard.engine.hooks import NO_HOOKS, Hooks
from marginguard.engine.looking import Looker, Sight
from marginguard.engine.protection import Answer, Protector
from marginguard.engine.settings import EngineSettings, Guard
from marginguard.engine.stop_losses import StopLossKeeper
from marginguard.ports import Clock, Notifier, Observations


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
        hooks: Hooks = NO_HOOKS,
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
        self._hooks = hooks
        self._known: tuple[Position, ...] = ()
        self.recorded: ExecutionRecord | None = None
        """What the newest run has recorded; None while it goes on, and after a quiet one."""
        self.failing = False
        """Whether the newest run that had something to do left some of it undone."""
        self.looked_at: datetime | None = None
        """When the newest look that worked was begun."""
        self._alerted = False
        self._refusals: list[str] = []
        self._alerts = Alerts(guard=guard, book=book, notifier=notifier, clock=clock, new_id=new_id)
        self._log = structlog.get_logger().bind(guard=guard.id)

    async def run(self, source: ExecutionSource) -> int:
        """Look, decide, act, record and tell; return how often a failed run may be retried."""
        self.recorded = None
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
        self._known, self.looked_at = sight.positions, execution.started_at
        was = self._book.state.armed
        await self._see(sight.positions)
        self._alerts.looks_again(told=self._book.state.armed is not was)
        return await self._decide_and_act(execution, sight)

    def next_look_s(self, beat_s: float) -> float:
        """Return in how many seconds to run again, `beat_s` being when the interval says so."""
        return self._health.next_look_s(beat_s)

    def bar(self, reason: str | None) -> None:
        """Say why the guard cannot guard though it sees; None: it can."""
        self._health.bar(reason)

    async def pause(self, pause: Pause) -> bool:
        """Do no more than alert from this moment on; return whether that is durable.

        What is under way goes on.
        """
        durable = await self._book.pause(pause)
        await self._health.rest(pause)
        return durable

    async def resume(self) -> bool:
        """End the pause from this moment on; return whether that is durable."""
        return await self._book.end_pause()

    def breached_at(self, quote: PriceQuote) -> bool:
        """Return whether the positions known from the last look call for another one at `quote`."""
        if self._book.paused is not None and self._alerted:
            return False  # all that it can do about it is to say so again, for which its beats do
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
        self.recorded = execution.failed(failure)
        await self._book.append(self.recorded)
        await self._health.blind(error)
        if isinstance(error, Unauthorized):
            self._on_refused()
        else:
            self._alerts.failed(failure, execution)
        return failure.retries

    async def _see(self, positions: Sequence[Position]) -> None:
        if self.guard.dry_run and self._book.paused is None:
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
        acted_on = frozenset(end.position_id for end in ends)
        self._alerts.tell_spent((*decided.items, *last.values()), execution)
        reminded = self._alerts.remind(decisions, execution)
        self._alerted = any(one.verdict is Verdict.ALERT for one in decisions)
        self._report(sight, decisions, told=acted_on | reminded)
        self._stop_losses.keep(sight, execution.id, self._actions, acted_on=acted_on)
        if not (ends or stalled or sight.recovered or reminded):
            self._observations.checked(self.guard.id, self.guard.account_id, execution.started_at)
            took_s = self._clock.monotonic() - execution.started_s
            self._hooks.quiet(took_s, execution.phases)
            return 0
        return await self._conclude(execution, sight, decisions, ends, stalled=stalled)

    def _report(
        self, sight: Sight, decisions: Sequence[Decision], *, told: frozenset[PositionId]
    ) -> None:
        """Hold what was read against what is known of the account; its news is told aside."""
        account, rules = self._account, self.guard.rules
        account.report(sight.positions, sight.quote, read_at_s=sight.read_at_s, told=told)
        if account.ends.waiting:
            self._actions.create_task(account.ends.tell())
        spends = rules.auto_execution and not self.guard.dry_run and self._book.paused is None
        if not spends:
            account.funds.forget(self.guard.id)
        elif sight.balance is not None and not self._book.unsettled:
            covered = [decision.position for decision in decisions]
            short = shortfall(covered, sight.balance.available, rules, self._book.memory)
            account.funds.report(self.guard.id, short, sight.quote.last)

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
        self.recorded = record
        self.failing = record.status in {ExecutionStatus.FAILED, ExecutionStatus.PARTIAL}
        await self._book.append(record)
        return failure.retries if record.error_code is not None else 0

    async def _act(
        self, decisions: Sequence[Decision], execution: Execution, sight: Sight
    ) -> tuple[list[Answer], bool]:
        """Carry out what was decided, worst first, side by side; say if some had no time to end.

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
        answers = [task.result() for task in tasks if task.done()]
        return answers, bool(unfinished) or any(answer.put_off for answer in answers)

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
