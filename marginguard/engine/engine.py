"""The engine as a whole: guards scheduled, accounts watched, a new set of guards taken over."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from marginguard.domain.errors import Refused
from marginguard.domain.model import PriceQuote
from marginguard.domain.operating import GuardNow, PositionNow
from marginguard.domain.pause import Pause
from marginguard.domain.records import (
    ActionRecord,
    ArmedState,
    ExecutionRecord,
    ExecutionSource,
)
from marginguard.domain.units import AccountId, GuardId, PositionId
from marginguard.engine.book import Book
from marginguard.engine.execution import interrupted
from marginguard.engine.executor import log_end
from marginguard.engine.guard import GuardRunner
from marginguard.engine.overview import guard_now, positions_now, unsettled_in
from marginguard.engine.proving import by_word
from marginguard.engine.scheduler import GRACE_S, Scheduler
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
        self._runners_on: dict[AccountId, list[GuardRunner]] = {}
        self._actions: asyncio.TaskGroup | None = None
        self._scheduler: Scheduler | None = None
        self._bars: dict[AccountId, str | None] = {}
        self._idle: dict[GuardId, Book] = {}
        self._started = asyncio.Event()
        self.first_pass = asyncio.Event()
        """Set once every guard has been run."""

    def on_tick(self, quote: PriceQuote, account_ids: Collection[AccountId]) -> None:
        """Run at once the guards of these accounts that the price calls for; returns at once."""
        for account_id in account_ids:
            for runner in self._runners_on.get(account_id, ()):
                if runner.breached_at(quote):
                    self._wake(runner)

    def on_account_event(self, account_id: AccountId) -> None:
        """Look at once at an account on which something has changed."""
        for runner in self._runners_on.get(account_id, ()):
            if runner.guard.real_time_monitoring:
                self._wake(runner)

    def bar(self, account_id: AccountId, reason: str | None) -> None:
        """Disarm the guards of an account that cannot be guarded, or (None) let them arm."""
        self._bars[account_id] = reason
        for runner in self._runners_on.get(account_id, ()):
            runner.bar(reason)

    def armed_guards(self) -> tuple[int, int]:
        """Return how many guards are armed now, and how many the configuration has."""
        armed = sum(book.state.armed is ArmedState.ARMED for book in self._books.values())
        return armed, len(self._guards) + len(self._disarmed)

    def guards_now(self) -> tuple[GuardNow, ...]:
        """Return every guard of the configuration as it is at this moment."""
        runners = {runner.guard.id: runner for runner in self._runners}
        ids = [guard.id for guard in self._guards] + [one.guard_id for one in self._disarmed]
        books = [self._books.get(guard_id) or self._idle.get(guard_id) for guard_id in ids]
        return tuple(guard_now(b, runners.get(b.state.guard_id)) for b in books if b is not None)

    def positions_now(self) -> tuple[PositionNow, ...]:
        """Return the running positions as they were last seen, the riskiest first."""
        failing = {runner.guard.id for runner in self._runners if runner.failing}
        return positions_now(self._accounts.values(), self._books, failing)

    async def pause(self, guard_id: GuardId, pause: Pause) -> bool:
        """Let a guard do no more than alert; return whether that is durable.

        What it has under way goes on. Raises `Refused` for a guard that is not run.
        """
        scheduler, runner = self._scheduler_at_work(), self._runner(guard_id)
        durable = await runner.pause(pause)
        scheduler.wake(guard_id)
        return durable

    async def resume(self, guard_id: GuardId) -> bool:
        """End a guard's pause and run it at once; return whether that is durable.

        Raises `Refused` for a guard that is not run or not paused.
        """
        scheduler, runner = self._scheduler_at_work(), self._runner(guard_id)
        if self._books[guard_id].paused is None:
            raise Refused(f"guard {guard_id} is not paused")
        durable = await runner.resume()
        scheduler.ask(guard_id, ExecutionSource.RUN_NOW)
        return durable

    async def run_now(self, guard_id: GuardId, source: ExecutionSource) -> ExecutionRecord | None:
        """Run a guard at once, or again right after its present run.

        Returns what the run recorded, None if it had nothing to do. Raises `Refused` for a guard
        that is not run, and when the run takes longer than a run may.
        """
        self._runner(guard_id)
        ask = self._scheduler_at_work().ask(guard_id, source)
        limit_s = self._settings.timeout_s + GRACE_S
        try:
            async with asyncio.timeout(limit_s):
                if ask is not None:
                    await ask.done.wait()
        except TimeoutError as error:
            raise Refused(
                f"guard {guard_id} has not ended its run within {limit_s:g} s; it goes on, and what"
                f" comes of it is on record: marginguard executions --guard {guard_id}"
            ) from error
        if ask is None or not ask.ran:
            raise Refused(f"guard {guard_id} was taken out of service before it could run")
        return ask.recorded

    async def settle(self, action_id: UUID, *, applied: bool, by: str) -> ActionRecord:
        """Settle an action that is frozen by the owner's word, and return its record.

        Raises `Refused` for one that is not frozen, or not known as unsettled.
        """
        scheduler = self._scheduler_at_work()
        left = (book for watch in self._watches.values() for book in watch.left)
        book, record = unsettled_in((*self._books.values(), *left), action_id)
        if not record.frozen or record.position_id in self._workshop.in_flight(record.account_id):
            raise Refused(
                f"action {action_id} is {record.status.value}, and is settled by reading how it"
                " ended as soon as that can be told; only one that no reading can tell takes your"
                " word"
            )
        settled = by_word(record, applied=applied, by=by, now=self._around.clock.now())
        await book.write(settled)
        log_end(settled)
        self._accounts[record.account_id].ended(settled)
        scheduler.wake(record.guard_id)
        return settled

    def under_way(self, guard_id: GuardId) -> frozenset[PositionId]:
        """Return the positions that an action of this guard is being carried out on."""
        book = self._books[guard_id]
        mine = frozenset(record.position_id for record in book.unsettled)
        return mine & self._workshop.in_flight(book.state.account_id)

    async def run(self) -> None:
        """Guard; returns after `stop`, when the runs and actions under way have ended."""
        await self._note_interrupted()
        async with asyncio.TaskGroup() as self._actions:
            self._runners = self._staff(self._actions)
            self._leave_behind()
            await self._disarm(self._disarmed)  # in the book with which it was left behind
            self._scheduler = Scheduler(
                runners=self._runners,
                settings=self._settings,
                clock=self._around.clock,
                stop=self._stop,
                first_pass=self.first_pass,
                hooks=self._around.hooks,
            )
            self._started.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._scheduler.run(), name="scheduler")
                for watch in self._watches.values():
                    group.create_task(watch.run(), name="watch")

    async def apply(self, guards: Sequence[Guard], disarmed: Sequence[Disarmed]) -> None:
        """Run these guards from now on, each on an account that the engine knows.

        A guard that has not changed goes on undisturbed. One that has is run by its new rules as
        soon as its present run has ended; one that is gone leaves what it has not settled to the
        watch over its account. Where the engine is just starting, waits until it runs.
        """
        await self._started.wait()
        if self._scheduler is None or self._actions is None:
            raise RuntimeError("the engine has started without its parts")
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
        self._runners_on = {account_id: [] for account_id in self._accounts}
        for runner in runners:
            self._runners_on[runner.guard.account_id].append(runner)
        for account_id, mine in self._runners_on.items():
            books = [(runner.guard, self._books[runner.guard.id]) for runner in mine]
            self._accounts[account_id].guard_by(books)
            self._watches[account_id].guarded = bool(mine)
        return tuple(runners)

    def _book_of(self, guard: Guard) -> Book:
        """Return the one book of a guard: nothing that it remembers is forgotten."""
        book = self._books.get(guard.id)
        if book is None or book.state.account_id != guard.account_id:
            elsewhere = book
            left = self._watches[guard.account_id].take_back(guard.id)
            book = left or self._workshop.book(guard.id, guard.account_id)
            if elsewhere is not None:
                book.inherit(elsewhere.state.pause)
                self._watches[elsewhere.state.account_id].leave(elsewhere, moved=True)
            self._books[guard.id] = book
        return book

    def _scheduler_at_work(self) -> Scheduler:
        if self._stop.is_set():
            raise Refused("the guards are being stopped, or set up anew: ask again in a moment")
        if self._scheduler is None:
            raise Refused("the guards are being started: ask again in a moment")
        return self._scheduler

    def _runner(self, guard_id: GuardId) -> GuardRunner:
        """Return what runs a guard; raises `Refused` if nothing does."""
        self._scheduler_at_work()
        for runner in self._runners:
            if runner.guard.id == guard_id:
                return runner
        for one in self._disarmed:
            if one.guard_id == guard_id:
                raise Refused(f"guard {guard_id} is not run: {one.reason}")
        raise Refused(f'there is no guard "{guard_id}"')

    def _wake(self, runner: GuardRunner) -> None:
        if self._scheduler is not None:
            self._scheduler.wake(runner.guard.id)

    async def _disarm(self, disarmed: Sequence[Disarmed]) -> None:
        """Record and tell which guards of the configuration do not guard."""
        for one in disarmed:
            watch = self._watches.get(one.account_id)
            book = watch.left_by(one.guard_id) if watch is not None else None
            book = book or self._workshop.book(one.guard_id, one.account_id)
            self._idle[one.guard_id] = book
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
            await book.append(interrupted(record, users.get(record.guard_id, OWNER), now))

    def _leave_behind(self) -> None:
        """Have the watches settle the actions of guards that are not run."""
        left = {(r.account_id, r.guard_id) for r in self._workshop.unsettled}
        for account_id, guard_id in sorted(left):
            running = self._books.get(guard_id)
            if running is not None and running.state.account_id == account_id:
                continue
            if account_id in self._watches:
                book = self._workshop.book(guard_id, account_id)
                self._watches[account_id].leave(book, moved=running is not None)
                continue
            structlog.get_logger().critical(
                "action.orphaned",
                account=account_id,
                advice="an action on this account is not settled and the account is no longer"
                " configured; look at it on the exchange",
            )
