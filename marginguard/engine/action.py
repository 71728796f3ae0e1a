"""One action from intent to proof: the loop of attempts."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import structlog

from marginguard.aio import sleep_or_stop
from marginguard.domain.errors import MarginguardError, StaleData
from marginguard.domain.model import ActionKind
from marginguard.domain.outcome import Outcome, OutcomeKind
from marginguard.domain.proof import Proof
from marginguard.domain.records import ActionRecord, ActionStatus
from marginguard.domain.reduction import Impossible
from marginguard.engine.book import Book
from marginguard.engine.executor import ActionEnd, Executor, log_end
from marginguard.engine.proving import Inspection, ended, proved

DATABASE_PATIENCE_S: Final = 0.05
"""How long an intent waits for the database before its request goes out."""


class Action:
    """Carries out one record: a new intent, a close that is not settled yet, or a second step.

    `read_at_s` is when the position was read, `quoted_s` when the price that calls for the action
    was received, `deadline_s` until when a new attempt may start; all monotonic. `resumed` marks a
    record that an earlier run left unsettled. `prepare` is asked before every attempt for the
    record as it is to be sent, by a price of that moment, or for why it must not be.
    """

    def __init__(
        self,
        record: ActionRecord,
        *,
        book: Book,
        executor: Executor,
        read_at_s: float,
        quoted_s: float,
        deadline_s: float,
        resumed: bool = False,
        prepare: Callable[[ActionRecord], Awaitable[ActionRecord | Impossible]] | None = None,
    ) -> None:
        self._record = record
        self._book = book
        self._executor = executor
        self._settings = executor.settings
        self._clock = executor.clock
        self._read_at_s = read_at_s
        self._quoted_s = quoted_s
        self._deadline_s = deadline_s
        self._attempts_made = 0
        self._resynced = False
        # A request of an earlier run of this record may still be carried out.
        self._maybe_applied = resumed
        self._prepare = prepare
        self._log = structlog.get_logger().bind(
            guard=record.guard_id,
            position=record.position_id,
            action=record.kind.value,
            action_id=str(record.id),
            execution_id=str(record.execution_id),
        )

    async def carry_out(self) -> ActionEnd:
        """Act and prove; ends with a settled record, or an unknown one to be settled later.

        Never raises for what the exchange, the network or the disk does.
        """
        self._executor.take_off(self._record)
        try:
            end = await self._attempt_until_concluded()
        finally:
            self._executor.land(self._record)
        log_end(end.record)
        return end

    async def _attempt_until_concluded(self) -> ActionEnd:
        while True:
            if self._prepare is not None:
                prepared = await self._prepare(self._record)
                if isinstance(prepared, Impossible):
                    return await self._give_up(prepared.reason)
                self._record = prepared
                self._read_at_s = self._quoted_s = self._clock.monotonic()
            if not await self._write() and not self._may_go_unrecorded():
                return await self._give_up("the journal cannot be written")
            try:
                outcome = await self._send()
            except StaleData as error:
                if self._prepare is None:
                    return await self._give_up(f"{error}; it is planned again")
                self._attempts_made += 1
                if self._attempts_made >= self._settings.action_attempts:
                    return await self._give_up(str(error))
                continue  # nobody plans a second step again: it is prepared by a price of now
            end = await self._conclude(outcome) or await self._prepare_resend(outcome)
            if end is not None:
                return end

    def _may_go_unrecorded(self) -> bool:
        """Return whether it is sent though a crash now would make it forgotten.

        Closing and cutting protect. An order to open could be sent again by who does not know of
        it, and a stop-loss could be taken for the owner's.
        """
        record = self._record
        cuts = record.kind is ActionKind.REDUCE_POSITION and record.reopening is None
        return record.closes or cuts

    async def _send(self) -> Outcome:
        # An attempt looks at the position again, and at the price only the next run does.
        seen_s = min(self._read_at_s, self._quoted_s)
        outcome = await self._executor.send(self._record, seen_s=seen_s)
        self._attempts_made += 1
        self._record = replace(
            self._record,
            status=ActionStatus.SENT,
            attempts=self._record.attempts + 1,
            outcome=outcome.kind.value,
            exchange_id=outcome.exchange_id or self._record.exchange_id,
            error=None if outcome.kind is OutcomeKind.DONE else outcome.detail,
        )
        self._log.info(
            "action.attempt",
            attempt=self._record.attempts,
            amount_sats=self._record.amount,
            outcome=outcome.kind.value,
            detail=outcome.detail,
        )
        return outcome

    async def _conclude(self, outcome: Outcome) -> ActionEnd | None:
        """End the action if this outcome allows it; None means that it may be tried again."""
        if outcome.kind is OutcomeKind.DONE:
            self._maybe_applied = True
            return await self._prove()
        if outcome.kind is OutcomeKind.REJECTED:
            return await self._refused(outcome)
        if outcome.kind is OutcomeKind.AMBIGUOUS:
            self._maybe_applied = True
            end = self._proved(await self._look())
            if end is not None:
                return await self._finish(end)
            if not self._record.repeatable:
                return await self._give_up(outcome.detail)
        return None

    async def _prove(self) -> ActionEnd:
        """Read until the position shows what the exchange said, or `settle_delay` is over."""
        for delay_s in (0.0, self._settings.settle_delay_s):
            if delay_s:
                await sleep_or_stop(delay_s, self._executor.stop)
            end = self._proved(await self._look())
            if end is not None:
                return await self._finish(end)
        return await self._give_up("the exchange said done, and the position does not show it")

    async def _refused(self, outcome: Outcome) -> ActionEnd | None:
        if outcome.unauthorized and not self._resynced:
            self._resynced = True
            await self._executor.exchange.resync_clock()
            return None
        inspection = await self._look()
        if inspection is not None and inspection.gone:
            end = self._proved(inspection)
            if end is not None:
                return await self._finish(end)
        if self._maybe_applied:
            return await self._give_up(outcome.detail)
        refused = await self._end(ActionStatus.REJECTED, outcome.detail)
        return replace(refused, unauthorized=outcome.unauthorized)

    async def _prepare_resend(self, outcome: Outcome) -> ActionEnd | None:
        """Wait, read, and write down the next attempt; or end the action."""
        while self._attempts_made < self._settings.action_attempts:
            delay_s = max(self._backoff_s(), outcome.retry_after_s or 0.0)
            if self._clock.monotonic() + delay_s > self._deadline_s:
                break
            if await sleep_or_stop(delay_s, self._executor.stop):
                break
            inspection = await self._look()
            if inspection is None:
                self._attempts_made += 1
                continue
            if inspection.proof is not Proof.NOT_APPLIED:
                return await self._changed_meanwhile(inspection)
            if self._changed(inspection):
                return await self._changed_meanwhile(inspection)
            self._read_at_s = inspection.read_at_s
            self._record = replace(
                self._record, status=ActionStatus.SENT, sent_at=self._clock.now()
            )
            return None
        end = await self._give_up(outcome.detail)
        return replace(end, unauthorized=outcome.unauthorized)

    def _changed(self, inspection: Inspection) -> bool:
        """Return whether somebody else changed what the action was planned for."""
        before, running = self._record.before, inspection.running
        if running is None or not self._record.kind.protects:
            return False
        planned_for = (before.side or running.side, before.quantity, before.margin)
        return (running.side, running.quantity, running.margin) != planned_for

    async def _changed_meanwhile(self, inspection: Inspection) -> ActionEnd:
        end = self._proved(inspection)
        if end is not None:
            return await self._finish(end)
        return await self._give_up("the position changed meanwhile; it is planned again")

    def _backoff_s(self) -> float:
        doubled = self._settings.action_base_delay_s * 2.0 ** (self._attempts_made - 1)
        return float(min(self._settings.action_max_delay_s, doubled))

    async def _look(self) -> Inspection | None:
        """Read the position afresh; None if it cannot be read, which proves nothing."""
        try:
            return await self._executor.look(self._record)
        except MarginguardError as error:
            self._log.warning(
                "action.unreadable",
                error=str(error),
                advice="the outcome stays unknown until the position can be read",
            )
            return None

    def _proved(self, inspection: Inspection | None) -> ActionRecord | None:
        """Return the record as a read settles it; what was never sent cannot have worked."""
        if inspection is None:
            return None
        now = self._clock.now()
        if self._maybe_applied:
            return proved(self._record, inspection, now)
        if inspection.gone:
            error = "the position no longer runs, and not by this action"
            return ended(self._record, ActionStatus.GONE, now, error=error)
        return None

    async def _give_up(self, error: str) -> ActionEnd:
        """End as unknown if anything may have been carried out, else as not having happened."""
        if not self._maybe_applied:
            if self._record.outcome == OutcomeKind.REJECTED:
                # The key was, once, and nobody has refused the step: it is no fallback's turn.
                self._record = replace(self._record, outcome=OutcomeKind.NOT_SENT.value)
            return await self._end(ActionStatus.REJECTED, error)
        return await self._finish(replace(self._record, status=ActionStatus.UNKNOWN, error=error))

    async def _end(self, status: ActionStatus, error: str) -> ActionEnd:
        return await self._finish(ended(self._record, status, self._clock.now(), error=error))

    async def _finish(self, record: ActionRecord) -> ActionEnd:
        self._record = record
        await self._write()
        return ActionEnd(record=record)

    async def _write(self) -> bool:
        return await self._book.write(self._record, patience_s=DATABASE_PATIENCE_S)
