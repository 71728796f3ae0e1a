"""One account: who covers which of its positions, and what ended without our doing."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from marginguard.domain import backstop, margin
from marginguard.domain.coverage import covered_by
from marginguard.domain.ending import Vanished
from marginguard.domain.foreign import foreign_change
from marginguard.domain.model import ActionKind, Assessment, Position, PriceQuote, Sighting
from marginguard.domain.records import ActionRecord, ActionStatus, ArmedState
from marginguard.domain.rules import ProtectionMode
from marginguard.domain.units import AccountId, Percent, PositionId
from marginguard.engine import telling
from marginguard.engine.book import Book
from marginguard.engine.ends import Ends
from marginguard.engine.executor import Executor
from marginguard.engine.funds import Funds
from marginguard.engine.intent import OUR_TAG
from marginguard.engine.reminder import Reminder
from marginguard.engine.rises import Rises
from marginguard.engine.settings import Guard
from marginguard.ports import Clock, Notifier, Observations

UNCOVERED_REPEAT_S = 3600.0
"""How often a position that nobody covers is spoken of again."""


class Account:
    """Holds every read of an account against its guards, and tells of what nobody guards."""

    def __init__(
        self,
        *,
        account_id: AccountId,
        guards: Sequence[tuple[Guard, Book]],
        executor: Executor,
        observations: Observations,
        notifier: Notifier,
        clock: Clock,
        new_id: Callable[[], UUID],
    ) -> None:
        self.id = account_id
        self._observations = observations
        self._notifier = notifier
        self._clock = clock
        self._new_id = new_id
        self._uncovered = Reminder(repeat_s=UNCOVERED_REPEAT_S)
        self._running: dict[PositionId, Position] | None = None
        self._seen_at: dict[PositionId, datetime] = {}
        self._read_at_s = float("-inf")
        self._acted_s: dict[PositionId, float] = {}
        self._ends_told: dict[PositionId, tuple[float, str]] = {}
        self._unclear: set[PositionId] = set()
        self._rises = Rises(account_id=account_id, notifier=notifier, clock=clock, new_id=new_id)
        self.funds = Funds(account_id=account_id, notifier=notifier, clock=clock, new_id=new_id)
        """Whether the balance pays for what the guards would spend next."""
        self.ends = Ends(
            account_id=account_id,
            executor=executor,
            notifier=notifier,
            clock=clock,
            new_id=new_id,
        )
        """The positions that ended without our doing, until it is told why."""
        self._guards: tuple[tuple[Guard, Book], ...] = ()
        self.guard_by(guards)
        self.newest: tuple[datetime, Mapping[PositionId, Sighting]] | None = None
        """All running positions as they were last seen, and when; None before the first look."""

    def guard_by(self, guards: Sequence[tuple[Guard, Book]]) -> None:
        """Take over which guards look after the account from now on, each with its book."""
        self._guards = tuple(guards)
        self.funds.keep_to([guard.id for guard, _ in self._guards])

    def ended(self, record: ActionRecord) -> None:
        """Tell how an action ended, if it did, so that what it changed surprises nobody."""
        if not record.kind.protects or not (record.status.settled or record.frozen):
            return
        self._take_in(record)
        self._notifier.tell(
            telling.of_action(record, notice_id=self._new_id(), at=self._clock.now())
        )

    def report(
        self,
        positions: Sequence[Position],
        quote: PriceQuote,
        *,
        read_at_s: float,
        left_behind: Collection[PositionId] = (),
        told: Collection[PositionId] = (),
    ) -> None:
        """Take in a complete read of the account's positions, made at `read_at_s` (monotonic).

        On those `left_behind` there are unsettled actions of guards that are no longer run. Those
        `told` have just been acted on or spoken of as at risk.
        """
        if read_at_s < self._read_at_s:
            return  # another guard's read is newer: what changed since then is known already
        self._read_at_s = read_at_s
        keepers = self._keepers(positions, quote)
        seen = {p.id: _sighting(p, quote, keepers.get(p.id)) for p in positions}
        for sighting in seen.values():
            if sighting.guard_id is None:
                self._tell_uncovered(sighting.assessment)
            else:
                self._uncovered.forget(sighting.assessment.position.id)
        now = {position.id: position for position in positions}
        before = self._running
        self._acted_s = {id_: at_s for id_, at_s in self._acted_s.items() if at_s >= read_at_s}
        seen_at = self._clock.now() - timedelta(seconds=self._clock.monotonic() - read_at_s)
        self._seen_at |= dict.fromkeys(now, seen_at)
        ours = frozenset(left_behind) | self._unsettled() | self._acted_s.keys()
        if before is not None:
            self._tell_changes(before, now, ours)
        if quote.confirmed:  # a jump that nothing has borne out yet is no rise
            answered = _answered(seen, keepers) | frozenset(told) | ours
            self._rises.report(seen, thresholds=_thresholds(keepers), told=answered)
        # What our action makes of a position is known once it has ended, and compared then.
        self._running = {**now, **{i: p for i, p in (before or {}).items() if i in ours}}
        self._seen_at = {i: at for i, at in self._seen_at.items() if i in self._running}
        self._ends_told = {
            id_: (at_s, by)
            for id_, (at_s, by) in self._ends_told.items()
            if id_ not in now or at_s >= read_at_s or id_ in ours
        }
        self.newest = (self._clock.now(), seen)
        self._observations.positions(self.id, seen, self.newest[0])

    def _take_in(self, record: ActionRecord) -> None:
        """Note what an action made of its position."""
        position_id, now_s = record.position_id, self._clock.monotonic()
        if record.frozen:
            self._unclear.add(position_id)
        if record.status is ActionStatus.DONE:
            self._acted_s[position_id] = now_s
            known = (self._running or {}).get(position_id)
            if self._running is not None and known is not None and not record.is_reopening:
                self._running[position_id] = _as_left(known, record)
        if record.status is ActionStatus.GONE:
            self._ends_told[position_id] = (now_s, "others")
        elif record.is_reopening or (
            record.status is ActionStatus.DONE and record.kind is ActionKind.CLOSE_POSITION
        ):
            self._ends_told[position_id] = (now_s, "guard")

    def _unsettled(self) -> frozenset[PositionId]:
        """Return the positions that an action of ours may still change."""
        records = (record for _, book in self._guards for record in book.unsettled)
        return frozenset(r.position_id for r in records if r.kind.protects and not r.frozen)

    def _tell_changes(
        self,
        before: Mapping[PositionId, Position],
        now: Mapping[PositionId, Position],
        ours: Collection[PositionId],
    ) -> None:
        """Tell what somebody else did since the last read; what we do is told elsewhere."""
        for position_id in before.keys() - now.keys() - frozenset(ours):
            self._tell_ended(before[position_id])
        for position in now.values():
            known = before.get(position.id)
            if position.id in ours:
                continue
            if position.id in self._unclear:
                self._unclear.discard(position.id)
                continue
            if known is None:
                self._tell_opened(position)
            elif (change := foreign_change(known, position)) is not None:
                self._tell_changed(position, change)

    def _keepers(
        self, positions: Sequence[Position], quote: PriceQuote
    ) -> dict[PositionId, tuple[Guard, Book]]:
        """Return the first armed guard that looks after each position."""
        keepers: dict[PositionId, tuple[Guard, Book]] = {}
        for guard, book in self._guards:
            if book.state.armed is not ArmedState.DISARMED:
                for one in covered_by(guard.rules, book.memory, positions, quote.last):
                    keepers.setdefault(one.id, (guard, book))
        return keepers

    def _tell_uncovered(self, assessment: Assessment) -> None:
        position = assessment.position
        if not self._uncovered.due(position.id, "uncovered", self._clock.monotonic()):
            return
        self._notifier.tell(
            telling.of_uncovered(
                position,
                self.id,
                level=assessment.level,
                notice_id=self._new_id(),
                at=self._clock.now(),
            )
        )

    def _tell_ended(self, position: Position) -> None:
        self._uncovered.forget(position.id)
        told = self._ends_told.pop(position.id, None)
        if told is not None:
            structlog.get_logger().info(
                "position.closed", account=self.id, position=position.id, by=told[1]
            )
        if told is None or told[1] == "others":
            backstop = any(
                position.stop_loss in book.memory.stop_losses_of(position.id)
                for _, book in self._guards
            )
            vanished = Vanished(position=position, backstop=backstop, told=told is not None)
            self.ends.note(vanished, self._seen_at.get(position.id, self._clock.now()))

    def _tell_opened(self, position: Position) -> None:
        if (position.client_id or "").startswith(OUR_TAG):
            return
        self._notifier.tell(
            telling.of_opened(position, self.id, notice_id=self._new_id(), at=self._clock.now())
        )

    def _tell_changed(self, position: Position, change: str) -> None:
        self._notifier.tell(
            telling.of_changed(
                position, self.id, change, notice_id=self._new_id(), at=self._clock.now()
            )
        )


def _thresholds(keepers: Mapping[PositionId, tuple[Guard, Book]]) -> dict[PositionId, Percent]:
    return {
        position_id: guard.rules.ladder_of(book.memory.origin_of(position_id)).lowest
        for position_id, (guard, book) in keepers.items()
    }


def _answered(
    seen: Mapping[PositionId, Sighting], keepers: Mapping[PositionId, tuple[Guard, Book]]
) -> frozenset[PositionId]:
    """Return the positions with a breach that their guard answers, or speaks of itself."""
    thresholds = _thresholds(keepers)
    return frozenset(
        position_id
        for position_id, (guard, book) in keepers.items()
        if any(episode.position_id == position_id for episode in book.memory.episodes)
        or (
            guard.rules.mode is not ProtectionMode.TOTAL
            and seen[position_id].assessment.level >= thresholds[position_id]
        )
    )


def _as_left(position: Position, record: ActionRecord) -> Position:
    """Return the position as a proved action of ours left it."""
    after = record.after
    if after is None:
        return position
    return replace(
        position,
        side=after.side or position.side,
        quantity=after.quantity,
        margin=after.margin,
        funding_paid=after.funding_paid,
    )


def _sighting(position: Position, quote: PriceQuote, keeper: tuple[Guard, Book] | None) -> Sighting:
    if keeper is None:
        return Sighting(assessment=margin.assess(position, quote.last, None), guard_id=None)
    guard, book = keeper
    lineage = book.memory.lineage(position.id)
    ladder = guard.rules.ladder_of(book.memory.origin_of(position.id))
    stands = ladder.backstop is not None and backstop.stands(position, ladder.backstop)
    return Sighting(
        assessment=margin.assess(position, quote.last, ladder.lowest),
        guard_id=guard.id,
        backstop=position.stop_loss if stands else None,
        original_margin=None if lineage is None else lineage.original_margin,
    )
