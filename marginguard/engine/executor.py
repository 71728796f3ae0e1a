"""Carrying out actions on one account: nothing twice, nothing forgotten."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from marginguard.domain.decision import Pending
from marginguard.domain.errors import MarginguardError, StaleData
from marginguard.domain.model import ActionKind, NewTrade, Position, Side
from marginguard.domain.outcome import Outcome, OutcomeKind
from marginguard.domain.proof import Proof
from marginguard.domain.records import ActionRecord, ActionStatus, Reopening
from marginguard.domain.units import PositionId
from marginguard.engine.book import Book
from marginguard.engine.proving import Inspection, ended, inspect, proved
from marginguard.engine.settings import EngineSettings
from marginguard.ports import Clock, Exchange

REQUEST_LIFE_S: Final = 35.0
"""A signed request lives 30 s at the exchange; only after that does "not applied" mean never."""


SIMULTANEOUS: Final = 8
"""Actions under way on one account: more than its limits on calls let through while one is read
and proved, so that a slow one holds up no other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionEnd:
    """How far an action came. `unauthorized` says that the exchange refused the key."""

    record: ActionRecord
    unauthorized: bool = False


class Executor:
    """Sends the actions of one account, reads how they ended and settles them.

    `seen_transfers` are those that proved deposits before. `barred` says right before a request
    goes out why this daemon must not send it: another one guards the account.
    """

    def __init__(
        self,
        *,
        exchange: Exchange,
        clock: Clock,
        settings: EngineSettings,
        stop: asyncio.Event,
        seen_transfers: Iterable[str] = (),
        barred: Callable[[], Awaitable[str | None]] | None = None,
    ) -> None:
        self.exchange = exchange
        self.clock = clock
        self.settings = settings
        self.stop = stop
        # What an earlier process wrote down may have been sent until this moment.
        self._started_s = clock.monotonic()
        self._sent_s: dict[UUID, float] = {}
        self._first_sent_s: dict[UUID, float] = {}
        self._carried_out: set[UUID] = set()
        self._in_flight: set[PositionId] = set()
        self.turns: Final = asyncio.Semaphore(SIMULTANEOUS)
        """Whose turn it is to act; first come, first served."""
        self._seen_transfers = set(seen_transfers)
        self._barred = barred

    @property
    def in_flight(self) -> frozenset[PositionId]:
        """The positions that an action is being carried out on."""
        return frozenset(self._in_flight)

    def take_off(self, record: ActionRecord) -> None:
        """Note that an action is under way: nobody else settles it meanwhile."""
        self._carried_out.add(record.id)
        if record.kind.protects:
            self._in_flight.add(record.position_id)

    def land(self, record: ActionRecord) -> None:
        """Note that the action is not under way any more."""
        self._carried_out.discard(record.id)
        if record.kind.protects:
            self._in_flight.discard(record.position_id)
        self._forget_if_settled(record)

    async def send(self, record: ActionRecord, *, seen_s: float) -> Outcome:
        """Ask the exchange once for what `record` says.

        `seen_s` (monotonic) is when the oldest was read of what the record rests on. Raises
        `StaleData`, with nothing sent, if that is too old.
        """
        if self._barred is not None and (why := await self._barred()) is not None:
            return Outcome(kind=OutcomeKind.NOT_SENT, detail=why)
        # The last thing before sending: a process that was frozen meanwhile stops here.
        age_s = self.clock.monotonic() - seen_s
        if age_s > self.settings.view_max_age_s:
            raise StaleData(f"what was read was {age_s:.1f} s old before the request was sent")
        self._sent_s[record.id] = self.clock.monotonic()
        self._first_sent_s.setdefault(record.id, self._sent_s[record.id])
        try:
            return await self._ask(record)
        finally:
            # The request may have waited for the limits: it was signed by now at the latest.
            self._sent_s[record.id] = self.clock.monotonic()

    async def _ask(self, record: ActionRecord) -> Outcome:
        exchange, position_id = self.exchange, record.position_id
        if record.closes:
            return await exchange.close_position(position_id)
        if record.kind.spends:
            return await exchange.add_margin(position_id, record.amount)
        if record.kind is ActionKind.SET_STOP_LOSS:
            return await exchange.set_stop_loss(position_id, record.stop_loss)
        if record.client_id is None:
            raise ValueError("an order needs a client id, by which it is found again")
        if record.reopening is None:
            against = Side.SHORT if record.before.side is Side.LONG else Side.LONG
            return await exchange.reduce_cross(against, record.quantity, record.client_id)
        return await exchange.open_trade(_new_trade(record.reopening, record.client_id))

    async def look(self, record: ActionRecord) -> Inspection:
        """Read the account afresh and hold `record` against it; raises what reads raise."""
        read_at_s = self.clock.monotonic()
        positions = await self.exchange.running_positions()
        return await self._inspect(record, positions, read_at_s)

    async def settle(
        self, record: ActionRecord, book: Book, positions: tuple[Position, ...], read_at_s: float
    ) -> ActionRecord:
        """Settle an action that was left unsettled, as far as a read can tell by now.

        "Not applied" counts only once the request is too old to be carried out any more; what
        cannot be told even then is frozen: nothing more is spent on that position. A read that
        fails leaves it as it is, and holds up no other position.
        """
        if record.id in self._carried_out:
            return record
        try:
            async with asyncio.timeout(self.settings.settle_patience_s):
                inspection = await self._inspect(record, positions, read_at_s)
        except (MarginguardError, TimeoutError) as error:
            structlog.get_logger().warning(
                "action.unreadable",
                guard=record.guard_id,
                position=record.position_id,
                action_id=str(record.id),
                error=str(error) or f"no answer within {self.settings.settle_patience_s:g} s",
                advice="the outcome stays unknown until it can be read",
            )
            return record
        under_way = record.id in self._carried_out
        if under_way or all(left is not record for left in book.unsettled):
            return record  # settled meanwhile, by another look
        settled = proved(record, inspection, self.clock.now())
        if settled is None:
            settled = self._judge_by_age(record, inspection)
        if settled is None:
            return record
        await book.write(settled)
        log_end(settled)
        self._forget_if_settled(settled)
        return settled

    def _forget_if_settled(self, record: ActionRecord) -> None:
        """Forget when it was sent: nobody asks any more, and a daemon runs for months."""
        if record.status.settled:
            self._sent_s.pop(record.id, None)
            self._first_sent_s.pop(record.id, None)

    def pending(self, record: ActionRecord) -> Pending:
        """Return what an unsettled action means for the next decision."""
        age_s = self.clock.monotonic() - self._sent_s.get(record.id, self._started_s)
        overdue = record.frozen or age_s >= self.settings.verify_within_s
        waits = "not proved in time" if overdue else "not settled yet"
        state = "its outcome cannot be told" if record.frozen else waits
        return Pending(
            position_id=record.position_id,
            kind=record.kind,
            threshold=record.threshold,
            reason=f"action {record.id} ({record.kind.value}): {state}",
            overdue=overdue,
            frozen=record.frozen,
            repeatable=record.repeatable,
        )

    async def _inspect(
        self, record: ActionRecord, positions: tuple[Position, ...], read_at_s: float
    ) -> Inspection:
        inspection = await inspect(
            self.exchange,
            record,
            positions,
            read_at_s,
            since=self._first_sent(record),
            seen_transfers=self._seen_transfers,
        )
        if inspection.transfer_id is not None:
            self._seen_transfers.add(inspection.transfer_id)
        return inspection

    def _first_sent(self, record: ActionRecord) -> datetime:
        """Return when it was first sent by today's wall clock, which may have been set since.

        Of an action of an earlier process only what the clock said then is known.
        """
        first_s = self._first_sent_s.get(record.id)
        if first_s is None:
            return record.intended_at
        return self.clock.now() - timedelta(seconds=self.clock.monotonic() - first_s)

    def _judge_by_age(self, record: ActionRecord, inspection: Inspection) -> ActionRecord | None:
        age_s = inspection.read_at_s - self._sent_s.get(record.id, self._started_s)
        if age_s < REQUEST_LIFE_S or record.frozen:
            return None
        now = self.clock.now()
        if record.repeatable and inspection.gone:
            return ended(record, ActionStatus.GONE, now, error="the position no longer runs")
        if record.kind is ActionKind.SET_STOP_LOSS:
            error = "no such stop-loss stands: it was never set, or was changed since"
            return ended(record, ActionStatus.GONE, now, error=error)
        if record.closes and record.outcome == OutcomeKind.DONE:
            error = "the exchange said done, and what runs now was opened since"
            return ended(record, ActionStatus.GONE, now, error=error)
        if inspection.proof is Proof.NOT_APPLIED and record.outcome != OutcomeKind.DONE:
            error = "the exchange never carried it out"
            return ended(record, ActionStatus.REJECTED, now, error=error)
        error = "its outcome cannot be told from what the exchange shows"
        return replace(record, status=ActionStatus.UNKNOWN, frozen=True, error=error)


