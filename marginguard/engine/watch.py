"""Looking after what no running guard looks after: whole accounts and leftover actions."""

import asyncio

import structlog

from marginguard.aio import sleep_or_stop
from marginguard.domain.errors import MarginguardError, Unauthorized
from marginguard.domain.units import GuardId
from marginguard.engine.account import Account
from marginguard.engine.book import Book
from marginguard.engine.executor import Executor
from marginguard.engine.health import UNAUTHORIZED_PAUSE_S
from marginguard.engine.settings import EngineSettings
from marginguard.ports import Clock, PriceSource


class Watch:
    """Reads one account at the interval while no guard of it runs, or one has left actions behind.

    Its positions are spoken of as not covered, and actions of a guard that is now disabled,
    refused or no longer configured are settled.
    """

    def __init__(
        self,
        *,
        account: Account,
        executor: Executor,
        prices: PriceSource,
        settings: EngineSettings,
        clock: Clock,
        stop: asyncio.Event,
    ) -> None:
        self._account = account
        self._executor = executor
        self._left: dict[GuardId, Book] = {}
        self._moved: set[GuardId] = set()
        self.guarded = False
        """Whether a guard of the account runs."""
        self._prices = prices
        self._settings = settings
        self._clock = clock
        self._stop = stop
        self._log = structlog.get_logger().bind(account=account.id)

    def leave(self, book: Book, *, moved: bool = False) -> None:
        """Look after what a guard that runs no more has left behind.

        One that has `moved` to another account has its state in the book there.
        """
        self._left[book.state.guard_id] = book
        if moved:
            self._moved.add(book.state.guard_id)

    def left_by(self, guard_id: GuardId) -> Book | None:
        """Return the book that a guard has left here, if it has."""
        return self._left.get(guard_id)

    @property
    def left(self) -> tuple[Book, ...]:
        """The books that guards have left here."""
        return tuple(self._left.values())

    def take_back(self, guard_id: GuardId) -> Book | None:
        """Return the book of a guard that runs again, if it is here."""
        self._moved.discard(guard_id)
        return self._left.pop(guard_id, None)

    @property
    def _needed(self) -> bool:
        left = self._left.values()
        return not self.guarded or any(book.unsettled or not book.writable for book in left)

    async def run(self) -> None:
        """Look at the interval until `stop` is set."""
        while not self._stop.is_set():
            delay_s = self._settings.interval_s
            if not self._needed:
                await sleep_or_stop(delay_s, self._stop)
                continue
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    await self._look()
            except TimeoutError:
                self._warn(f"reading took longer than {self._settings.timeout_s:g} s")
            except Unauthorized as error:
                delay_s = max(delay_s, UNAUTHORIZED_PAUSE_S)
                self._warn(str(error))
            except MarginguardError as error:
                self._warn(str(error))
            await self._account.ends.tell()
            await sleep_or_stop(delay_s, self._stop)

    async def _look(self) -> None:
        read_at_s = self._clock.monotonic()
        positions = await self._executor.exchange.running_positions()
        for guard_id, book in tuple(self._left.items()):
            for record in book.unsettled:
                settled = await self._executor.settle(record, book, positions, read_at_s)
                if settled is not record:
                    self._account.ended(settled)
            if guard_id not in self._moved:
                await book.keep()
        left = (record for book in self._left.values() for record in book.unsettled)
        self._account.report(
            positions,
            await self._prices.quote(),
            read_at_s=read_at_s,
            left_behind=frozenset(r.position_id for r in left if not r.frozen),
        )

    def _warn(self, error: str) -> None:
        self._log.warning(
            "account.unreadable",
            error=error,
            advice="whether this account has positions is unknown until a read works",
        )
