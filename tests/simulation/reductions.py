"""What must hold of reductions: an isolated trade is closed, and its rest opened again."""

from uuid import UUID

from marginguard.domain.model import ActionKind
from marginguard.domain.notice import NoticeKind
from marginguard.simulator.trades import Ending, payout

ACTS_AGAIN_AFTER = 5.0
"""Points above the level at a reduction at which the rung acts again, where there is room."""


class Reductions:
    """Remembers at which level positions were reduced: a level does not show what it brought."""

    def __init__(self):
        self._levels = {}

    def note(self, notice):
        """Take note of what the owner is told."""
        done = notice.kind is NoticeKind.ACTION_DONE
        if done and notice.data.get("action") == ActionKind.REDUCE_POSITION.value:
            self._levels[(notice.guard_id, notice.position_id)] = notice.data["level"]

    def note_record(self, record):
        """Take note of a record of an action that is done, of which nobody was told in time."""
        if record.kind is ActionKind.REDUCE_POSITION:
            self._levels[(record.guard_id, record.position_id)] = record.level

    def holds(self, key, level):
        """Whether the breach is answered by a reduction, until the level is well above that."""
        at = self._levels.get(key)
        return at is not None and level < at + min(ACTS_AGAIN_AFTER, (100.0 - at) / 2)


def at_the_wallets_cost(world, request, slippage):
    """Return how a trade was opened that should not be, in words, or None.

    It is paid by what closing the old one brought, and that by a close of our own; who has closed
    it while a close of ours was under way cannot be told. `slippage` is what the guard provides
    for, in percent.
    """
    record = request.record
    account = world.account(request.account)
    closed = next(
        t for t in world.exchange.closed_trades(account) if str(t.id) == record.position_id
    )
    opened = next(
        t for t in world.exchange.running_trades(account) if str(t.id) == request.exchange_id
    )
    ending = closed.closing.ending
    asked = any(r.wish.call == "close" for r in world.ledger.of(record.id))
    if ending is not Ending.CLOSE or not asked:
        return f"though the guard did not close it: it ended by {ending.value}"
    # A market order fills where the market is: what it slips on its way nobody can promise.
    fill = opened.entry_price
    since_s = world.agenda.now_s - (world.true_time() - closed.closing.at).total_seconds()
    seen = [record.reopening.closed_price, *(p for at_s, p in world.prices if at_s > since_s)]
    slipped = max(abs(fill - p) / p * 100 for p in seen)
    if opened.cost > payout(closed) and slipped <= slippage:
        return f"for {opened.cost} sats, and the close brought {payout(closed)}"
    return None


def misreported(world, record, applied):
    """Return how a reduction of an isolated trade that is done was not, in words, or None."""
    opened = [r for r in applied if r.wish.call == "open_trade"]
    if record.successor is None:
        return f"but {opened[0].exchange_id} was opened" if opened else None
    if [r.exchange_id for r in opened] != [record.successor]:
        return f"as {record.successor}, but these were opened: {[r.exchange_id for r in opened]}"
    account = world.account(record.account_id)
    known = {trade.id for trade in world.exchange.all_trades if trade.account == account.key}
    return None if UUID(record.successor) in known else "but its successor does not exist"
