"""One run: the daemon killed and started again, then given time, then held to its record."""

import asyncio
import contextlib
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

import asyncpg
from aiohttp import web

from tests.crashes import invariants
from tests.crashes.evidence import Row
from tests.crashes.matching import assign
from tests.crashes.plan import THRESHOLD, Moment, plan
from tests.crashes.scene import Scene
from tests.daemons import DaemonProcess, until_true, write_config

HURRIED_S = 30.0
PATIENT_S = 90.0
"""How long everything may take to be handled at a price, after the last start; what became of an
action is known, or known to be unknowable, 35 s after that start."""

_LONGEST_WAIT_S = 4.0
_LOOK_EVERY_S = 0.05


@dataclass(kw_only=True, slots=True)
class Result:
    """What happened in a run; `breaches` are of the invariants, and should be none."""

    seed: int
    kills: int = 0
    faults: Counter = field(default_factory=Counter)
    calls: int = 0
    applied: int = 0
    actions: Counter = field(default_factory=Counter)
    told: int = 0
    leapt_over: int = 0
    seconds: float = 0.0
    breaches: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def __str__(self):
        return (
            f"seed {self.seed}: {self.kills} kills, faults {_counted(self.faults)};"
            f" {self.calls} calls, {self.applied} applied; actions {_counted(self.actions)};"
            f" {self.told} told of; {self.leapt_over} leapt over; {self.seconds:.1f} s;"
            f" {'ok' if not self.breaches else f'{len(self.breaches)} BREACHES'}"
        )


async def play(seed, *, directory, database_url, patient):
    """Play the run of `seed` and return what came of it; `directory` is an empty one.

    `patient` waits for actions whose outcome cannot be told at once, which takes 35 s.
    """
    began = time.monotonic()
    planned = plan(seed)
    result = Result(seed=seed)
    scene = Scene(seed)
    async with scene.open_for_trade(), _receiver() as owner, _database(database_url) as database:
        run = _Run(planned, scene, owner, database, result, patient=patient)
        await run.play(directory, database_url)
    result.seconds = time.monotonic() - began
    return result


class _Run:
    def __init__(self, planned, scene, owner, database, result, *, patient):
        self._plan = planned
        self._scene = scene
        self._owner = owner
        self._database = database
        self._result = result
        self._patient = patient

    async def play(self, directory, database_url):
        config = write_config(
            directory,
            self._scene,
            self._plan.guards,
            database_url=database_url,
            stream=self._plan.stream,
            extra=f'\n[notifications.webhook]\nurl = "{self._owner.url}"\n',
            exchange_timeout="700ms",
        )
        for life in self._plan.lives:
            await self._live(life, config)
        async with DaemonProcess(config) as daemon:
            await self._settle(daemon)
            if (code := await daemon.end()) != 0:
                self._result.breaches.append(f"the daemon ended with exit code {code}")
        self._keep(daemon)
        await self._check()

    async def _live(self, life, config):
        """Let the daemon live until its kill."""
        self._scene.calm()
        for fault in life.faults:
            self._scene.server.faults.add(fault)
            self._result.faults[fault.fault.value] += fault.times
        async with DaemonProcess(config) as daemon:
            moving = asyncio.create_task(self._move(life, daemon))
            await self._until(life.kill, daemon)
            moving.cancel()
            code = daemon.process.returncode
            if code is None:
                code = await daemon.end(signal.SIGKILL)
            if code != -signal.SIGKILL:
                self._result.breaches.append(f"the daemon ended by itself, exit code {code}")
        self._result.kills += 1
        self._result.faults.subtract(self._scene.clear_faults())
        self._keep(daemon)

    async def _move(self, life, daemon):
        if not life.early:
            await until_true(lambda: _is_up(daemon))
        for wait_s, price in life.moves:
            await asyncio.sleep(wait_s)
            self._scene.move(price)

    async def _until(self, kill, daemon):
        """Return at the moment of the kill, or when the awaited call has not come for long."""
        calls = self._scene.server.calls
        awaited = len(calls) + kill.number

        def called():
            return kill.moment is Moment.CALL and len(calls) >= awaited

        if kill.moment is not Moment.START:
            await until_true(lambda: _is_up(daemon) or called(), every_s=0.002)
        if kill.moment is Moment.CALL:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_WAIT_S):
                    await until_true(called, every_s=0.002)
        await asyncio.sleep(kill.after_s)

    async def _settle(self, daemon):
        """Give the last daemon time to handle what it finds, without faults."""
        self._owner.told.clear()
        await daemon.until("daemon.ready")
        for price in self._plan.ends:
            self._scene.move(price)
            deadline = time.monotonic() + (PATIENT_S if self._patient else HURRIED_S)
            # The exchange and the database give no event for this.
            while (wrong := await self._unhandled()) and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_EVERY_S)
            self._result.breaches += [f"at {price:,.1f}: {what}" for what in wrong]

    async def _unhandled(self):
        return invariants.unhandled(
            await self._scene.holdings(),
            await self._rows(),
            self._owner.told,
            threshold=THRESHOLD,
            patient=self._patient,
        )

    async def _rows(self):
        try:
            records = await self._database.fetch("SELECT * FROM actions ORDER BY intended_at")
        except asyncpg.UndefinedTableError:
            return []  # the daemon has not made it yet
        return [Row.of(record) for record in records]

    async def _check(self):
        """Hold the record against the exchange, after everything has ended."""
        calls, rows = await self._scene.calls(), await self._rows()
        assignment = assign(calls, rows)
        self._result.calls = len(calls)
        self._result.applied = sum(call.applied for call in calls)
        self._result.actions.update(f"{row.kind} {row.status}" for row in rows)
        self._result.told = len(self._owner.told)
        self._result.leapt_over = len(self._scene.leapt_over)
        self._result.breaches += [
            *assignment.wrong,
            *invariants.applied_once(assignment),
            *invariants.record_agrees(assignment),
            *invariants.within_budget(assignment, self._plan.bounds),
            *invariants.none_liquidated(await self._scene.holdings(), self._scene.leapt_over),
        ]
        self._result.breaches += [line for line in self._result.log if "Traceback" in line]

    def _keep(self, daemon):
        self._result.log += [f"--- daemon {self._result.kills}", *daemon.lines]


def _is_up(daemon):
    """Return whether the daemon has looked for the first time, or has ended."""
    ended = daemon.lines[-1:] == ["(the log ends)"]
    return ended or any(" daemon.ready " in line for line in daemon.lines)


class _Owner:
    """Hears the daemon's notices. `told` are the positions said to be UNPROTECTED."""

    def __init__(self):
        self.told = set()
        self.url = ""

    async def hear(self, request):
        notice = await request.json()
        if notice["type"] == "unprotected":
            data = notice["data"]
            self.told.add((data["account"]["id"], data["positions"][0]["id"]))
        return web.Response(status=204)


@contextlib.asynccontextmanager
async def _receiver():
    owner = _Owner()
    app = web.Application()
    app.router.add_post("/notices", owner.hear)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        owner.url = f"http://127.0.0.1:{runner.addresses[0][1]}/notices"
        yield owner
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _database(url):
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def _counted(counter):
    shown = ", ".join(f"{count} {what}" for what, count in sorted(counter.items()) if count)
    return shown or "none"
