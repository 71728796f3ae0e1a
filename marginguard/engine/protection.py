"""Answering a breach: the decided step, its second half, and the fallback where it is refused."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from marginguard.aio import sleep_or_stop
from marginguard.domain.decision import Decision, View
from marginguard.domain.errors import MarginguardError
from marginguard.domain.model import ActionKind, PriceQuote
from marginguard.domain.outcome import OutcomeKind
from marginguard.domain.policy import decide
from marginguard.domain.records import ActionRecord, ActionStatus
from marginguard.domain.reduction import Impossible, finish_reopening
from marginguard.domain.units import PositionId, Sats
from marginguard.engine.action import Action
from marginguard.engine.book import Book
from marginguard.engine.execution import Execution
from marginguard.engine.executor import ActionEnd, Executor, log_end
from marginguard.engine.intent import intent
from marginguard.engine.looking import Looker, Sight
from marginguard.engine.proving import ended
from marginguard.engine.settings import EngineSettings, Guard
from marginguard.ports import Clock, PriceSource


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What was done about one position, and the last `decision` on it if there was one.

    `put_off`: it could not be begun in time, so that the next run is to come soon.
    """

    ends: tuple[ActionRecord, ...] = ()
    decision: Decision | None = None
    put_off: bool = False


class Protector:
    """Carries out what a guard decided about a position, to the end of its ladder.

    `on_end` hears of every action that came to an end.
    """

    def __init__(
        self,
        *,
        guard: Guard,
        book: Book,
        executor: Executor,
        looker: Looker,
        prices: PriceSource,
        clock: Clock,
        settings: EngineSettings,
        new_id: Callable[[], UUID],
    ) -> None:
        self._guard = guard
        self._book = book
        self._executor = executor
        self._looker = looker
        self._prices = prices
        self._clock = clock
        self._settings = settings
        self._new_id = new_id

    def view(
        self, sight: Sight, refused: Mapping[PositionId, frozenset[ActionKind]] | None = None
    ) -> View:
        """Return what a decision rests on: what was read, and what is under way."""
        return View(
            positions=sight.positions,
            quote=sight.quote,
            balance=self._unspent(sight),
            pending=tuple(
                self._executor.pending(record)
                for record in self._book.unsettled
                if record.kind.protects
            ),
            in_flight=self._executor.in_flight,
            spending_barred=self._spending_barred(),
            paused=self._paused(),
            refused=refused or {},
        )

    async def protect(
        self,
        decision: Decision,
        execution: Execution,
        sight: Sight,
        *,
        deadline_s: float,
        on_end: Callable[[ActionEnd], None],
    ) -> Answer:
        """Carry out a decision to act; where the exchange refuses it, the fallback at once.

        First it waits for its turn, those at worse risk being before it in line: the exchange
        takes few calls, and one that is to wait for the limits is better decided on afresh. What
        has no turn by `deadline_s` (monotonic), or cannot be looked at again, is left to the next
        run.
        """
        async with self._executor.turns:
            now_s = self._clock.monotonic()
            if now_s >= deadline_s or self._executor.stop.is_set():
                return Answer(decision=decision, put_off=not self._executor.stop.is_set())
            if self._book.paused is not None:
                return Answer(decision=self._decide_again(decision, sight, frozenset()))
            if now_s - sight.read_at_s > self._settings.view_max_age_s / 2:
                sight = await self._look_again(execution, sight, deadline_s)
                if self._clock.monotonic() - sight.read_at_s > self._settings.view_max_age_s:
                    return Answer(decision=decision, put_off=True)
                decision = self._decide_again(decision, sight, frozenset())
            return await self._protect(decision, execution, sight, deadline_s, on_end)

    async def _protect(
        self,
        decision: Decision,
        execution: Execution,
        sight: Sight,
        deadline_s: float,
        on_end: Callable[[ActionEnd], None],
    ) -> Answer:
        ends: list[ActionRecord] = []
        refused: frozenset[ActionKind] = frozenset()
        while decision.plan is not None:
            kind = decision.plan.kind
            end = await self._carry_out(decision, execution, sight, deadline_s)
            on_end(end)
            ends.append(end.record)
            if not _was_refused(end) or self._executor.stop.is_set():
                break
            refused |= {kind}
            sight = await self._look_again(execution, sight, deadline_s)
            decision = self._decide_again(decision, sight, refused)
        return Answer(ends=tuple(ends), decision=decision)

    async def reopen(self, record: ActionRecord, *, deadline_s: float) -> ActionEnd:
        """Open the rest of a trade that a reduction closed."""
        action = Action(
            record,
            book=self._book,
            executor=self._executor,
            read_at_s=self._clock.monotonic(),
            quoted_s=self._clock.monotonic(),
            deadline_s=deadline_s,
            prepare=self._prepare_reopening,
        )
        return await action.carry_out()

    def _unspent(self, sight: Sight) -> Sats | None:
        """Return the balance less what an action that is not settled may still take from it."""
        if sight.balance is None:
            return None
        pending = sum(r.amount for r in self._book.unsettled if r.kind.spends and not r.frozen)
        return Sats(max(0, sight.balance.available - pending))

    def _spending_barred(self) -> str | None:
        if not self._book.writable:
            return "the journal cannot be written, so nothing is spent"
        if self._clock.monotonic() < self._settings.spending_from_s:
            return "the journal was damaged, so nothing is spent until old requests have expired"
        return None

    def _paused(self) -> str | None:
        pause = self._book.paused
        return None if pause is None else f"the guard is {pause}"

    async def _carry_out(
        self, decision: Decision, execution: Execution, sight: Sight, deadline_s: float
    ) -> ActionEnd:
        left = None
        if not self._guard.dry_run:
            left = self._book.unsettled_close(decision.position.id)
        if left is not None and _gives_way(left, decision):
            error = "the whole position is closed instead"
            await self._book.write(ended(left, ActionStatus.GONE, self._clock.now(), error=error))
            left = None
        resumes = left if left is not None and _is_asked_for_again(left, decision) else None
        record = intent(
            decision,
            guard=self._guard,
            execution_id=execution.id,
            action_id=self._new_id(),
            now=self._clock.now(),
            resumes=resumes,
        )
        if self._guard.dry_run:
            await self._book.write(record)
            log_end(record)
            return ActionEnd(record=record)
        action = Action(
            record,
            book=self._book,
            executor=self._executor,
            read_at_s=sight.read_at_s,
            quoted_s=sight.quote.received_s,
            deadline_s=deadline_s,
            resumed=resumes is not None,
        )
        end = await action.carry_out()
        if end.record.is_reopening and not end.record.status.settled:
            return await self.reopen(end.record, deadline_s=deadline_s)
        return end

    async def _prepare_reopening(self, record: ActionRecord) -> ActionRecord | Impossible:
        """Size the rest by the price of this moment, or say why it stays closed."""
        if self._guard.dry_run or not self._guard.rules.auto_execution:
            return Impossible(reason="the guard may no longer act")
        quote = await self._fresh_quote()
        if isinstance(quote, Impossible):
            return quote
        now = self._clock.now()
        slippage = self._guard.rules.reopen_slippage
        plan = finish_reopening(record, quote.last, now, slippage=slippage)
        if isinstance(plan, Impossible):
            return plan
        return replace(record, reopening=plan, status=ActionStatus.SENT, sent_at=now)

    async def _fresh_quote(self) -> PriceQuote | Impossible:
        """Return a price to open at; a blip of the network is no reason to stay closed."""
        reason = ""
        for attempt in range(self._settings.action_attempts):
            delay_s = self._settings.action_base_delay_s
            if attempt and await sleep_or_stop(delay_s, self._executor.stop):
                break
            try:
                quote = await self._prices.quote()
            except MarginguardError as error:
                reason = f"the price is not known: {error}"
                continue
            age_s = self._clock.monotonic() - quote.received_s
            if age_s > self._settings.stale_after_s:
                reason = f"the price is {age_s:.1f} s old"
            elif not quote.confirmed:
                reason = "the price jumped and nothing confirms it"
            else:
                return quote
        return Impossible(reason=reason or "the daemon is being stopped")

    async def _look_again(self, execution: Execution, sight: Sight, deadline_s: float) -> Sight:
        """Read everything afresh; if that fails, what was seen has to do while it is not old."""
        patience_s = max(0.0, deadline_s - self._clock.monotonic())
        try:
            async with asyncio.timeout(patience_s):
                return await self._looker.look(execution)
        except (TimeoutError, MarginguardError):
            return sight

    def _decide_again(
        self, decision: Decision, sight: Sight, refused: frozenset[ActionKind]
    ) -> Decision:
        position_id = decision.position.id
        view = self.view(sight, {position_id: refused})
        decisions = decide(view, self._guard.rules, self._book.memory, self._clock.now())
        self._book.adopt(decisions.memory)
        again = next((one for one in decisions.items if one.position.id == position_id), None)
        return replace(decision, plan=None) if again is None else again


def _gives_way(left: ActionRecord, decision: Decision) -> bool:
    """Return whether a reduction that was begun gives way to closing the whole position."""
    closes = decision.plan is not None and decision.plan.kind is ActionKind.CLOSE_POSITION
    return closes and left.kind is ActionKind.REDUCE_POSITION


def _is_asked_for_again(left: ActionRecord, decision: Decision) -> bool:
    """Return whether the decided step is the one that an earlier run left unsettled."""
    return decision.plan is not None and decision.plan.kind is left.kind


def _was_refused(end: ActionEnd) -> bool:
    """Return whether the exchange understood and refused, so that it is the fallback's turn."""
    record = end.record
    return (
        record.status is ActionStatus.REJECTED
        and record.outcome == OutcomeKind.REJECTED
        and not end.unauthorized
    )
