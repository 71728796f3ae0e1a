"""Whether a guard guards: armed, degraded when it has been blind too long, or disarmed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import structlog

from marginguard.domain.errors import MarginguardError, Unauthorized
from marginguard.domain.pause import Pause
from marginguard.domain.records import ArmedState
from marginguard.domain.units import PositionId
from marginguard.engine import telling
from marginguard.engine.book import Book
from marginguard.engine.reminder import Reminder
from marginguard.ports import Clock, Notifier

UNAUTHORIZED_PAUSE_S: Final = 30.0
"""How long to wait before an account whose key was refused is read again."""

PAUSED_REPEAT_S: Final = 900.0
"""How often a guard that is paused says so again."""

PAUSED_LOOK_S: Final = 60.0
"""How long a guard that is paused goes without a look at most: a breach is told that often."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Awaited:
    """Which of a guard's selected positions do not run, and whether any does."""

    missing: tuple[PositionId, ...] = ()
    found: bool = True


class Health:
    """Keeps a guard's armed state in step with what it can see, and tells of every change."""

    def __init__(
        self,
        *,
        book: Book,
        notifier: Notifier,
        clock: Clock,
        blind_after_s: float,
        new_id: Callable[[], UUID],
    ) -> None:
        self._book = book
        self._notifier = notifier
        self._clock = clock
        self._blind_after_s = blind_after_s
        self._new_id = new_id
        self._blind_since_s: float | None = None
        self._refused = False
        self._barred: str | None = None
        self._announced: ArmedState | None = None
        self._paused = Reminder(repeat_s=PAUSED_REPEAT_S)

    async def sees(self, awaited: Awaited) -> None:
        """Note that the guard has read everything that it needs, and whether that is there."""
        self._blind_since_s = None
        self._refused = False
        await self._end_pause()
        waits = f"no such position runs: {', '.join(awaited.missing)}; it waits for it"
        if (pause := self._book.paused) is not None:
            await self.rest(pause, but=self._barred)
        elif self._barred is not None:
            await self._turn(ArmedState.DISARMED, self._barred)
        elif not awaited.found:
            await self._turn(
                ArmedState.DISARMED, f"{waits}. See selected_positions, or disable the guard"
            )
        elif awaited.missing:
            await self._turn(ArmedState.ARMED, f"it sees its positions and the price; {waits}")
        else:
            await self._turn(ArmedState.ARMED, "it sees its positions and the price")

    def bar(self, reason: str | None) -> None:
        """Say why the guard cannot guard though it sees (None: it can), from its next look on."""
        self._barred = reason

    async def blind(self, error: MarginguardError) -> None:
        """Note that the guard could not read what it needs; too long, and it is degraded."""
        self._refused = isinstance(error, Unauthorized)
        if self._refused:
            refused = (
                f"the exchange refuses the account's key ({error}); check the key, its"
                " permissions and the network, the guard arms itself when the key works"
            )
            await self._turn_unless_paused(ArmedState.DISARMED, refused)
            return
        now_s = self._clock.monotonic()
        if self._blind_since_s is None:
            self._blind_since_s = now_s
        if now_s - self._blind_since_s >= self._blind_after_s:
            await self._turn_unless_paused(ArmedState.DEGRADED, f"it has been blind: {error}")
        else:
            await self._end_pause()

    def next_look_s(self, beat_s: float) -> float:
        """Return in how many seconds to look again, `beat_s` being when the interval says so.

        A guard that cannot see looks more often than a long interval would have it, and with a
        refused key once in `UNAUTHORIZED_PAUSE_S`; one that was paused, the moment that it ends.
        """
        look_s = beat_s
        if self._refused:
            look_s = UNAUTHORIZED_PAUSE_S
        elif self._blind_since_s is not None:
            look_s = min(beat_s, self._blind_after_s / 2)
        if self._book.state.pause is not None:
            look_s = min(look_s, PAUSED_LOOK_S, self._book.pause_left_s)
        return look_s

    async def rest(self, pause: Pause, *, but: str | None = None) -> None:
        """Disarm the guard while it is paused, and say so again from time to time.

        It does not even do what is left to it where there is a `but`.
        """
        reason = f"{pause}: it alerts and does nothing" + (f"; {but}" if but else "")
        told = await self._turn(ArmedState.DISARMED, reason)
        if self._paused.due("pause", pause, self._clock.monotonic()) and not told:
            state = self._book.state
            structlog.get_logger().warning(
                "guard.paused",
                guard=state.guard_id,
                account=state.account_id,
                reason=reason,
                advice=f"marginguard resume {state.guard_id} ends the pause at once",
            )
            self._notifier.tell(
                replace(
                    telling.of_armed_state(state, notice_id=self._new_id()), at=self._clock.now()
                )
            )

    async def disarm(self, reason: str) -> None:
        """Disarm the guard for a reason that looking again does not cure."""
        await self._end_pause()
        await self._turn(ArmedState.DISARMED, reason)

    async def _turn_unless_paused(self, armed: ArmedState, reason: str) -> None:
        """Take over a state, but stay disarmed: a degraded guard passes for one that will guard."""
        await self._end_pause()
        if (pause := self._book.paused) is not None:
            await self.rest(pause, but=reason)
        else:
            await self._turn(armed, reason)

    async def _end_pause(self) -> None:
        """Forget a pause that is over."""
        if self._book.state.pause is not None and self._book.paused is None:
            await self._book.end_pause()

    async def _turn(self, armed: ArmedState, reason: str) -> bool:
        """Take over a state; return whether it was told, as every change is."""
        if armed is self._announced and reason != self._book.state.reason:
            structlog.get_logger().info(
                "guard.reason", guard=self._book.state.guard_id, now=armed.value, reason=reason
            )
        await self._book.arm(armed, reason)
        if armed is self._announced:
            return False
        before, self._announced = self._announced, armed
        state = self._book.state
        structlog.get_logger().info(
            "guard.state",
            guard=state.guard_id,
            account=state.account_id,
            before=before.value if before else "starting",
            now=armed.value,
            reason=reason,
        )
        self._notifier.tell(telling.of_armed_state(state, notice_id=self._new_id()))
        return True
