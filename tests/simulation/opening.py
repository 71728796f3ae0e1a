"""The accounts as they are when a seed begins."""

from marginguard.domain.errors import Rejected
from marginguard.domain.model import Side
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.orders import CrossRequest


def open_account(world, plan) -> None:
    """Make an account with the trades and the cross position that `plan` wants, if it can."""
    account = world.exchange.add_account(
        Credentials(key=plan.id, secret="s", passphrase="p"), plan.balance
    )
    for order in plan.trades:
        _try(
            world, lambda order=order: world.exchange.open_trade(account, order, world.true_time())
        )
    if plan.cross:
        _try(world, lambda: _open_cross(world, account, plan))


def _open_cross(world, account, plan) -> None:
    cross, now = world.exchange.cross, world.true_time()
    cross.set_leverage(account, plan.cross_leverage, now)
    cross.deposit(account, min(plan.cross_margin, account.balance), now)
    side = Side.LONG if plan.cross > 0 else Side.SHORT
    cross.order(account, CrossRequest(side=side, quantity=abs(plan.cross)), now)


def _try(world, opening) -> None:
    try:
        opening()
    except Rejected as refusal:
        world.log(f"not opened: {refusal}")
