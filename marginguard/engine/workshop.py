"""Making the parts that run a guard, from what the engine has around it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from marginguard.domain.memory import GuardMemory
from marginguard.domain.pause import Pause
from marginguard.domain.records import ActionRecord, ArmedState, GuardState
from marginguard.domain.units import AccountId, GuardId, PositionId
from marginguard.engine.account import Account
from marginguard.engine.book import Book
from marginguard.engine.executor import Executor
from marginguard.engine.guard import GuardRunner
from marginguard.engine.health import Health
from marginguard.engine.hooks import NO_HOOKS, Hooks
from marginguard.engine.looking import Looker
from marginguard.engine.protection import Protector
from marginguard.engine.settings import EngineSettings, Guard
from marginguard.engine.stop_losses import StopLossKeeper
from marginguard.engine.watch import Watch
from marginguard.ports import Clock, Exchange, Journal, Notifier, Observations, PriceSource


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What the engine needs of the world around it.

    `on_refused` hears of every account whose key the exchange refused. `barred` says why this
    daemon must not act on an account at this moment, or None.
    """

    exchanges: Mapping[AccountId, Exchange]
    prices: Mapping[AccountId, PriceSource]
    journal: Journal
    observations: Observations
    notifier: Notifier
    clock: Clock
    new_id: Callable[[], UUID]
    on_refused: Callable[[AccountId], None]
    hooks: Hooks = field(default=NO_HOOKS)
    barred: Callable[[AccountId], Awaitable[str | None]] | None = None


class Workshop:
    """Makes books, accounts and runners; each account has one executor for all its guards.

    What guards remember and have not settled is taken from the journal once, at the start.
    """

    def __init__(
        self, *, surroundings: Surroundings, settings: EngineSettings, stop: asyncio.Event
    ) -> None:
        self._around = surroundings
        self._settings = settings
        self._stop = stop
        self.unsettled: Sequence[ActionRecord] = tuple(surroundings.journal.unsettled_actions())
        self._states = surroundings.journal.guard_states()
        self._executors = {
            account_id: Executor(
                exchange=exchange,
                clock=surroundings.clock,
                settings=settings,
                stop=stop,
                seen_transfers=self._transfers_of(account_id),
                barred=_barred(surroundings, account_id),
            )
            for account_id, exchange in surroundings.exchanges.items()
        }

    @property
    def account_ids(self) -> Sequence[AccountId]:
        """The accounts that can be reached."""
        return tuple(self._executors)

    def in_flight(self, account_id: AccountId) -> frozenset[PositionId]:
        """Return the positions of an account that an action is being carried out on."""
        return self._executors[account_id].in_flight

    def book(self, guard_id: GuardId, account_id: AccountId) -> Book:
        """Return a new book of a guard, as the journal had it at the start.

        What the guard has left unsettled on another account is not in it.
        """
        known = self._states.get(guard_id)
        now = self._around.clock.now()
        pause = _pause_left(known, now)
        armed, reason = ArmedState.DEGRADED, "starting: it has not looked yet"
        if pause is not None and pause.left(now):
            armed, reason = ArmedState.DISARMED, f"{pause}: it alerts and does nothing"
        state = GuardState(
            guard_id=guard_id,
            account_id=account_id,
            armed=armed,
            reason=reason,
            since=now,
            memory=known.memory if known else GuardMemory(),
            updated_at=now,
            pause=pause,
        )
        return Book(
            state=state,
            unsettled=(
                record
                for record in self.unsettled
                if (record.guard_id, record.account_id) == (guard_id, account_id)
            ),
            journal=self._around.journal,
            clock=self._around.clock,
        )

    def health(self, book: Book) -> Health:
        """Return what keeps the armed state in a book."""
        return Health(
            book=book,
            notifier=self._around.notifier,
            clock=self._around.clock,
            blind_after_s=self._settings.blind_after_s,
            new_id=self._around.new_id,
        )

    def account(self, account_id: AccountId) -> Account:
        """Return an account that no guard looks after yet."""
        return Account(
            account_id=account_id,
            guards=(),
            executor=self._executors[account_id],
            observations=self._around.observations,
            notifier=self._around.notifier,
            clock=self._around.clock,
            new_id=self._around.new_id,
        )

    def watch(self, account: Account) -> Watch:
        """Return what looks after an account where no guard does."""
        return Watch(
            account=account,
            executor=self._executors[account.id],
            prices=self._around.prices[account.id],
            settings=self._settings,
            clock=self._around.clock,
            stop=self._stop,
        )

    def runner(
        self,
        guard: Guard,
        *,
        book: Book,
        account: Account,
        actions: asyncio.TaskGroup,
        barred: str | None,
    ) -> GuardRunner:
        """Return what runs a guard; `barred` says why it cannot guard, or is None."""
        around, settings = self._around, self._settings
        executor = self._executors[guard.account_id]
        prices = around.prices[guard.account_id]
        health = self.health(book)
        health.bar(barred)
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
            hooks=around.hooks,
        )

    def _transfers_of(self, account_id: AccountId) -> list[str]:
        """Return the transfers that proved deposits before the start."""
        return [
            spend.transfer_id
            for state in self._states.values()
            if state.account_id == account_id
            for spend in state.memory.spends
            if spend.transfer_id is not None
        ]


def _pause_left(known: GuardState | None, now: datetime) -> Pause | None:
    """Return the pause that a guard had, no longer than it was yet when it was written down.

    It would be longer where the wall clock has been set back since.
    """
    if known is None or known.pause is None:
        return None
    pause = known.pause
    return replace(pause, until=min(pause.until, now + (pause.until - known.updated_at)))


def _barred(
    surroundings: Surroundings, account_id: AccountId
) -> Callable[[], Awaitable[str | None]] | None:
    barred = surroundings.barred
    return None if barred is None else lambda: barred(account_id)
