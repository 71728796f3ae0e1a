"""Ten-line stand-ins for the engine's surroundings."""

import asyncio
from collections import deque
from dataclasses import replace
from datetime import timedelta

import pytest
from uuid_utils.compat import uuid7

from marginguard.domain.errors import DiskFull, Unreachable
from marginguard.domain.ledger import state_after
from marginguard.domain.margin import profit_and_loss
from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import (
    Balance,
    ClosedTrade,
    CrossOrder,
    OrderType,
    PriceQuote,
    Transfer,
)
from marginguard.domain.outcome import Outcome, OutcomeKind
from marginguard.domain.pause import Pause
from marginguard.domain.records import ActionRecord, ArmedState, ExecutionSource, GuardState
from marginguard.engine.account import Account
from marginguard.engine.book import Book
from marginguard.engine.executor import Executor
from marginguard.engine.guard import GuardRunner
from marginguard.engine.health import Health
from marginguard.engine.hooks import NO_HOOKS
from marginguard.engine.looking import Looker
from marginguard.engine.protection import Protector
from marginguard.engine.settings import EngineSettings, Guard
from marginguard.engine.stop_losses import StopLossKeeper
from tests.unit.strategies import NOON, a_position, price_at, some_rules

PROMPT = EngineSettings(action_base_delay_s=0.0, settle_delay_s=0.0, timeout_s=5.0)
"""Settings under which nothing waits."""


class Crash(BaseException):
    """The process dies."""


class FakeClock:
    """A clock that is moved by hand."""

    def __init__(self):
        self.elapsed_s = 1000.0
        self.wall_offset = timedelta(0)

    def now(self):
        return NOON + timedelta(seconds=self.elapsed_s - 1000.0) + self.wall_offset

    def monotonic(self):
        return self.elapsed_s

    def advance(self, seconds):
        self.elapsed_s += seconds


class FakeJournal:
    def __init__(self):
        self.records = []
        self.full = False

    async def append(self, *records, patience_s=0.0):
        if self.full:
            raise DiskFull("no space left on the device")
        self.records.extend(records)

    def unsettled_actions(self):
        newest = {r.id: r for r in self.records if isinstance(r, ActionRecord)}
        return [r for r in newest.values() if not r.status.settled]

    def guard_states(self):
        states = {}
        for record in self.records:
            if isinstance(record, GuardState):
                states[record.guard_id] = record
            elif isinstance(record, ActionRecord) and record.guard_id in states:
                states[record.guard_id] = state_after(states[record.guard_id], record)
        return states

    def of(self, kind):
        return [r for r in self.records if isinstance(r, kind)]


