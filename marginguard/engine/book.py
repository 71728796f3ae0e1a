"""A guard's book: its state, its memory and its unsettled actions, written through the journal."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import structlog

from marginguard.domain.errors import DiskFull
from marginguard.domain.ledger import remember
from marginguard.domain.memory import GuardMemory
from marginguard.domain.pause import Pause
from marginguard.domain.records import ActionRecord, ArmedState, GuardState, Record
from marginguard.domain.units import PositionId
from marginguard.ports import Clock, Journal


class Book:
    """The one place where a guard's state changes; what must survive is durable first."""

    def __init__(
        self,
        *,
        state: GuardState,
        unsettled: Iterable[ActionRecord],
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._state = state
        self._unsettled = {record.id: record for record in unsettled}
        self._journal = journal
        self._clock = clock
        self._writable = True
        # What the journal does not know of: not from records of actions, and not at all from
        # the newest state that it holds.
        self._unwritten = False
        self._behind = False
        # What a full disk did not take, to be written before anything else: the newest record
        # of each action, and the executions.
        self._newest: dict[UUID, ActionRecord] = {}
        self._owed: dict[UUID, Record] = {}
        self._pause_ends_s = self._end_of(state.pause)

    @property
    def state(self) -> GuardState:
        """The guard's state as it is now."""
        return self._state

    @property
    def memory(self) -> GuardMemory:
        """What the guard remembers now."""
        return self._state.memory

    @property
    def paused(self) -> Pause | None:
        """The pause that lasts at this moment."""
        return self._state.pause if self.pause_left_s > 0 else None

    @property
    def pause_left_s(self) -> float:
        """How many seconds the pause lasts yet; 0 without one.

        A wall clock that is set back while it lasts does not make it longer.
        """
        if self._state.pause is None:
            return 0.0
        by_clock_s = self._state.pause.left(self._clock.now()).total_seconds()
        return max(0.0, min(by_clock_s, self._pause_ends_s - self._clock.monotonic()))

    @property
    def unsettled(self) -> tuple[ActionRecord, ...]:
        """The actions whose end is not known yet, oldest first."""
        return tuple(self._unsettled.values())

    def unsettled_close(self, position_id: PositionId) -> ActionRecord | None:
        """Return the newest unsettled action that closes the position."""
        found = [r for r in self._unsettled.values() if r.position_id == position_id and r.closes]
        return found[-1] if found else None

    def unopened(self) -> tuple[ActionRecord, ...]:
        """Return the reductions whose trade is closed and whose rest was never asked for yet."""
        return tuple(r for r in self._unsettled.values() if r.is_reopening and r.sent_at is None)

    @property
    def writable(self) -> bool:
        """Whether the journal took the last record; while it does not, nothing is spent."""
        return self._writable

    async def write(self, record: ActionRecord, *, patience_s: float = 0.0) -> bool:
        """Make an action's record durable together with what it does to the memory.

        Returns whether it is durable. The memory has changed in any case, so that a spend that
        may go out is counted.
        """
        if record.status.settled:
            self._unsettled.pop(record.id, None)
        else:
            self._unsettled[record.id] = record
        self._newest[record.id] = record
        self._change(memory=remember(self.memory, record))
        self._behind = True
        if self._unwritten:
            return await self.append(self._state, record, patience_s=patience_s)
        return await self.append(record, patience_s=patience_s)

    def adopt(self, memory: GuardMemory) -> None:
        """Take over a new memory; it is written with the next action, or by `keep`."""
        if memory != self.memory:
            self._change(memory=memory)
            self._unwritten = True

    async def keep(self) -> None:
        """Write the state if it has changed; and while the journal is not writable, try again."""
        if self._unwritten or self._behind or self._owed or not self._writable:
            await self.append(self._state)

    async def arm(self, armed: ArmedState, reason: str) -> None:
        """Set whether and why the guard guards, `since` moving only with `armed`."""
        if (armed, reason) == (self._state.armed, self._state.reason):
            return
        now = self._clock.now()
        since = self._state.since if armed is self._state.armed else now
        self._state = replace(self._state, armed=armed, reason=reason, since=since, updated_at=now)
        await self.append(self._state)

    async def pause(self, pause: Pause) -> bool:
        """Pause the guard from this moment on.

        Returns whether that is durable; if not, it is in force all the same and is written later.
        """
        self._pause_ends_s = self._end_of(pause)
        self._state = replace(self._state, pause=pause, updated_at=self._clock.now())
        return await self.append(self._state)

    async def end_pause(self) -> bool:
        """End the pause, if it is not over by itself; returns whether that is durable."""
        now = self._clock.now()
        self._state = replace(
            self._state,
            armed=ArmedState.DEGRADED,
            reason="its pause is over: it has not looked since",
            since=now,
            updated_at=now,
            pause=None,
        )
        return await self.append(self._state)

    def inherit(self, pause: Pause | None) -> None:
        """Take over the pause that the guard had on another account; written by `keep`."""
        self._pause_ends_s = self._end_of(pause)
        self._state = replace(self._state, pause=pause)
        self._unwritten = True

    async def append(self, *records: Record, patience_s: float = 0.0) -> bool:
        """Write to the journal; returns whether it took the records, and says so if not."""
        holds_state = any(record is self._state for record in records)
        if holds_state:
            self._unwritten = self._behind = False
        owed, self._owed = self._owed, {}
        wanted = (*(r for i, r in owed.items() if all(i != _id_of(n) for n in records)), *records)
        try:
            await self._journal.append(*wanted, patience_s=patience_s)
        except DiskFull as error:
            self._unwritten = self._unwritten or holds_state
            self._owe(wanted)
            structlog.get_logger().critical(
                "journal.unwritable",
                guard=self._state.guard_id,
                error=str(error),
                advice="free space in the state directory; closing goes on, spending stops",
            )
            self._writable = False
            return False
        self._writable = True
        self._forget(wanted)
        return True

    def _owe(self, records: Iterable[Record]) -> None:
        """Keep what could not be written, an action as it stands by now."""
        for record in records:
            if not isinstance(record, GuardState):
                self._owed[record.id] = self._newest.get(record.id, record)

    def _forget(self, records: Iterable[Record]) -> None:
        for record in records:
            if isinstance(record, ActionRecord) and self._newest.get(record.id) is record:
                del self._newest[record.id]

    def _end_of(self, pause: Pause | None) -> float:
        left = timedelta(0) if pause is None else pause.left(self._clock.now())
        return self._clock.monotonic() + left.total_seconds()

    def _change(self, *, memory: GuardMemory) -> None:
        self._state = replace(self._state, memory=memory, updated_at=self._clock.now())


def _id_of(record: Record) -> UUID | None:
    return None if isinstance(record, GuardState) else record.id
