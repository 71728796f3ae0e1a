"""The engine as a whole: guards scheduled, accounts watched, a new set of guards taken over."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

import marginguard
from marginguard.domain.errors import ErrorCode, ErrorType
from marginguard.domain.model import PriceQuote
from marginguard.domain.records import (
    ActionRecord,
    ArmedState,
    ExecutionRecord,
    ExecutionSource,
    ExecutionStatus,
)
from marginguard.domain.units import AccountId, GuardId
from marginguard.engine.book import Book
from marginguard.engine.guard import GuardRunner
from marginguard.engine.scheduler import Scheduler
from marginguard.engine.settings import EngineSettings, Guard
from marginguard.engine.workshop import Surroundings, Workshop

__all__ = ["Disarmed", "Engine", "Surroundings"]

OWNER: Final = "owner"
"""Whose the run of a guard is that is no longer configured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Disarmed:
    """A guard of the configuration that is not run, and why."""

    guard_id: GuardId
    account_id: AccountId
    reason: str


class Engine:
    """Runs the guards until `stop` is set; then lets what is under way end."""

    def __init__(
        self,
        *,
        guards: Sequence[Guard],
        disarmed: Sequence[Disarmed],
        surroundings: Surroundings,
        settings: EngineSettings,
        stop: asyncio.Event,
    ) -> None:
        self._guards = tuple(guards)
        self._disarmed = tuple(disarmed)
        self._around = surroundings
        self._settings = settings
        self._stop = stop
        self._workshop = Workshop(surroundings=surroundings, settings=settings, stop=stop)
        self._accounts = {id_: self._workshop.account(id_) for id_ in self._workshop.account_ids}
        self._watches = {
            id_: self._workshop.watch(account) for id_, account in self._accounts.items()
        }
        self._books: dict[GuardId, Book] = {}
        self._runners: tuple[GuardRunner, ...] = ()
        self._actions: asyncio.TaskGroup | None = None
        self._scheduler: Scheduler | None = None
        self._bars: dict[AccountId, str | None] = {}
        self.first_pass = asyncio.Event()
        """Set once every guard has been run."""

    def on_tick(self, quote: PriceQuote, account_ids: Collection[AccountId]) -> None:
        """Run at once the guards of these accounts that the price calls for; returns at once."""
        for runner in self._runners:
            if runner.guard.account_id in account_ids and runner.breached_at(quote):
                self._wake(runner)

    def on_account_event(self, account_id: AccountId) -> None:
        """Look at once at an account on which something has changed."""
        for runner in self._runners:
            if runner.guard.account_id == account_id and runner.guard.real_time_monitoring:
                self._wake(runner)

    def bar(self, account_id: AccountId, reason: str | None) -> None:
        """Disarm the guards of an account that cannot be guarded, or (None) let them arm."""
        self._bars[account_id] = reason
        for runner in self._runners:
            if runner.guard.account_id == account_id:
                runner.bar(reason)

    def armed_guards(self) -> tuple[int, int]:
        """Return how many guards are armed now, and how many the configuration has."""
        armed = sum(book.state.armed is ArmedState.ARMED for book in self._books.values())
        return armed, len(self._guards) + len(self._disarmed)

    async def run(self) -> None:
        """Guard; returns after `stop`, when the runs and actions under way have ended."""
        await self._note_interrupted()
        await self._disarm(self._disarmed)
        async with asyncio.TaskGroup() as self._actions:
            self._runners = self._staff(self._actions)
            self._leave_behind()
            self._scheduler = Scheduler(
                runners=self._runners,
                settings=self._settings,
                clock=self._around.clock,
                stop=self._stop,
                first_pass=self.first_pass,
                hooks=self._around.hooks,
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(self._scheduler.run(), name="scheduler")
                for watch in self._watches.values():
                    group.create_task(watch.run(), name="watch")

    async def apply(self, guards: Sequence[Guard], disarmed: Sequence[Disarmed]) -> None:
        """Run these guards from now on, each on an account that the engine knows.

        A guard that has not changed goes on undisturbed. One that has is run by its new rules as
        soon as its present run has ended; one that is gone leaves what it has not settled to the
        watch over its account. Raises `RuntimeError` before `run`.
        """
        if self._scheduler is None or self._actions is None:
            raise RuntimeError("the engine does not run yet")
        new = [one for one in disarmed if one not in self._disarmed]
        self._guards, self._disarmed = tuple(guards), tuple(disarmed)
        self._runners = self._staff(self._actions)
        await self._disarm(new)
        await self._scheduler.replace(self._runners)

    def _staff(self, actions: asyncio.TaskGroup) -> tuple[GuardRunner, ...]:
        """Return a runner for every guard: the present one where the guard is the same."""
        present = {runner.guard.id: runner for runner in self._runners}
        for guard_id in self._books.keys() - {guard.id for guard in self._guards}:
            book = self._books.pop(guard_id)
            self._watches[book.state.account_id].leave(book)
        runners = []
        for guard in self._guards:
            runner = present.get(guard.id)
            if runner is None or runner.guard != guard:
                runner = self._workshop.runner(
                    guard,
                    book=self._book_of(guard),
                    account=self._accounts[guard.account_id],
                    actions=actions,
                    barred=self._bars.get(guard.account_id),
                )
            runners.append(runner)
        for account_id, account in self._accounts.items():
            mine = [guard for guard in self._guards if guard.account_id == account_id]
            account.guard_by([(guard, self._books[guard.id]) for guard in mine])
            self._watches[account_id].guarded = bool(mine)
        return tuple(runners)

    def _book_of(self, guard: Guard) -> Book:
        """Return the one book of a guard: nothing that it remembers is forgotten."""
        book = self._books.get(guard.id)
        if book is None or book.state.account_id != guard.account_id:
            left = self._watches[guard.account_id].take_back(guard.id)
            book = left or self._workshop.book(guard.id, guard.account_id)
            self._books[guard.id] = book
        return book

    def _wake(self, runner: GuardRunner) -> None:
        if self._scheduler is not None:
            self._scheduler.wake(runner.guard.id)

    async def _disarm(self, disarmed: Sequence[Disarmed]) -> None:
        """Record and tell which guards of the configuration do not guard."""
        for one in disarmed:
            watch = self._watches.get(one.account_id)
            book = watch.left_by(one.guard_id) if watch is not None else None
            book = book or self._workshop.book(one.guard_id, one.account_id)
            await self._workshop.health(book).disarm(one.reason)

    async def _note_interrupted(self) -> None:
        """Record the runs that the daemon's end cut short; their actions are settled later."""
        now = self._around.clock.now()
        users = {guard.id: guard.user_id for guard in self._guards}
        first = {
            record.execution_id: record
            for record in reversed(self._workshop.unsettled)
            if record.kind.protects
        }
        for record in first.values():
            structlog.get_logger().warning(
                "action.unsettled",
                guard=record.guard_id,
                account=record.account_id,
                position=record.position_id,
                action=record.kind.value,
                action_id=str(record.id),
                advice="it is read how it ended before anything more is spent on the position",
            )
            book = self._workshop.book(record.guard_id, record.account_id)
            await book.append(_interrupted(record, users.get(record.guard_id, OWNER), now))

    def _leave_behind(self) -> None:
        """Have the watches settle the actions of guards that are not run."""
        left = {(r.account_id, r.guard_id) for r in self._workshop.unsettled}
        for account_id, guard_id in sorted(left):
            if guard_id in self._books:
                continue
            if account_id in self._watches:
                self._watches[account_id].leave(self._workshop.book(guard_id, account_id))
                continue
            structlog.get_logger().critical(
                "action.orphaned",
                account=account_id,
                advice="an action on this account is not settled and the account is no longer"
                " configured; look at it on the exchange",
            )


def _interrupted(record: ActionRecord, user_id: str, now: datetime) -> ExecutionRecord:
    return ExecutionRecord(
        id=record.execution_id,
        guard_id=record.guard_id,
        account_id=record.account_id,
        user_id=user_id,
        status=ExecutionStatus.FAILED,
        source=ExecutionSource.SCHEDULE,
        version=marginguard.__version__,
        dry_run=record.dry_run,
        positions_total=1,
        positions_requiring_action=1,
        positions_succeeded=0,
        positions_failed=1,
        price=record.before.price,
        error_code=ErrorCode.INTERRUPTED,
        error_type=ErrorType.EXECUTION,
        error="the daemon ended before this run did",
        started_at=record.intended_at,
        finished_at=now,
        duration_s=(now - record.intended_at).total_seconds(),
        results={record.position_id: record.reason},
    )
