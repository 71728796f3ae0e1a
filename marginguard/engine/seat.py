"""One guard's place in the schedule: when it is due, and the run of it that is under way."""

import asyncio
from dataclasses import dataclass, field

from marginguard.domain.records import ExecutionRecord, ExecutionSource
from marginguard.domain.units import GuardId
from marginguard.engine.guard import GuardRunner
from marginguard.engine.slots import Turn


@dataclass(eq=False, kw_only=True, slots=True)
class Run:
    """A run under way, begun at `began_s` (monotonic)."""

    runner: GuardRunner
    began_s: float
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    suspected: bool = False
    stuck: bool = False


@dataclass(eq=False, kw_only=True, slots=True)
class Ask:
    """A run that an operator asked for; once it is `done`, what it `recorded` if it `ran`."""

    source: ExecutionSource
    done: asyncio.Event = field(default_factory=asyncio.Event)
    ran: bool = False
    recorded: ExecutionRecord | None = None


@dataclass(eq=False, kw_only=True, slots=True)
class Seat:
    """One guard in the schedule. Only one task ever runs it, whatever its runner is.

    `runner` is None once the guard is removed. It is `due_s` for a run from `source`, and
    sooner where the price, or an operator with one of `asks`, asked for one at `asked_s`. `turn`
    is its place in the line while it waits for a slot, `run` what it has begun; while it sleeps
    it has neither.
    """

    guard_id: GuardId
    runner: GuardRunner | None
    due_s: float
    source: ExecutionSource = ExecutionSource.SCHEDULE
    failures: int = 0
    asked_s: float | None = None
    asks: list[Ask] = field(default_factory=list)
    woken_s: float = float("-inf")
    deferred: asyncio.TimerHandle | None = None
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    turn: Turn | None = None
    run: Run | None = None

    @property
    def wanted_s(self) -> float:
        """Since when, or from when on, it is to run."""
        return self.due_s if self.asked_s is None else min(self.asked_s, self.due_s)

    def take_asks(self) -> list[Ask]:
        """Return who waits for the run that begins now; whoever asks later waits for another."""
        asks, self.asks = self.asks, []
        return asks

    def hand_over(self, runner: GuardRunner | None, now_s: float) -> None:
        """Give the place to another runner, which is due at once, or (None) to nobody."""
        self.runner = runner
        self.due_s, self.source, self.failures = now_s, ExecutionSource.SCHEDULE, 0
        if runner is None:
            self.undefer()
        self.stirred.set()

    def undefer(self) -> None:
        """Forget a waking that was put off."""
        if self.deferred is not None:
            self.deferred.cancel()
            self.deferred = None

    def overslept(self, now_s: float) -> bool:
        """Return whether it sleeps though it is due: sleep does not count time in suspension."""
        return self.run is None and self.turn is None and now_s >= self.due_s

    def overdue(self, now_s: float, *, run_limit_s: float, interval_s: float) -> bool:
        """Return whether its run has taken too long, or it waits for longer than an interval."""
        if self.run is not None:
            return now_s - self.run.began_s > run_limit_s
        return now_s - self.wanted_s > interval_s
