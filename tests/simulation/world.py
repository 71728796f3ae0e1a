"""One seed, played: the exchange, the weather, and one process after another."""

import random
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from marginguard.domain.model import PriceQuote
from marginguard.engine.engine import Disarmed
from marginguard.simulator.exchange import Exchange, seeded_ids
from tests.simulation.befalling import befall
from tests.simulation.faults import Faults
from tests.simulation.invariants import Invariants
from tests.simulation.journal import Disk
from tests.simulation.ledger import Ledger, Request, Wish
from tests.simulation.logs import logging_to
from tests.simulation.loop import Agenda
from tests.simulation.opening import open_account
from tests.simulation.process import Process
from tests.simulation.scenario import GuardPlan, Life, Scenario
from tests.simulation.venue import positions_of

BEGIN_S = 1000.0
TICK_S = 5.0
STOPPING_S = 120.0
CALM = "from here on nothing goes wrong"


@dataclass(kw_only=True)
class Result:
    """What came of a seed: what was wrong, how much happened, and the log if it was asked for."""

    seed: str
    violations: list[str]
    counts: Counter
    steps: int
    lines: list[str] = field(default_factory=list)


def play(scenario: Scenario, *, verbose: bool = False) -> Result:
    """Play a scenario to its end, or to the first violation of an invariant."""
    world = World(scenario, verbose=verbose)
    with logging_to(world if verbose else None):
        try:
            world.run()
        except Exception as error:  # noqa: BLE001 - whatever breaks a seed, it must be named
            world.violations.append(f"the simulation itself failed: {error!r}")
            world.lines += traceback.format_exc().splitlines()
    return Result(
        seed=scenario.seed,
        violations=world.violations,
        counts=world.counts,
        steps=world.steps,
        lines=world.lines,
    )


