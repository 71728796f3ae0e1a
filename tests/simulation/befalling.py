"""What befalls the world while the daemon guards: spells of trouble, and what the user does."""

from datetime import timedelta
from uuid import UUID

from marginguard.domain.errors import Refused, Rejected
from marginguard.domain.model import MarginMode, Side
from marginguard.domain.pause import Pause
from marginguard.domain.units import CROSS
from marginguard.simulator.orders import CrossRequest
from marginguard.simulator.trades import Order


def befall(world, happening) -> None:
    """Let `happening` happen to the world."""
    world.log(f"HAPPENING {happening.name} {happening.size:g}")
    if happening.name in _USER:
        _as_user(world, happening)
        return
    world.invariants.disturbed()
    world.counts[f"happening {happening.name}"] += 1
    until_s = world.agenda.now_s + happening.size
    faults = world.faults
    if happening.name == "blackout":
        faults.blackout_until_s = until_s
    elif happening.name == "key refused":
        faults.key_refused_until_s = until_s
    elif happening.name == "database slow":
        faults.database_slow_until_s = until_s
    elif happening.name == "disk full":
        faults.disk_full_until_s = until_s
    elif happening.name == "clock jump":
        world.wall_offset_s += happening.size
        world.invariants.pauses_end_any_time()
    elif happening.name == "funding":
        world.exchange.settle_funding(round(happening.size, 6), world.true_time())
    else:
        _to_the_process(world, happening.name, until_s)


def _to_the_process(world, name: str, until_s: float) -> None:
    process = world.process
    if process is None or not process.alive:
        return
    if name == "freeze":
        process.frozen = True
        world.agenda.pass_time(until_s)
        process.frozen = False
        process.resumed()
        world.invariants.disturbed()
        world.log("thawed")
    elif name == "pause":
        guard = world.guards[int(until_s) % len(world.guards)].guard
        process.command(_pause(world, process.engine, guard.id, until_s))
    elif name == "restart":
        world.ask_to_stop()
    else:
        process.die()


async def _pause(world, engine, guard_id: str, until_s: float) -> None:
    """Pause a guard, as its operator does."""
    span = timedelta(seconds=until_s - world.agenda.now_s)
    try:
        await engine.pause(guard_id, Pause(until=world.wall_time() + span, by="the user"))
    except Refused as refusal:
        world.log(f"  refused: {refusal}")
        return
    world.invariants.paused(guard_id, until_s)


def _as_user(world, happening) -> None:
    account_plan = world.scenario.accounts[happening.pick % len(world.scenario.accounts)]
    positions = world.positions(account_plan.id)
    position = positions[happening.pick % len(positions)] if positions else None
    try:
        touched = _USER[happening.name](world, account_plan.id, position, happening)
    except Rejected as refusal:
        world.log(f"  refused: {refusal}")
        return
    if touched is not None:
        world.counts[f"happening {happening.name}"] += 1
        world.changed_by_others(account_plan.id, touched, happening.name)


def _closes(world, account_id, position, happening):
    if position is None:
        return None
    account, now = world.account(account_id), world.true_time()
    if position.mode is MarginMode.CROSS:
        world.exchange.cross.close(account, now)
    else:
        world.exchange.close_trade(account, UUID(position.id), now)
    return position.id


def _tops_up(world, account_id, position, happening):
    if position is None or position.mode is MarginMode.CROSS:
        return None
    amount = _odd(position.margin * happening.size)
    world.exchange.add_margin(world.account(account_id), UUID(position.id), amount)
    return position.id


def _cashes_in(world, account_id, position, happening):
    if position is None or position.mode is MarginMode.CROSS:
        return None
    amount = _odd(position.margin * happening.size)
    world.exchange.cash_in(world.account(account_id), UUID(position.id), amount)
    return position.id


def _deposits(world, account_id, position, happening):
    account = world.account(account_id)
    amount = _odd(account.balance * happening.size)
    world.exchange.cross.deposit(account, amount, world.true_time())
    return CROSS


def _withdraws(world, account_id, position, happening):
    account = world.account(account_id)
    margin = world.exchange.cross.position(account).margin
    if margin:
        world.exchange.cross.withdraw(account, _odd(margin * happening.size), world.true_time())
        return CROSS
    return None


def _opens(world, account_id, position, happening):
    account, now = world.account(account_id), world.true_time()
    side = Side.LONG if happening.pick % 2 else Side.SHORT
    quantity = 1 + happening.pick
    if happening.pick % 3 == 0:
        world.exchange.cross.order(account, CrossRequest(side=side, quantity=quantity), now)
        return CROSS
    leverage = 1 + happening.pick % 50
    trade = world.exchange.open_trade(
        account, Order(side=side, leverage=leverage, quantity=quantity), now
    )
    return str(trade.id)


def _odd(amount: float) -> int:
    """Return an amount that no guard is likely to ask for."""
    return int(amount) | 1


_USER = {
    "user closes": _closes,
    "user tops up": _tops_up,
    "user cashes in": _cashes_in,
    "user deposits": _deposits,
    "user withdraws": _withdraws,
    "user opens": _opens,
}