class FakeExchange:
    """Holds positions; `script` says how the next changing calls end: (processed, outcome)."""

    def __init__(self, *positions, balance=10_000_000):
        self.positions = {p.id: p for p in positions}
        self.available = balance
        self.closed = {}
        self.transfers = []
        self.orders = []
        self.ids = 0
        self.clock = None
        self.script = deque()
        self.calls = []
        self.resyncs = 0
        self.fill_price = 95_000.0
        self.read_errors = deque()
        self.balance_error = None
        self.on_call = lambda: None
        self.dies_at = None

    async def balance(self, *, max_age_s=0.0):
        if self.balance_error is not None:
            raise self.balance_error
        return Balance(account_id="main", available=self.available)

    async def running_positions(self, *, max_age_s=0.0):
        if self.read_errors:
            error = self.read_errors.popleft()
            if error is not None:
                raise error
        return tuple(self.positions.values())

    async def closed_trade(self, position_id, since):
        return self.closed.get(position_id)

    async def close_position(self, position_id):
        return self._answer(("close", position_id), lambda: self.end(position_id))

    async def add_margin(self, position_id, amount):
        return self._answer(
            ("add_margin", position_id, amount), lambda: self.top_up(position_id, amount)
        )

    async def deposits(self, since):
        return tuple(t for t in self.transfers if t.at >= since)

    async def closed_by_client_id(self, client_id, since):
        return next((t for t in self.closed.values() if t.client_id == client_id), None)

    async def cross_order(self, client_id, since):
        return next((o for o in self.orders if o.client_id == client_id), None)

    async def reduce_cross(self, side, quantity, client_id):
        call = ("reduce_cross", side.value, quantity, client_id)
        return self._answer(call, lambda: self.cut(side, quantity, client_id))

    async def open_trade(self, order):
        return self._answer(("open_trade", order), lambda: self.open(order))

    async def set_stop_loss(self, position_id, price):
        return self._answer(
            ("set_stop_loss", position_id, price), lambda: self.stop(position_id, price)
        )

    async def resync_clock(self):
        self.resyncs += 1

    def end(self, position_id, price=None):
        ended = self.positions.pop(position_id, None)
        price = price or self.fill_price
        if ended is not None:
            self.closed[position_id] = ClosedTrade(
                id=position_id,
                exit_price=price,
                pl=profit_and_loss(ended, price),
                closed_at=NOON,
                client_id=ended.client_id,
            )

    def top_up(self, position_id, amount):
        before = self.positions[position_id]
        if position_id == "cross":
            self.transfers.append(
                Transfer(id=str(len(self.transfers)), amount=amount, at=self.clock.now())
            )
        self.positions[position_id] = replace(before, margin=before.margin + amount)

    def cut(self, side, quantity, client_id):
        before = self.positions["cross"]
        self.positions["cross"] = replace(before, quantity=before.quantity - quantity)
        self.orders.append(
            CrossOrder(
                id=str(len(self.orders)),
                type=OrderType.MARKET,
                side=side,
                quantity=quantity,
                price=self.fill_price,
                trading_fee=0,
                created_at=self.clock.now(),
                filled_at=self.clock.now(),
                client_id=client_id,
            )
        )

    def open(self, order):
        self.ids += 1
        trade_id = f"reopened-{self.ids}"
        margin = int(order.quantity * 100_000_000 / (order.leverage * self.fill_price))
        self.positions[trade_id] = a_position(
            id=trade_id,
            side=order.side,
            quantity=order.quantity,
            entry_price=self.fill_price,
            margin=margin,
            entry_margin=margin,
            leverage=order.leverage,
            stop_loss=order.stop_loss,
            take_profit=order.take_profit,
            client_id=order.client_id,
        )

    def stop(self, position_id, price):
        self.positions[position_id] = replace(self.positions[position_id], stop_loss=price)

    def _answer(self, call, process):
        self.calls.append(call)
        self.on_call()
        processed, answer = self.script.popleft() if self.script else (True, done())
        if processed:
            process()
        if self.dies_at is not None and len(self.calls) >= self.dies_at:
            raise Crash
        return answer


class FakePrices:
    def __init__(self, clock, price=100_000.0):
        self.clock = clock
        self.price = price
        self.confirmed = True
        self.age_s = 0.0

    async def quote(self):
        if self.price is None:
            raise Unreachable("no price")
        return PriceQuote(
            last=self.price,
            index=self.price,
            received_s=self.clock.monotonic() - self.age_s,
            confirmed=self.confirmed,
        )

    def bear_out(self, position):
        self.borne_out_by = position


class Ears:
    """Notifier and observations in one: remembers what it is told."""

    def __init__(self):
        self.notices = []
        self.seen = {}
        self.checks = 0

    def tell(self, notice):
        self.notices.append(notice)

    def positions(self, account_id, seen, at):
        self.seen[account_id] = seen

    def checked(self, guard_id, account_id, at):
        self.checks += 1

    def kinds(self):
        return [notice.kind.value for notice in self.notices]


