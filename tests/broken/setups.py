"""Set-ups that are broken between the exchange and the guard."""

import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from marginguard.simulator.accounts import DEFAULT_PERMISSIONS
from marginguard.simulator.faults import Fault, FaultKind
from marginguard.simulator.server import serve
from tests.broken.playing import Setup, Stage, findings_in
from tests.daemons import BALANCE, DaemonProcess, Market, a_guard

SETUPS: dict[str, Setup] = {}

DEBUG = ("debug", "guard-1")
BREACH = 92_500.0
"""A price at which the 10x long at 100,000 has used up some 81 % of its margin."""


def setup(
    name: str, *command: str, action: str, says: str
) -> Callable[[Callable[[Stage], AsyncIterator[None]]], None]:
    """Add a set-up that the function breaks before its first yield, and cures before the next."""

    def add(work: Callable[[Stage], AsyncIterator[None]]) -> None:
        SETUPS[name] = Setup(name=name, command=command, action=action, says=says, work=work)

    return add


@setup("wrong-secret", "credentials", action="update_api_key", says="Invalid signature")
async def _(stage):
    await stage.trade()
    stage.config(change=("secret-of-main", "another"))
    yield
    stage.config()
    yield


@setup("wrong-key", *DEBUG, action="update_api_key", says="Invalid API key")
async def _(stage):
    await stage.trade()
    stage.config(change=('"key-main"', '"another"'))
    yield
    stage.config()
    yield


@setup("wrong-passphrase", "account", "main", action="update_api_key", says="passphrase")
async def _(stage):
    await stage.trade()
    stage.config(change=("passphrase-of-main", "another"))
    yield
    stage.config()
    yield


@setup("read-only-key", *DEBUG, action="update_permissions", says="futures:isolated:write")
async def _(stage):
    only = [p for p in DEFAULT_PERMISSIONS if not p.endswith(":write")]
    market = await stage.trade(Market(permissions=tuple(only)))
    stage.config(stream=True)
    yield
    market.accounts["main"].permissions = DEFAULT_PERMISSIONS
    yield


@setup("no-account-permission", "credentials", action="update_permissions", says="account:read")
async def _(stage):
    rest = tuple(p for p in DEFAULT_PERMISSIONS if p != "account:read")
    market = await stage.trade(Market(permissions=rest))
    stage.config()
    yield
    market.accounts["main"].permissions = DEFAULT_PERMISSIONS
    yield


@setup("clock-an-hour-off", "credentials", action="sync_clock", says="+3600")
async def _(stage):
    market = stage.market = Market()
    async with serve(
        market.exchange, clock=market.clock, rate_scale=1000, clock_skew_s=3600
    ) as market.server:
        stage.config()
        yield
    await stage.trade(market)
    stage.config()
    yield


@setup("empty-account", "account", action="deposit_funds", says="no sats")
async def _(stage):
    market = await stage.trade()
    market.accounts["main"].balance = 0
    stage.config(a_guard(action="add_margin"))
    yield
    market.accounts["main"].balance = BALANCE
    yield


@setup("no-sats-at-a-breach", *DEBUG, action="unblock_action", says="may be spent")
async def _(stage):
    market = await stage.trade()
    market.accounts["main"].balance = 10
    market.move(BREACH)
    stage.config(a_guard(action="add_margin"))
    yield
    stage.config(a_guard(action="add_margin", more='fallback = ["close_position"]'))
    yield


@setup("missing-position", *DEBUG, action="update_selected_positions", says="no-such-trade")
async def _(stage):
    market = await stage.trade()
    stage.config(a_guard(more='selected_positions = ["no-such-trade"]'))
    yield
    there = market.trades["main"].id
    stage.config(a_guard(more=f'selected_positions = ["{there}"]'))
    yield


_BASIC = '\n[[users]]\nid = "ana"\nplan = "{plan}"\n'


@setup("plan-too-small", *DEBUG, action="upgrade_plan", says='plan "free"')
async def _(stage):
    await stage.trade()
    stage.config(a_guard(action="reduce_position"), extra=_BASIC.format(plan="free"))
    yield
    stage.config(a_guard(action="reduce_position"), extra=_BASIC.format(plan="basic"))
    yield


@setup("more-positions-than-the-plan", *DEBUG, action="upgrade_plan", says="NOT guarded")
async def _(stage):
    market = await stage.trade()
    market.open("main")
    market.open("main")
    stage.config(a_guard(), extra=_BASIC.format(plan="free"))
    yield
    stage.config(a_guard(), extra=_BASIC.format(plan="basic"))
    yield


@setup("exchange-down", *DEBUG, action="check_network", says="cannot be reached")
async def _(stage):
    market = stage.market = Market()
    port = free_port()
    async with serve(market.exchange, clock=market.clock, port=port) as market.server:
        stage.config()
    yield
    serving = serve(market.exchange, clock=market.clock, port=port, rate_scale=1000)
    await stage.stack.enter_async_context(serving)
    yield


@setup("exchange-in-maintenance", *DEBUG, action="wait_and_retry", says="503")
async def _(stage):
    market = await stage.trade()
    _fault(market, "/v3/account", status=503)
    stage.config()
    yield
    yield


@setup("rate-limited", "credentials", action="wait_or_upgrade", says="too many calls")
async def _(stage):
    market = await stage.trade()
    _fault(market, "/v3/account", status=429)
    stage.config()
    yield
    yield


@setup("not-the-exchange", "credentials", action="fix_rest_url", says="does not answer as")
async def _(stage):
    await stage.trade()
    stage.config(change=("/v3", "/elsewhere/v3"))
    yield
    stage.config()
    yield


