"""The engine as a whole: books opened, guards scheduled, accounts watched."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

import marginguard
from marginguard.domain.errors import ErrorCode, ErrorType
from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import PriceQuote
from marginguard.domain.records import (
    ActionRecord,
    ArmedState,
    ExecutionRecord,
    ExecutionSource,
    ExecutionStatus,
    GuardState,
)
from marginguard.domain.units import AccountId, GuardId
from marginguard.engine.account import Account
from marginguard.engine.book import Book
from marginguard.engine.executor import Executor
from marginguard.engine.guard import GuardRunner
from marginguard.engine.health import Health
from marginguard.engine.looking import Looker
from marginguard.engine.protection import Protector
from marginguard.engine.scheduler import Scheduler
from marginguard.engine.settings import EngineSettings, Guard
from marginguard.engine.stop_losses import StopLossKeeper
from marginguard.engine.watch import Watch
from marginguard.ports import (
    Clock,
    Exchange,
    Journal,
    Notifier,
    Observations,
    PriceSource,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Disarmed:
    """A guard of the configuration that is not run, and why."""

    guard_id: GuardId
    account_id: AccountId
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What the engine needs of the world around it.

    `on_refused` hears of every account whose key the exchange refused.
    """

    exchanges: Mapping[AccountId, Exchange]
    prices: Mapping[AccountId, PriceSource]
    journal: Journal
    observations: Observations
    notifier: Notifier
    clock: Clock
    new_id: Callable[[], UUID]
    on_refused: Callable[[AccountId], None]


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
        self._unsettled = tuple(surroundings.journal.unsettled_actions())
        self._states = surroundings.journal.guard_states()
        self._executors = {
            account_id: Executor(
                exchange=exchange,
                clock=surroundings.clock,
                settings=settings,
                stop=stop,
                seen_transfers=self._transfers_of(account_id),
            )
            for account_id, exchange in surroundings.exchanges.items()
        }
        self._books = {guard.id: self._book(guard.id, guard.account_id) for guard in self._guards}
        self._runners: tuple[GuardRunner, ...] = ()
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

    def _wake(self, runner: GuardRunner) -> None:
        if self._scheduler is not None:
            self._scheduler.wake(runner.guard.id)

    def armed_guards(self) -> tuple[int, int]:
        """Return how many guards are armed now, and how many the configuration has."""
        armed = sum(book.state.armed is ArmedState.ARMED for book in self._books.values())
        return armed, len(self._guards) + len(self._disarmed)

    async def run(self) -> None:
        """Guard; returns after `stop`, when the runs and actions under way have ended."""
        await self._note_interrupted()
        await self._disarm()
        accounts = self._accounts()
        async with asyncio.TaskGroup() as actions:
            self._runners = tuple(
                self._runner(guard, accounts[guard.account_id], actions) for guard in self._guards
            )
            self._scheduler = Scheduler(
                runners=self._runners,
                settings=self._settings,
                clock=self._around.clock,
                stop=self._stop,
                first_pass=self.first_pass,
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(self._scheduler.run(), name="scheduler")
                for watch in self._watches(accounts):
                    group.create_task(watch.run(), name="watch")

    def _transfers_of(self, account_id: AccountId) -> list[str]:
        """Return the transfers that proved deposits before the start."""
        return [
            spend.transfer_id
            for state in self._states.values()
            if state.account_id == account_id
            for spend in state.memory.spends
            if spend.transfer_id is not None
        ]

    def _book(self, guard_id: GuardId, account_id: AccountId) -> Book:
        known = self._states.get(guard_id)
        now = self._around.clock.now()
        state = GuardState(
            guard_id=guard_id,
            account_id=account_id,
            armed=ArmedState.DEGRADED,
            reason="starting: it has not looked yet",
            since=now,
            memory=known.memory if known else GuardMemory(),
            updated_at=now,
        )
        unsettled = (r for r in self._unsettled if r.guard_id == guard_id)
        return Book(
            state=state,
            unsettled=unsettled,
            journal=self._around.journal,
            clock=self._around.clock,
        )

    def _health(self, book: Book) -> Health:
        return Health(
            book=book,
            notifier=self._around.notifier,
            clock=self._around.clock,
            blind_after_s=self._settings.blind_after_s,
            new_id=self._around.new_id,
        )

    async def _disarm(self) -> None:
        """Record and tell which guards of the configuration do not guard."""
        for disarmed in self._disarmed:
            book = self._book(disarmed.guard_id, disarmed.account_id)
            await self._health(book).disarm(disarmed.reason)

    async def _note_interrupted(self) -> None:
        """Record the runs that the daemon's end cut short; their actions are settled later."""
        now = self._around.clock.now()
        first = {
            record.execution_id: record
            for record in reversed(self._unsettled)
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
            book = self._book(record.guard_id, record.account_id)
            await book.append(_interrupted(record, now))

    def _accounts(self) -> dict[AccountId, Account]:
        return {
            account_id: Account(
                account_id=account_id,
                guards=[
                    (guard, self._books[guard.id])
                    for guard in self._guards
                    if guard.account_id == account_id
                ],
                observations=self._around.observations,
                notifier=self._around.notifier,
                clock=self._around.clock,
                new_id=self._around.new_id,
            )
            for account_id in self._executors
        }

    def _runner(self, guard: Guard, account: Account, actions: asyncio.TaskGroup) -> GuardRunner:
        book = self._books[guard.id]
        health = self._health(book)
        health.bar(self._bars.get(guard.account_id))
        around, settings = self._around, self._settings
        executor = self._executors[guard.account_id]
        prices = around.prices[guard.account_id]
        looker = Looker(
            account=account,
            book=book,
            executor=executor,
            prices=prices,
            clock=around.clock,
            settings=settings,
        )
        return GuardRunner(
            guard=guard,
            book=book,
            health=health,
            account=account,
            executor=executor,
            looker=looker,
            protector=Protector(
                guard=guard,
                book=book,
                executor=executor,
                looker=looker,
                prices=prices,
                clock=around.clock,
                settings=settings,
                new_id=around.new_id,
            ),
            stop_losses=StopLossKeeper(
                guard=guard,
                book=book,
                executor=executor,
                notifier=around.notifier,
                clock=around.clock,
                settings=settings,
                new_id=around.new_id,
            ),
            observations=around.observations,
            notifier=around.notifier,
            clock=around.clock,
            settings=settings,
            actions=actions,
            new_id=around.new_id,
            on_refused=lambda: around.on_refused(guard.account_id),
        )

    def _watches(self, accounts: Mapping[AccountId, Account]) -> list[Watch]:
        """Watch the accounts that no guard runs on, and those with leftover actions."""
        leftover = {
            (record.account_id, record.guard_id)
            for record in self._unsettled
            if record.guard_id not in self._books
        }
        for account_id in {account_id for account_id, _ in leftover} - accounts.keys():
            structlog.get_logger().critical(
                "action.orphaned",
                account=account_id,
                advice="an action on this account is not settled and the account is no longer"
                " configured; look at it on the exchange",
            )
        guarded = {guard.account_id for guard in self._guards}
        watched = (accounts.keys() - guarded) | {account_id for account_id, _ in leftover}
        return [
            Watch(
                account=accounts[account_id],
                executor=self._executors[account_id],
                books=[
                    self._book(guard_id, account_id)
                    for owner, guard_id in sorted(leftover)
                    if owner == account_id
                ],
                prices=self._around.prices[account_id],
                settings=self._settings,
                clock=self._around.clock,
                stop=self._stop,
            )
            for account_id in sorted(watched & accounts.keys())
        ]


def _interrupted(record: ActionRecord, now: datetime) -> ExecutionRecord:
    return ExecutionRecord(
        id=record.execution_id,
        guard_id=record.guard_id,
        account_id=record.account_id,
        user_id="owner",
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