class Rig:
    """One guard over a fake exchange, run by hand."""

    def __init__(
        self,
        *positions,
        settings=PROMPT,
        dry_run=False,
        balance=10_000_000,
        real_time_monitoring=True,
        **rules,
    ):
        self.clock = FakeClock()
        self.journal = FakeJournal()
        self.exchange = FakeExchange(*(positions or (a_position(),)), balance=balance)
        self.exchange.clock = self.clock
        self.prices = FakePrices(self.clock)
        self.ears = Ears()
        self.refusals = []
        self.hooks = NO_HOOKS
        self.settings = settings
        self.guard = Guard(
            id="guard-1",
            account_id="main",
            user_id="owner",
            rules=some_rules(**rules),
            dry_run=dry_run,
            real_time_monitoring=real_time_monitoring,
        )
        self.stop = asyncio.Event()
        self.start()

    def market(self, position, level):
        """Move the market to where `position` has used up `level` % of its margin."""
        self.prices.price = self.exchange.fill_price = price_at(position, level)

    def reconfigure(self, *, dry_run=False, **rules):
        """Restart with another configuration."""
        self.guard = replace(self.guard, rules=some_rules(**rules), dry_run=dry_run)
        self.start()

    async def crash(self, call, *, processed):
        """Run until the process dies in the call of this number (from 1), and start another one.

        `processed` says whether the exchange carries that call out.
        """
        exchange = self.exchange
        exchange.script.extend([(True, done())] * (call - 1 - len(exchange.calls)))
        exchange.script.append((processed, done()))
        exchange.dies_at = call
        with pytest.raises(BaseExceptionGroup):
            await self.run()
        exchange.dies_at = None
        self.start()

    def start(self):
        """Make everything that a (re)started process makes, from what the journal holds."""
        self.executor = Executor(
            exchange=self.exchange, clock=self.clock, settings=self.settings, stop=self.stop
        )
        known = self.journal.guard_states().get("guard-1")
        self.book = Book(
            state=GuardState(
                guard_id="guard-1",
                account_id="main",
                armed=ArmedState.DEGRADED,
                reason="starting",
                since=self.clock.now(),
                memory=known.memory if known else GuardMemory(),
                updated_at=self.clock.now(),
                pause=known.pause if known else None,
            ),
            unsettled=self.journal.unsettled_actions(),
            journal=self.journal,
            clock=self.clock,
        )
        self.account = Account(
            account_id="main",
            guards=[(self.guard, self.book)],
            executor=self.executor,
            observations=self.ears,
            notifier=self.ears,
            clock=self.clock,
            new_id=uuid7,
        )

    async def run(self, source=ExecutionSource.SCHEDULE):
        async with asyncio.TaskGroup() as actions:
            runner = getattr(self, "_runner", None)
            if runner is None or runner._book is not self.book:
                self._runner = runner = self._make_runner(actions)
            runner._actions = actions
            return await runner.run(source)

    def _make_runner(self, actions):
        looker = Looker(
            account=self.account,
            book=self.book,
            executor=self.executor,
            prices=self.prices,
            clock=self.clock,
            settings=self.settings,
        )
        common = {
            "guard": self.guard,
            "book": self.book,
            "executor": self.executor,
            "clock": self.clock,
            "settings": self.settings,
            "new_id": uuid7,
        }
        return GuardRunner(
            protector=Protector(looker=looker, prices=self.prices, **common),
            stop_losses=StopLossKeeper(notifier=self.ears, **common),
            guard=self.guard,
            book=self.book,
            health=Health(
                book=self.book,
                notifier=self.ears,
                clock=self.clock,
                blind_after_s=self.settings.blind_after_s,
                new_id=uuid7,
            ),
            account=self.account,
            executor=self.executor,
            looker=looker,
            observations=self.ears,
            notifier=self.ears,
            clock=self.clock,
            settings=self.settings,
            actions=actions,
            new_id=uuid7,
            on_refused=lambda: self.refusals.append(self.clock.monotonic()),
            hooks=self.hooks,
        )

    async def pause(self, span_s, *, by="root (control socket)"):
        """Pause the guard, which has run before, for so many seconds."""
        until = self.clock.now() + timedelta(seconds=span_s)
        return await self._runner.pause(Pause(until=until, by=by))

    async def resume(self):
        return await self._runner.resume()

    def breached_at(self, price):
        runner = getattr(self, "_runner", None)
        quote = PriceQuote(last=price, index=price, received_s=self.clock.monotonic())
        return runner is not None and runner.breached_at(quote)

    def next_look_s(self, beat_s):
        return self._runner.next_look_s(beat_s)

    def actions(self):
        """Return the newest record of every action, oldest first."""
        return list({r.id: r for r in self.journal.of(ActionRecord)}.values())


def done():
    return Outcome(kind=OutcomeKind.DONE, detail="done")


def ambiguous():
    return Outcome(kind=OutcomeKind.AMBIGUOUS, detail="no answer within 5 s")


def not_sent():
    return Outcome(kind=OutcomeKind.NOT_SENT, detail="connection refused")


def busy(retry_after_s=0.0):
    return Outcome(kind=OutcomeKind.BUSY, detail="busy", retry_after_s=retry_after_s)


def rejected(*, unauthorized=False):
    return Outcome(kind=OutcomeKind.REJECTED, detail="refused", unauthorized=unauthorized)
