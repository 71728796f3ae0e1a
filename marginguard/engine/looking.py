"""One look at an account and the market: everything a decision needs, read just now."""

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from marginguard.domain.breach import covers
from marginguard.domain.errors import MarginguardError, StaleData
from marginguard.domain.model import Balance, MarginMode, Position, PriceQuote
from marginguard.domain.records import ActionRecord, ExecutionSource
from marginguard.engine.account import Account
from marginguard.engine.book import Book
from marginguard.engine.execution import Execution
from marginguard.engine.executor import Executor
from marginguard.engine.settings import EngineSettings
from marginguard.ports import Clock, PriceSource

SHARED_FOR_S: Final = 1.0
"""How long what one guard read of its account is good enough for the routine look of another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """Everything that one look at the account and the market brought."""

    positions: tuple[Position, ...]
    balance: Balance | None
    quote: PriceQuote
    read_at_s: float
    recovered: tuple[ActionRecord, ...]


class Looker:
    """Reads for one guard: account, positions, price; and settles what was left unsettled."""

    def __init__(
        self,
        *,
        account: Account,
        book: Book,
        executor: Executor,
        prices: PriceSource,
        clock: Clock,
        settings: EngineSettings,
    ) -> None:
        self._account = account
        self._book = book
        self._executor = executor
        self._prices = prices
        self._clock = clock
        self._settings = settings

    async def look(self, execution: Execution) -> Sight:
        """Read everything, each phase timed in `execution`.

        Raises what the reads of balance, positions and price raise, and `StaleData` if they took
        too long to act on.
        """
        max_age_s = self._max_age_s(execution)
        # What the read shows may be as old as that: it is not taken for any younger.
        read_at_s = self._clock.monotonic() - max_age_s
        with execution.timed("positions"):
            balance, positions = await self._read_account(max_age_s)
        rules, memory = execution.guard.rules, self._book.memory
        execution.positions_total = sum(covers(rules, memory, one.id) for one in positions)
        with execution.timed("settling"):
            recovered = await self._settle(positions, read_at_s)
        for position in positions:
            # What the P&L of the cross position includes is not documented.
            if position.mode is MarginMode.ISOLATED:
                self._prices.bear_out(position)
        with execution.timed("price"):
            quote = await self._prices.quote()
        price_age_s = self._clock.monotonic() - quote.received_s
        if price_age_s > self._settings.stale_after_s:
            raise StaleData(f"the price is {price_age_s:.1f} s old")
        read_age_s = self._clock.monotonic() - read_at_s
        if read_age_s > self._settings.view_max_age_s:
            raise StaleData(f"the read of the positions is {read_age_s:.1f} s old")
        execution.price = quote.last
        return Sight(
            positions=positions,
            balance=balance,
            quote=quote,
            read_at_s=read_at_s,
            recovered=recovered,
        )

    def _max_age_s(self, execution: Execution) -> float:
        """Return how old a read may be that another guard of the account made.

        A routine look shares it. One that something called for, or by which an action is to be
        settled, reads anew.
        """
        routine = execution.source is ExecutionSource.SCHEDULE
        return SHARED_FOR_S if routine and not self._book.unsettled else 0.0

    async def _read_account(self, max_age_s: float) -> tuple[Balance | None, tuple[Position, ...]]:
        """Read balance and positions at once; closing does without the balance."""
        exchange = self._executor.exchange
        balance, positions = await asyncio.gather(
            exchange.balance(max_age_s=max_age_s),
            exchange.running_positions(max_age_s=max_age_s),
            return_exceptions=True,
        )
        if isinstance(positions, BaseException):
            raise positions
        if isinstance(balance, MarginguardError):
            structlog.get_logger().warning(
                "balance.unknown",
                guard=self._book.state.guard_id,
                error=str(balance),
                advice="nothing is spent until the account can be read; closing goes on",
            )
            return None, positions
        if isinstance(balance, BaseException):
            raise balance
        return balance, positions

    async def _settle(
        self, positions: tuple[Position, ...], read_at_s: float
    ) -> tuple[ActionRecord, ...]:
        """Settle side by side what can be settled; return the protective steps that changed.

        How one ended is told at once: what comes after it may fail.
        """
        left = [
            record
            for record in self._book.unsettled
            if record.position_id not in self._executor.in_flight
            and not (record.is_reopening and record.sent_at is None)
        ]
        settled = await asyncio.gather(
            *(self._settle_one(record, positions, read_at_s) for record in left)
        )
        return tuple(
            new
            for old, new in zip(left, settled, strict=True)
            if new is not old and new.kind.protects
        )

    async def _settle_one(
        self, record: ActionRecord, positions: tuple[Position, ...], read_at_s: float
    ) -> ActionRecord:
        settled = await self._executor.settle(record, self._book, positions, read_at_s)
        if settled is not record:
            self._account.ended(settled)
        return settled
