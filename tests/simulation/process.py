"""One life of the daemon: its event loop, its engine, and its ports, all of which die with it."""

import asyncio

from marginguard.domain.records import ActionRecord
from marginguard.engine.engine import Engine, Surroundings
from tests.simulation.journal import JournalPort
from tests.simulation.loop import VirtualLoop
from tests.simulation.venue import SimulatedAccount, SimulatedPrices


class Process:
    """A daemon. Each entry, middle and end of a call to a port is a step, and may be its last.

    `crash_in` is the number of steps it has left, or None; `crash_in_action` the number of steps
    it has left once an action is under way.
    """

    def __init__(self, world, *, crash_in=None, crash_in_action=None):
        self.loop = VirtualLoop(world.agenda)
        self.stop = asyncio.Event()
        self.alive = True
        self.clock_off = world.faults.on and world.rng.random() < 0.05
        self.started_s = world.agenda.now_s
        self.positions_seen_s = {}
        self.price_seen_s = self.started_s
        self._world = world
        self._crash_in = crash_in
        self._crash_in_action = crash_in_action
        self._in_action = False
        self._commands = set()
        self.frozen = False
        self.ended = False
        self.journal = JournalPort(world.disk, world, self)
        accounts = world.scenario.accounts
        self.engine = Engine(
            guards=[plan.guard for plan in world.guards_now()],
            disarmed=world.disarmed_now(),
            surroundings=Surroundings(
                exchanges={a.id: SimulatedAccount(a.id, world, self) for a in accounts},
                prices={a.id: SimulatedPrices(world, self) for a in accounts},
                journal=self.journal,
                observations=_Eyes(),
                notifier=_Mouth(world, self),
                clock=_Clock(world),
                new_id=world.new_id,
                on_refused=lambda _account_id: None,
            ),
            settings=world.scenario.settings,
            stop=self.stop,
        )

    def live(self) -> BaseException | None:
        """Run until the engine ends, the process crashes or the world stops; return the error."""
        ending = self.loop.create_task(self.engine.run(), name="engine")
        ending.add_done_callback(lambda _ending: self.loop.stop())
        try:
            self.loop.run_forever()
        finally:
            ended = ending.done()
            error = ending.exception() if ended and not ending.cancelled() else None
            self.ended = ended
            self.alive = False
            self._world.mute(self.loop.abandon)
        return error

    def die(self) -> None:
        """End here and now; what runs on for a moment no longer reaches the world."""
        if self.alive:
            self._world.log("process: CRASH")
            self._world.counts["crashes"] += 1
            self._world.disk.crash()
        self.alive = False
        self.loop.stop()

    async def step(self, name: str) -> None:
        """Take a step; never returns to a process that ended with it."""
        if self.alive:
            self._world.took_step(name)
            self._count_down(name)
        if not self.alive:
            await self.loop.create_future()

    async def pause(self, delay_s: float) -> None:
        """Let time pass; never returns to a process that ended meanwhile."""
        if delay_s > 0:
            waiting = self.future()
            self._world.agenda.after(delay_s, lambda: self.wake(waiting, None))
            await waiting
        if not self.alive:
            await self.loop.create_future()

    def future(self) -> "asyncio.Future[object]":
        """Return something to wait for."""
        return self.loop.create_future()

    def wake(self, waiting, result) -> None:
        """Let whoever waits go on, if the process lives and somebody waits."""
        if self.alive and not waiting.done():
            waiting.set_result(result)

    def saw_positions(self, account_id) -> None:
        """Note that a read of an account's positions worked."""
        self.positions_seen_s[account_id] = self._world.agenda.now_s

    def saw_price(self) -> None:
        """Note that a look at the price worked."""
        self.price_seen_s = self._world.agenda.now_s

    def command(self, work) -> None:
        """Have the process do what its operator asks."""
        task = self.loop.create_task(work, name="command")
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)

    def crash_no_more(self) -> None:
        """Let the process live until it is asked to end."""
        self._crash_in = self._crash_in_action = None

    def resumed(self) -> None:
        """Note that the process was frozen until now: nobody could expect anything of it."""
        now_s = self._world.agenda.now_s
        self.started_s = self.price_seen_s = now_s
        self.positions_seen_s = {}

    def _count_down(self, name: str) -> None:
        if self._crash_in_action is not None and self._in_action:
            self._crash_in, self._crash_in_action = self._crash_in_action, None
        if self._crash_in is not None:
            self._crash_in -= 1
            if self._crash_in <= 0:
                self.die()

    def writes(self, records) -> None:
        """Note what is about to be written: an action under way may bring the end closer."""
        if any(isinstance(record, ActionRecord) for record in records):
            self._in_action = True


class _Clock:
    def __init__(self, world):
        self._world = world

    def now(self):
        return self._world.wall_time()

    def monotonic(self):
        return self._world.agenda.now_s


class _Mouth:
    def __init__(self, world, process):
        self._world = world
        self._process = process

    def tell(self, notice):
        if self._process.alive:
            self._world.heard(notice)


class _Eyes:
    def positions(self, account_id, seen, at):
        """What is only observed needs no proof."""

    def checked(self, guard_id, account_id, at):
        """What is only observed needs no proof."""
