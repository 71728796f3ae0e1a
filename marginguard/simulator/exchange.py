"""The simulated exchange: a state machine without clock, network or chance of its own.

Time is passed in with every command that needs it, and ids come from the iterator given at the
start, so that one sequence of commands always leads to one state.
"""

import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Final
from uuid import UUID

from marginguard.domain.errors import ConfigError
from marginguard.domain.model import Side
from marginguard.domain.units import PRICE_STEP, Price, Sats
from marginguard.simulator import trades
from marginguard.simulator.accounts import FEE_RATES, Account, Credentials
from marginguard.simulator.refusals import bad_request, not_found
from marginguard.simulator.trades import Ending, Order, Trade

FUNDING_INTERVAL: Final = timedelta(hours=8)
DEFAULT_FUNDING_RATE: Final = 0.0001
_MILLISECOND: Final = timedelta(milliseconds=1)
_UUID_BITS: Final = 128


def seeded_ids(seed: int) -> Iterator[UUID]:
    """Yield random UUIDs (version 4), the same ones for the same seed."""
    source = random.Random(seed)  # noqa: S311 - ids that repeat with the seed, not secrets
    while True:
        yield UUID(int=source.getrandbits(_UUID_BITS), version=4)


class Exchange:
    """Accounts, trades and one market. Commands raise `Rejected` as the exchange refuses.

    `price` is the last price, which settles everything; the index equals it. `spread` in USD
    lies half on each side of it between bid and ask, at which market orders fill; each half is
    rounded up to the price step.
    """

    def __init__(
        self,
        *,
        price: Price,
        ids: Iterator[UUID],
        spread: float = 0.0,
        funding_rate: float = DEFAULT_FUNDING_RATE,
    ) -> None:
        if not (math.isfinite(spread) and spread >= 0):
            raise ConfigError(f"the spread is {spread}: it must be 0 or more USD")
        self._last = checked_price(price)
        self.funding_rate = funding_rate
        self._half_spread = math.ceil(spread / 2 / PRICE_STEP) * PRICE_STEP
        self._ids = ids
        self._accounts: dict[str, Account] = {}
        self._running: dict[UUID, Trade] = {}
        self._closed: dict[UUID, Trade] = {}
        self._last_closing: datetime | None = None

    @property
    def last(self) -> Price:
        """The last price."""
        return self._last

    @property
    def index(self) -> Price:
        """The index price."""
        return self._last

    @property
    def bid(self) -> Price:
        """The price that a market order sells at."""
        return Price(max(PRICE_STEP, self.last - self._half_spread))

    @property
    def ask(self) -> Price:
        """The price that a market order buys at."""
        return Price(self.last + self._half_spread)

    @property
    def accounts(self) -> tuple[Account, ...]:
        """Every account, in the order of their making."""
        return tuple(self._accounts.values())

    @property
    def all_trades(self) -> tuple[Trade, ...]:
        """Every trade of every account: the ended ones, then the running ones."""
        return (*self._closed.values(), *self._running.values())

    def add_account(self, credentials: Credentials, balance: Sats, *, fee_tier: int = 1) -> Account:
        """Make an account that holds `balance` sats; raises `ConfigError` for a bad one."""
        if credentials.key in self._accounts:
            raise ConfigError(f"two accounts have the key {credentials.key!r}: keys are unique")
        if balance < 0:
            raise ConfigError(f"account {credentials.key!r}: a balance must be 0 sats or more")
        if fee_tier not in FEE_RATES:
            raise ConfigError(f"account {credentials.key!r}: a fee tier is one of {[*FEE_RATES]}")
        account = Account(
            id=next(self._ids), credentials=credentials, balance=balance, fee_tier=fee_tier
        )
        self._accounts[account.key] = account
        return account

    def account(self, key: str) -> Account | None:
        """Return the account with this API key, or None."""
        return self._accounts.get(key)

    def running_trades(self, account: Account) -> tuple[Trade, ...]:
        """Return the account's running trades, oldest first."""
        return tuple(t for t in self._running.values() if t.account == account.key)

    def closed_trades(self, account: Account) -> tuple[Trade, ...]:
        """Return the account's ended trades, newest ending first; no two end at one time."""
        return tuple(t for t in reversed(self._closed.values()) if t.account == account.key)

    def open_trade(self, account: Account, order: Order, now: datetime) -> Trade:
        """Fill a market order: the balance pays margin, opening fee and closing fee reserve."""
        trade = trades.open_trade(
            order,
            trade_id=next(self._ids),
            account=account.key,
            fill=self.ask if order.side is Side.LONG else self.bid,
            fee_rate=account.fee_rate,
            now=now,
        )
        if trades.exit_reached(trade, self.last) is not None:
            raise bad_request("The spread would end the trade at once: use less leverage")
        account.pay(Sats(trade.margin + trade.maintenance_margin))
        self._running[trade.id] = trade
        return trade

    def close_trade(self, account: Account, trade_id: UUID, now: datetime) -> Trade:
        """Close a running trade at the market; what it is worth goes to the balance."""
        trade = self._running_trade(account, trade_id)
        fill = self.bid if trade.side is Side.LONG else self.ask
        return self._end(trade, Ending.CLOSE, fill, now)

    def add_margin(self, account: Account, trade_id: UUID, amount: Sats) -> Trade:
        """Move `amount` sats (above 0) from the balance into a running trade's margin."""
        if amount <= 0:
            raise bad_request("Amount must be above 0 sats")
        changed = trades.with_margin_added(self._running_trade(account, trade_id), amount)
        account.pay(amount)
        return self._keep(changed)

    def cash_in(self, account: Account, trade_id: UUID, amount: Sats) -> Trade:
        """Move `amount` sats (above 0) out of a running trade: profit first, then margin."""
        if amount <= 0:
            raise bad_request("Amount must be above 0 sats")
        trade = self._running_trade(account, trade_id)
        changed = trades.with_cash_in(trade, amount, last=self.last)
        account.receive(amount)
        return self._keep(changed)

    def set_stop_loss(self, account: Account, trade_id: UUID, price: Price | None) -> Trade:
        """Set (None: remove) the stop-loss of a running trade."""
        trade = self._running_trade(account, trade_id)
        return self._keep(trades.with_stop_loss(trade, price, last=self.last))

    def set_take_profit(self, account: Account, trade_id: UUID, price: Price | None) -> Trade:
        """Set (None: remove) the take-profit of a running trade."""
        trade = self._running_trade(account, trade_id)
        return self._keep(trades.with_take_profit(trade, price, last=self.last))

    def set_price(self, price: Price, now: datetime) -> None:
        """Move last price and index; every trade whose exit it reaches or passes ends."""
        self._last = checked_price(price)
        self._end_what_the_price_ends(now)

    def settle_funding(self, rate: float, now: datetime) -> None:
        """Let every running trade pay or receive funding at `rate` (0.0001 is 0.01 %).

        A payment shrinks the margin, a receipt goes to the balance. A trade that cannot pay
        gives what it has and is liquidated.
        """
        if not math.isfinite(rate):
            raise bad_request(f"Rate must be a number, not {rate}")
        exact_rate = Fraction(str(rate))
        for trade in tuple(self._running.values()):
            due = trades.funding_fee(trade, exact_rate, self.last)
            if due >= trade.margin:
                # With the margin gone there is nothing left to lose: 1 sat stays for the
                # liquidation to take, so that leverage stays a number.
                paid = self._keep(trades.with_funding(trade, Sats(trade.margin - 1)))
                self._end(paid, Ending.LIQUIDATION, paid.liquidation, now)
                continue
            self._keep(trades.with_funding(trade, due))
            self._accounts[trade.account].receive(Sats(max(0, -due)))
        self._end_what_the_price_ends(now)

    def _running_trade(self, account: Account, trade_id: UUID) -> Trade:
        known = self._running.get(trade_id) or self._closed.get(trade_id)
        if known is None or known.account != account.key:
            raise not_found(f"Trade {trade_id} not found")
        if known.closing is not None:
            raise bad_request(f"Trade {trade_id} is not running")
        return known

    def _keep(self, trade: Trade) -> Trade:
        self._running[trade.id] = trade
        return trade

    def _end_what_the_price_ends(self, now: datetime) -> None:
        for trade in tuple(self._running.values()):
            if (reached := trades.exit_reached(trade, self.last)) is not None:
                self._end(trade, *reached, now)

    def _end(self, trade: Trade, ending: Ending, price: Price, now: datetime) -> Trade:
        account = self._accounts[trade.account]
        ended = trades.closed(
            trade, ending, price, fee_rate=account.fee_rate, at=self._closing_time(now)
        )
        account.receive(trades.payout(ended))
        del self._running[trade.id]
        self._closed[trade.id] = ended
        return ended

    def _closing_time(self, now: datetime) -> datetime:
        """Return `now` to the millisecond, or later where a trade has ended at that time.

        The list of ended trades is paged by this time, so that no two may share it.
        """
        at = now.replace(microsecond=now.microsecond // 1000 * 1000)
        if self._last_closing is not None:
            at = max(at, self._last_closing + _MILLISECOND)
        self._last_closing = at
        return at


def checked_price(price: Price) -> Price:
    """Return `price` if it can be a price; raises `Rejected` if it cannot."""
    if not (math.isfinite(price) and 0 < price <= trades.MAX_PRICE) or price % PRICE_STEP:
        raise bad_request(
            f"Price must be above 0, at most {trades.MAX_PRICE:.0f}, in steps of {PRICE_STEP},"
            f" not {price}"
        )
    return price


def next_funding_time(now: datetime) -> datetime:
    """Return the next of 00:00, 08:00 and 16:00 UTC after `now` (aware)."""
    now = now.astimezone(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + ((now - midnight) // FUNDING_INTERVAL + 1) * FUNDING_INTERVAL