@setup("no-price", *DEBUG, action="check_network", says="not in time")
async def _(stage):
    market = await stage.trade()
    fault = Fault(method="GET", path="/v3/futures/ticker", fault=FaultKind.BLACKHOLE, times=9)
    market.server.faults.add(fault)
    stage.config(exchange_timeout="500ms")
    yield
    market.server.faults.take("GET", "/v3/futures/ticker")
    while market.server.faults.take("GET", "/v3/futures/ticker") is not None:
        pass
    yield


@setup("silent-stream", *DEBUG, action="check_stream", says="tells no price")
async def _(stage):
    await stage.trade()
    stage.config(stream=True, change=("/v1", "/elsewhere"))
    yield
    stage.config(stream=True)
    yield


@setup("switched-off", *DEBUG, action="enable_guard", says="enabled = false")
async def _(stage):
    await stage.trade()
    stage.config(a_guard(more="enabled = false"))
    yield
    stage.config(a_guard())
    yield


@setup("only-tells", *DEBUG, action="enable_execution", says="auto_execution")
async def _(stage):
    market = await stage.trade()
    market.move(BREACH)
    stage.config(a_guard(more="auto_execution = false"))
    yield
    stage.config(a_guard())
    yield


@setup("dry-run", *DEBUG, action="disable_dry_run", says="dry_run = true")
async def _(stage):
    await stage.trade()
    stage.config(a_guard(more="dry_run = true"))
    yield
    stage.config(a_guard())
    yield


@setup("misspelt-guard", "debug", "guard-one", action="name_guard", says="guard-one")
async def _(stage):
    await stage.trade()
    stage.config(a_guard("guard-1"))
    yield
    stage.config(a_guard("guard-one"))
    yield


@setup("misspelt-key", *DEBUG, action="fix_guard_config", says="margin_treshold")
async def _(stage):
    await stage.trade()
    stage.config(change=("margin_threshold", "margin_treshold"))
    yield
    stage.config()
    yield


@setup("not-toml", *DEBUG, action="fix_config", says="not valid TOML")
async def _(stage):
    await stage.trade()
    stage.config(change=("[daemon]", "[daemon"))
    yield
    stage.config()
    yield


@setup("secret-not-set", *DEBUG, action="fix_config", says="environment variable LNM_SECRET")
async def _(stage):
    await stage.trade()
    stage.config(change=("secret-of-main", "env:LNM_SECRET"))
    yield
    stage.environ["LNM_SECRET"] = "secret-of-main"
    yield


@setup("database-down", *DEBUG, action="check_database", says="cannot be read")
async def _(stage):
    await stage.trade()
    server = await stage.database()
    stage.config(database_url=await server.start())
    await server.stop()
    yield
    await server.start()
    yield


@setup("daemon-stopped", *DEBUG, action="start_daemon", says="looked last at")
async def _(stage):
    await stage.trade()
    server = await stage.database()
    config = stage.config(database_url=await server.start(), blind_after="1s")
    await _run_for_a_look(stage, config)
    while not await _names(stage, "start_daemon"):
        pass  # each look takes a while of its own
    yield
    await stage.stack.enter_async_context(DaemonProcess(config))
    while await _names(stage, "start_daemon"):
        pass
    yield


@setup("paused-guard", *DEBUG, action="resume_guard", says="paused until")
async def _(stage):
    async for _ in _paused(stage):
        yield


@setup("paused-by-mistake", "status", action="resume_guard", says="paused until")
async def _(stage):
    async for _ in _paused(stage):
        yield


async def _paused(stage: Stage) -> AsyncIterator[None]:
    await stage.trade()
    server = await stage.database()
    config = stage.config(database_url=await server.start())
    daemon = await stage.stack.enter_async_context(DaemonProcess(config))
    await daemon.until("database.connected")
    await stage.say(("pause", "guard-1", "--for", "1h"))
    while not await _names(stage, "resume_guard"):
        pass  # until it has reached the database
    yield
    await stage.say(("resume", "guard-1"))
    while await _names(stage, "resume_guard"):
        pass
    yield


@setup("never-read-again", "status", action="reload_daemon", says="has never run")
async def _(stage):
    await stage.trade()
    server = await stage.database()
    url = await server.start()
    config = stage.config(database_url=url)
    daemon = await stage.stack.enter_async_context(DaemonProcess(config))
    await daemon.until("database.connected")
    await _until(stage, "status", none_of="start_daemon")
    stage.config(a_guard() + a_guard("guard-2", threshold=80), database_url=url)
    yield
    await stage.say(("reload",))
    await _until(stage, "status", none_of="reload_daemon")
    yield


async def _until(stage: Stage, command: str, *, none_of: str) -> None:
    """Wait until a command does not name the cure any more."""
    while True:
        code, report = await stage.say((command,))
        if code == 0 and none_of not in {one["action"] for one in findings_in(report)}:
            return


async def _run_for_a_look(stage: Stage, config: Path) -> None:
    async with DaemonProcess(config) as daemon:
        await daemon.until("daemon.ready")
        while await _names(stage, "start_daemon"):
            pass  # until its first look has reached the database


async def _names(stage: Stage, action: str) -> bool:
    _, report = await stage.say(DEBUG)
    return any(one["action"] == action for one in findings_in(report))


def _fault(market: Market, path: str, *, status: int) -> None:
    """Have the next call of `path` fail, and that one alone: waiting is the cure."""
    fault = Fault(method="GET", path=path, fault=FaultKind.STATUS, times=1, status=status)
    market.server.faults.add(fault)


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