class World:
    """All that is not the engine. What a process does to it goes through its ports."""

    def __init__(self, scenario: Scenario, *, verbose: bool) -> None:
        self.scenario = scenario
        self.agenda = Agenda(BEGIN_S)
        self.rng = random.Random(f"{scenario.seed}/world")
        self.counts: Counter = Counter()
        self.lines: list[str] = []
        self.violations: list[str] = []
        self.steps = 0
        self.prices: list[tuple[float, float]] = []
        self.wall_offset_s = 0.0
        self._verbose = verbose
        self.faults = Faults(scenario.seed, scenario.weather, self.agenda, self.counts, self.log)
        self.ledger = Ledger()
        self.disk = Disk(self)
        self.process: Process | None = None
        self.number = 0
        self._over = False
        self._ids = seeded_ids(int(self.rng.getrandbits(60)))
        self.exchange = Exchange(
            price=scenario.path[0][1],
            ids=seeded_ids(int(self.rng.getrandbits(60))),
            spread=scenario.spread,
            losing_reduction_books_loss=scenario.books_loss,
        )
        self.guards: tuple[GuardPlan, ...] = ()
        self._seen_price = (scenario.path[0][1], BEGIN_S)
        self.invariants = Invariants(self)

    def run(self) -> None:
        """Play everything that the scenario says, then a quiet time, then hold the records up."""
        self._prepare()
        lives = [*self.scenario.lives]
        while not (self._over or self.violations):
            life = lives.pop(0) if lives and self.faults.on else Life()
            self._live(life)
            if not self._over:
                self.down_until(self.agenda.now_s + (life.down_s if self.faults.on else 1.0))
        if not self.violations:
            self.invariants.at_the_end()

    def true_time(self) -> datetime:
        """Return the exchange's time of day."""
        return self.scenario.start + timedelta(seconds=self.agenda.now_s - BEGIN_S)

    def wall_time(self) -> datetime:
        """Return the time of day as our machine has it."""
        return self.true_time() + timedelta(seconds=self.wall_offset_s)

    def account(self, account_id: str):
        """Return the simulated account of this id."""
        return self.exchange.account(account_id)

    def positions(self, account_id: str):
        """Return the account's running positions as they truly are."""
        return positions_of(self.exchange, self.account(account_id))

    def quote(self) -> PriceQuote:
        """Return the true price."""
        last = self.exchange.last
        return PriceQuote(last=last, index=last, received_s=self.agenda.now_s)

    def new_id(self) -> UUID:
        """Return the next id."""
        return next(self._ids)

    def guards_now(self) -> tuple[GuardPlan, ...]:
        """Return the guards that the configuration has enabled."""
        if self._disabled():
            return self.guards[1:]
        return self.guards

    def disarmed_now(self) -> tuple[Disarmed, ...]:
        """Return the guards that the configuration has disabled."""
        if not self._disabled():
            return ()
        guard = self.guards[0].guard
        return (Disarmed(guard_id=guard.id, account_id=guard.account_id, reason="enabled = false"),)

    def _disabled(self) -> bool:
        return self.scenario.disabled_later and self.number > 1

    def violate(self, what: str) -> None:
        """Note that an invariant does not hold, and stop."""
        self.violations.append(f"{self._stamp()} {what}")
        self.log(f"VIOLATION: {what}")
        if self.process is not None and self.process.alive:
            self.process.alive = False
            self.process.loop.stop()

    def log(self, line: str) -> None:
        """Write a line into the event log, if there is one."""
        if self._verbose:
            self.lines.append(f"{self._stamp()} {line}")

    def mute(self, call: Callable[[], None]) -> None:
        """Call without a word in the event log: what a dead process says nobody hears."""
        verbose, self._verbose = self._verbose, False
        try:
            call()
        finally:
            self._verbose = verbose

    def took_step(self, name: str) -> None:
        """Count a step of the process."""
        self.steps += 1
        self.log(f"step {self.steps}: {name}")

    def signed(self, wish: Wish, account_id: str) -> Request:
        """Take note of a request that is on its way now."""
        request = Request(
            wish=wish,
            account=account_id,
            record=self.invariants.intent_of(wish, account_id),
            signed_s=self.agenda.now_s,
            process=self.number,
        )
        self.invariants.signed(request)
        self.ledger.requests.append(request)
        return request

    def applied(self, request: Request) -> None:
        """Take note of a request that the exchange has just carried out."""
        self.counts[f"applied {request.wish.call}"] += 1
        self.invariants.applied(request)
        self._tell_of_account(request.account)

    def heard(self, notice) -> None:
        """Take note of what the owner is told."""
        self.counts[f"notice {notice.kind.value}"] += 1
        self.log(f"notice {notice.kind.value}: {notice.text}")
        self.invariants.heard(notice)

    def changed_by_others(self, account_id: str, position_id: str, how: str) -> None:
        """Take note of what neither we nor the price did to a position."""
        self.ledger.foreign.append((self.agenda.now_s, account_id, position_id, how))
        self.invariants.disturbed()
        self._tell_of_account(account_id)

    def down_until(self, until_s: float) -> None:
        """Let time pass without a process."""
        self.process = None
        self.agenda.pass_time(until_s)

    def _prepare(self) -> None:
        for plan in self.scenario.accounts:
            open_account(self, plan)
        self.guards = tuple(self._with_selection(plan) for plan in self.scenario.guards)
        for at_s, price in self.scenario.path:
            self.agenda.at(BEGIN_S + at_s, lambda price=price: self._move(price))
        for happening in self.scenario.happenings:
            self.agenda.at(
                BEGIN_S + happening.at_s, lambda happening=happening: befall(self, happening)
            )
        self.agenda.at(BEGIN_S + self.scenario.duration_s, self._calm_down)
        self.agenda.after(TICK_S, self._tick)

    def _with_selection(self, plan: GuardPlan) -> GuardPlan:
        if plan.picks is None:
            return plan
        positions = self.positions(plan.guard.account_id)
        ids = frozenset(positions[pick].id for pick in plan.picks if pick < len(positions))
        rules = replace(plan.guard.rules, selected=ids)
        return replace(plan, guard=replace(plan.guard, rules=rules))

    def _live(self, life: Life) -> None:
        self.number += 1
        self.log("process: start")
        self.process = process = Process(
            self, crash_in=life.crash_in, crash_in_action=life.crash_in_action
        )
        self.invariants.started()
        error = process.live()
        if process.ended and not self.violations:
            if error is not None:
                self.violations.append(f"{self._stamp()} the engine failed: {error!r}")
            elif not process.stop.is_set():
                self.violations.append(f"{self._stamp()} the engine ended unasked")
        self.process = None

    def _move(self, price: float) -> None:
        before = {p.id for a in self.scenario.accounts for p in self.positions(a.id)}
        self.exchange.set_price(price, self.true_time())
        self.log(f"price {price}")
        self.prices.append((self.agenda.now_s, price))
        after = {p.id for a in self.scenario.accounts for p in self.positions(a.id)}
        self.invariants.look()
        if len(after) < len(before):
            self.counts["ended by the exchange"] += len(before) - len(after)
            for account in self.scenario.accounts:
                self._tell_of_account(account.id)
        if self._streams():
            ids = frozenset(account.id for account in self.scenario.accounts)
            self.process.engine.on_tick(self.quote(), ids)

    def _tell_of_account(self, account_id: str) -> None:
        if self._streams():
            self.process.engine.on_account_event(account_id)

    def _streams(self) -> bool:
        process = self.process
        hears = process is not None and process.alive and not process.frozen
        dark = self.faults.within(self.faults.blackout_until_s)
        return hears and self.scenario.streamed and not dark

    def _tick(self) -> None:
        self.exchange.pass_time(self.true_time())
        self.invariants.look()
        self.agenda.after(TICK_S, self._tick)

    def _calm_down(self) -> None:
        self.log(CALM)
        self.faults.on = False
        if self.process is not None:
            self.process.crash_no_more()
        self.invariants.disturbed()
        self.agenda.after(self.scenario.quiet_s, self._stop)

    def _stop(self) -> None:
        self._over = True
        if self.process is not None and self.process.alive:
            self.ask_to_stop()

    def ask_to_stop(self) -> None:
        """Ask the process to end, as SIGTERM does; it must do so within its time."""
        process = self.process
        self.log("process: asked to stop")
        process.stop.set()
        process.crash_no_more()
        self.agenda.after(STOPPING_S, lambda: self._must_have_stopped(process))

    def _must_have_stopped(self, process: Process) -> None:
        if self.process is not process or not process.alive:
            return
        if process.frozen:
            self.agenda.after(STOPPING_S, lambda: self._must_have_stopped(process))
        else:
            self.violate(f"the engine did not stop within {STOPPING_S:g} s")

    def _stamp(self) -> str:
        return f"[{self.agenda.now_s - BEGIN_S:10.4f} p{self.number}]"