def _new_trade(plan: Reopening, client_id: str) -> NewTrade:
    if plan.leverage is None:
        raise ValueError("the leverage is decided before the order is sent")
    return NewTrade(
        side=plan.side,
        quantity=plan.quantity,
        leverage=plan.leverage,
        client_id=client_id,
        stop_loss=plan.stop_loss,
        take_profit=plan.take_profit,
    )


def log_end(record: ActionRecord) -> None:
    """Log how far an action has come."""
    log = structlog.get_logger().bind(
        guard=record.guard_id,
        position=record.position_id,
        action=record.kind.value,
        action_id=str(record.id),
        amount_sats=record.amount,
    )
    if record.status is ActionStatus.DONE and record.error is not None:
        log.warning(
            "action.done_in_part",
            proof=record.proof,
            error=record.error,
            advice="open the rest again yourself if you want it",
        )
    elif record.status is ActionStatus.DONE:
        log.info(
            "action.done",
            proof=record.proof,
            attempts=record.attempts,
            successor=record.successor,
        )
    elif record.is_reopening and record.sent_at is None:
        log.info("action.half_done", closed_at=str(record.reopening and record.reopening.closed_at))
    elif record.frozen:
        log.critical(
            "action.frozen",
            error=record.error,
            advice="look at the position on the exchange; nothing more is spent on it",
        )
    elif record.dry_run:
        log.warning("action.dry_run", reason=record.reason, advice="nothing was sent")
    else:
        log.warning(
            "action.not_done",
            status=record.status.value,
            error=record.error,
            outcome=record.outcome,
            attempts=record.attempts,
            advice="see what stands at the exchange; the guard looks again at its next run",
        )
