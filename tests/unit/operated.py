"""An engine over a fake exchange and the operator before it. Time is the loop's own."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from uuid_utils.compat import uuid7

from marginguard.app.operator import DaemonOperator
from marginguard.config.models import DaemonSettings
from marginguard.domain.model import ActionKind
from marginguard.domain.records import CommandRecord, ExecutionSource, GuardState
from marginguard.engine.engine import Engine, Surroundings
from marginguard.engine.settings import EngineSettings, Guard
from marginguard.telemetry.measured import MeasuredJournal
from marginguard.telemetry.metrics import Metrics
from tests.unit.fakes import Ears, FakeExchange, FakeJournal, FakePrices
from tests.unit.strategies import NOON, a_position, price_at, some_rules

ADD = ActionKind.ADD_MARGIN
CLOSE = ActionKind.CLOSE_POSITION
BY = "root (control socket)"
RUN_NOW = ExecutionSource.RUN_NOW


class LoopClock:
    def __init__(self):
        self.start_s = asyncio.get_running_loop().time()

    def monotonic(self):
        return asyncio.get_running_loop().time() - self.start_s

    def now(self):
        return NOON + timedelta(seconds=self.monotonic())


def a_guard(guard_id="guard-1", **rules):
    rules = {"action": CLOSE, **rules}
    return Guard(
        id=guard_id,
        account_id="main",
        user_id="owner",
        rules=replace(some_rules(**rules), guard_id=guard_id),
        real_time_monitoring=False,
    )


class Named:
    """As much of a guard's configuration as the operator asks for."""

    def __init__(self, guard_id, account="main"):
        self.id, self.account = guard_id, account


class Known:
    """As much of a configuration."""

    def __init__(self, guards, refused=()):
        self.guards = [Named(one) for one in guards]
        self.refused_guards = [Named(one) for one in refused]
        self.daemon = DaemonSettings(state_dir=Path("/nowhere"))


class Running:
    """An engine over a fake exchange, and the operator before it."""

    def __init__(
        self,
        *guards,
        positions=(),
        disarmed=(),
        journal=None,
        accounts=("main",),
        set_up=lambda _daemon, _exchange: None,
    ):
        self.clock = LoopClock()
        self.exchange = FakeExchange(*(positions or (a_position(),)))
        self.exchange.clock = self.clock
        self.prices = FakePrices(self.clock)
        self.journal = journal or FakeJournal()
        self.ears = Ears()
        self.stop = asyncio.Event()
        self.left = {}
        self.reloads = []
        self.guards = guards or (a_guard(),)
        self.config = Known([one.id for one in self.guards], [one.guard_id for one in disarmed])
        self.operator = DaemonOperator(
            clock=self.clock,
            journal=self.journal,
            engine=lambda: self.engine,
            config=lambda: self.config,
            left=lambda: self.left,
            reload=self.reload,
            stopping=self.stop.is_set,
        )
        self.engine = None
        self.exchanges = dict.fromkeys(accounts, self.exchange)
        set_up(self, self.exchange)
        self.made = Engine(
            guards=self.guards,
            disarmed=disarmed,
            surroundings=Surroundings(
                exchanges=self.exchanges,
                prices=dict.fromkeys(accounts, self.prices),
                journal=MeasuredJournal(
                    self.journal, Metrics(), plans={}, on_action=self.operator.heard
                ),
                observations=self.ears,
                notifier=self.ears,
                clock=self.clock,
                new_id=uuid7,
                on_refused=lambda _account_id: None,
            ),
            settings=EngineSettings(settle_delay_s=0.0, action_base_delay_s=0.0),
            stop=self.stop,
        )

    async def reload(self):
        self.reloads.append(self.clock.now())
        return "The changed configuration is in force."

    def market(self, level):
        self.prices.price = self.exchange.fill_price = price_at(a_position(), level)

    def commands(self):
        return self.journal.of(CommandRecord)

    def last_state(self, guard_id="guard-1"):
        return [s for s in self.journal.of(GuardState) if s.guard_id == guard_id][-1]

    def sources(self):
        return [r.source for r in self.journal.records if hasattr(r, "positions_total")]


@asynccontextmanager
async def running(*guards, **parts):
    daemon = Running(*guards, **parts)
    async with asyncio.TaskGroup() as group:
        daemon.engine = daemon.made
        group.create_task(daemon.made.run())
        await daemon.made.first_pass.wait()
        try:
            yield daemon
        finally:
            daemon.stop.set()


async def minutes(number):
    await asyncio.sleep(60.0 * number)
