"""Where the exchange keeps isolated trades: each in the list that its state says."""

from uuid import UUID

from marginguard.simulator.accounts import Account
from marginguard.simulator.refusals import not_found
from marginguard.simulator.trades import Trade


class TradeLists:
    """Open, running, ended and canceled trades of all accounts; every trade is in one list."""

    def __init__(self) -> None:
        self._open: dict[UUID, Trade] = {}
        self._running: dict[UUID, Trade] = {}
        self._closed: dict[UUID, Trade] = {}
        self._canceled: dict[UUID, Trade] = {}

    @property
    def everything(self) -> tuple[Trade, ...]:
        """Every trade: ended and canceled, then running and open ones."""
        return tuple(
            trade
            for of_a_state in (self._closed, self._canceled, self._running, self._open)
            for trade in of_a_state.values()
        )

    def open(self, account: Account | None = None) -> tuple[Trade, ...]:
        """Return the trades that wait to be filled, oldest first; None: of all accounts."""
        return _of(account, self._open)

    def running(self, account: Account | None = None) -> tuple[Trade, ...]:
        """Return the running trades, first filled first; None: of all accounts."""
        return _of(account, self._running)

    def closed(self, account: Account) -> tuple[Trade, ...]:
        """Return the account's ended trades, newest ending first."""
        return _of(account, self._closed)[::-1]

    def canceled(self, account: Account) -> tuple[Trade, ...]:
        """Return the account's canceled trades, newest first."""
        return _of(account, self._canceled)[::-1]

    def find(self, account: Account, trade_id: UUID) -> Trade:
        """Return a trade of the account, whatever its state; raises `Rejected` if it has none."""
        for of_a_state in (self._running, self._open, self._closed, self._canceled):
            trade = of_a_state.get(trade_id)
            if trade is not None and trade.account == account.key:
                return trade
        raise not_found(f"Trade {trade_id} not found")

    def put(self, trade: Trade) -> Trade:
        """Keep `trade` in place of what was known of it, and return it."""
        home = self._home_of(trade)
        if trade.id not in home:
            self._open.pop(trade.id, None)
            self._running.pop(trade.id, None)
        home[trade.id] = trade
        return trade

    def _home_of(self, trade: Trade) -> dict[UUID, Trade]:
        if trade.is_open:
            return self._open
        if trade.is_running:
            return self._running
        return self._canceled if trade.closing is None else self._closed


def _of(account: Account | None, trades: dict[UUID, Trade]) -> tuple[Trade, ...]:
    return tuple(t for t in trades.values() if account is None or t.account == account.key)
