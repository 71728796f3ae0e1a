"""The simulated exchange: a state machine without clock, network or chance of its own.

Time is passed in with every command that needs it, and ids come from the iterator given at the
start, so that one sequence of commands always leads to one state.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from typing import Final
from uuid import UUID

from marginguard.domain.errors import ConfigError
from marginguard.domain.units import Price, Sats
from marginguard.simulator import trades
from marginguard.simulator.accounts import (
    DEFAULT_PERMISSIONS,
    FEE_RATES,
    Account,
    Credentials,
)
from marginguard.simulator.cash_in import with_cash_in
from marginguard.simulator.contract import Limit, funding_fee, opposite
from marginguard.simulator.cross_book import CrossBook
from marginguard.simulator.events import (
    Event,
    FundingSettled,
    Observer,
    PriceMoved,
    TradeChanged,
    TradeEvent,
    TradeFunded,
)
from marginguard.simulator.funding import DEFAULT_FUNDING_RATE, FundingClock, Settlement
from marginguard.simulator.history import Stamps
from marginguard.simulator.market import Market
from marginguard.simulator.refusals import bad_request
from marginguard.simulator.trade_lists import TradeLists
from marginguard.simulator.trades import Ending, Order, Trade

_UUID_BITS: Final = 128


def seeded_ids(seed: int) -> Iterator[UUID]:
    """Yield random UUIDs (version 4), the same ones for the same seed."""
    source = random.Random(seed)  # noqa: S311 - ids that repeat with the seed, not secrets
    while True:
        yield UUID(int=source.getrandbits(_UUID_BITS), version=4)


class Exchange:
    """Accounts, trades and one market. Commands raise `Rejected` as the exchange refuses.

    `price` and `spread` are the market's, see `Market`; `funding_rate` is what is settled every
    8 hours. A partial reduction of the cross position at a loss books the loss where
    `losing_reduction_books_loss`, else it carries it in the entry price. `observers` are told of
    every event; see `Observer`.
    """

    def __init__(
        self,
        *,
        price: Price,
        ids: Iterator[UUID],
        spread: float = 0.0,
        funding_rate: float = DEFAULT_FUNDING_RATE,
        losing_reduction_books_loss: bool = False,
    ) -> None:
        self.market = Market(price=price, spread=spread)
        self.funding_rate = funding_rate
        self.observers: list[Observer] = []
        self.cross = CrossBook(
            self.market,
            ids,
            losing_reduction_books_loss=losing_reduction_books_loss,
            tell=self._tell,
        )
        self._ids = ids
        self._accounts: dict[str, Account] = {}
        self._trades = TradeLists()
        self._settlements: list[Settlement] = []
        self._funding_clock = FundingClock()
        self._trade_stamps = Stamps()
        self._settlement_stamps = Stamps()

    @property
    def last(self) -> Price:
        """The last price."""
        return self.market.last

    @property
    def index(self) -> Price:
        """The index price."""
        return self.market.index

    @property
    def bid(self) -> Price:
        """The price that a market order sells at."""
        return self.market.bid

    @property
    def ask(self) -> Price:
        """The price that a market order buys at."""
        return self.market.ask

    @property
    def accounts(self) -> tuple[Account, ...]:
        """Every account, in the order of their making."""
        return tuple(self._accounts.values())

    @property
    def all_trades(self) -> tuple[Trade, ...]:
        """Every trade of every account: ended and canceled, then running and open ones."""
        return self._trades.everything

    @property
    def settlements(self) -> tuple[Settlement, ...]:
        """Every settlement of funding, newest first."""
        return tuple(reversed(self._settlements))

    def add_account(
        self,
        credentials: Credentials,
        balance: Sats,
        *,
        fee_tier: int = 1,
        permissions: tuple[str, ...] = DEFAULT_PERMISSIONS,
    ) -> Account:
        """Make an account that holds `balance` sats; raises `ConfigError` for a bad one."""
        if credentials.key in self._accounts:
            raise ConfigError(f"two accounts have the key {credentials.key!r}: keys are unique")
        if balance < 0:
            raise ConfigError(f"account {credentials.key!r}: a balance must be 0 sats or more")
        if fee_tier not in FEE_RATES:
            raise ConfigError(f"account {credentials.key!r}: a fee tier is one of {[*FEE_RATES]}")
        account = Account(
            id=next(self._ids),
            credentials=credentials,
            balance=balance,
            fee_tier=fee_tier,
            permissions=permissions,
        )
        self._accounts[account.key] = account
        self.cross.add_account(account)
        return account

    def account(self, key: str) -> Account | None:
        """Return the account with this API key, or None."""
        return self._accounts.get(key)

    def running_trades(self, account: Account) -> tuple[Trade, ...]:
        """Return the account's running trades, first filled first."""
        return self._trades.running(account)

    def open_trades(self, account: Account) -> tuple[Trade, ...]:
        """Return the account's trades that wait to be filled, oldest first."""
        return self._trades.open(account)

    def canceled_trades(self, account: Account) -> tuple[Trade, ...]:
        """Return the account's canceled trades, newest first; no two at one time."""
        return self._trades.canceled(account)

    def closed_trades(self, account: Account) -> tuple[Trade, ...]:
        """Return the account's ended trades, newest ending first; no two end at one time."""
        return self._trades.closed(account)

    def open_trade(self, account: Account, order: Order, now: datetime) -> Trade:
        """Fill an order, or let it wait for its price.

        Either way the balance pays margin, opening fee and closing fee reserve now.
        """
        limit = None if order.price is None else Limit.placed(order.price, last=self.last)
        trade = trades.open_trade(
            order,
            trade_id=next(self._ids),
            account=account.key,
            fill=self.market.fill_price(order.side) if limit is None else limit.price,
            limit=limit,
            fee_rate=account.fee_rate,
            now=now,
        )
        if limit is None and trades.exit_reached(trade, self.last) is not None:
            raise bad_request("The spread would end the trade at once: use less leverage")
        account.pay(trade.cost)
        event = TradeEvent.OPEN if trade.is_open else TradeEvent.FILLED
        self._tell(TradeChanged(event=event, trade=self._trades.put(trade), at=now))
        self._fill_what_the_price_reaches(now)
        return self._trades.find(account, trade.id)

    def cancel_trade(self, account: Account, trade_id: UUID, now: datetime) -> Trade:
        """Take an open trade back; what it cost returns to the balance."""
        trade = self._trades.find(account, trade_id)
        if not trade.is_open:
            raise bad_request(f"Trade {trade_id} is not open")
        canceled = self._trades.put(replace(trade, canceled_at=self._trade_stamps.take(now)))
        account.receive(trade.cost)
        self._tell(TradeChanged(event=TradeEvent.CANCELED, trade=canceled, at=now))
        return canceled

    def cancel_all_trades(self, account: Account, now: datetime) -> tuple[Trade, ...]:
        """Take every open trade of the account back."""
        return tuple(
            self.cancel_trade(account, trade.id, now) for trade in self.open_trades(account)
        )

    def close_trade(self, account: Account, trade_id: UUID, now: datetime) -> Trade:
        """Close a running trade at the market; what it is worth goes to the balance."""
        trade = self._running_trade(account, trade_id)
        fill = self.market.fill_price(opposite(trade.side))
        return self._end(trade, Ending.CLOSE, fill, now)

    def add_margin(self, account: Account, trade_id: UUID, amount: Sats) -> Trade:
        """Move `amount` sats (above 0) from the balance into a running trade's margin."""
        if amount <= 0:
            raise bad_request("Amount must be above 0 sats")
        changed = trades.with_margin_added(self._running_trade(account, trade_id), amount)
        account.pay(amount)
        return self._trades.put(changed)

    def cash_in(self, account: Account, trade_id: UUID, amount: Sats) -> Trade:
        """Move `amount` sats (above 0) out of a running trade: profit first, then margin."""
        if amount <= 0:
            raise bad_request("Amount must be above 0 sats")
        trade = self._running_trade(account, trade_id)
        changed = with_cash_in(trade, amount, last=self.last)
        account.receive(amount)
        return self._trades.put(changed)

    def set_stop_loss(self, account: Account, trade_id: UUID, price: Price | None) -> Trade:
        """Set (None: remove) the stop-loss of a running trade, one that trails included."""
        trade = self._running_trade(account, trade_id)
        return self._trades.put(trades.with_stop_loss(trade, price, last=self.last))

    def set_trailing_stop(self, account: Account, trade_id: UUID, distance: Fraction) -> Trade:
        """Let the stop-loss of a running trade follow the market; see `with_trailing_stop`."""
        trade = self._running_trade(account, trade_id)
        return self._trades.put(trades.with_trailing_stop(trade, distance, last=self.last))

    def set_take_profit(self, account: Account, trade_id: UUID, price: Price | None) -> Trade:
        """Set (None: remove) the take-profit of a running trade."""
        trade = self._running_trade(account, trade_id)
        return self._trades.put(trades.with_take_profit(trade, price, last=self.last))

    def pass_time(self, now: datetime) -> None:
        """Settle the funding that has come due since this was last called, at the last price."""
        self.market.candles.note(self.last, now)
        for time in self._funding_clock.due(now):
            self.settle_funding(self.funding_rate, time)

    def set_price(self, price: Price, now: datetime, *, index: Price | None = None) -> None:
        """Move the last price, and the index with it or to a price of its own.

        Every order whose price it reaches or passes is filled, every stop-loss that trails
        follows, and every trade whose exit it reaches or passes ends.
        """
        self.pass_time(now)
        before = self.last, self.index
        self.market.move(price, index, now)
        if (self.last, self.index) != before:
            self._tell(PriceMoved(price=price, at=now))
        self._fill_what_the_price_reaches(now)
        for trade in self._trades.running():
            self._trades.put(trades.with_stop_following(trade, self.last))
        self._end_what_the_price_ends(now)
        self.cross.follow_price(before[0], now)

    def settle_funding(self, rate: float, now: datetime) -> None:
        """Let trades and cross positions pay or receive funding at `rate` (0.0001 is 0.01 %).

        A payment shrinks the margin; what a trade receives goes to the balance, what a cross
        position receives into its margin. What cannot pay gives what it has and is liquidated.
        """
        if not math.isfinite(rate):
            raise bad_request(f"Rate must be a number, not {rate}")
        time = self._settlement_stamps.take(now)
        settlement = Settlement(id=next(self._ids), time=time, rate=rate, price=self.last)
        self._settlements.append(settlement)
        for trade in self._trades.running():
            self._fund(trade, settlement, now)
        self.cross.settle(settlement, now)
        self._end_what_the_price_ends(now)
        self._tell(FundingSettled(rate=rate, at=now))

    def _fund(self, trade: Trade, settlement: Settlement, now: datetime) -> None:
        due = funding_fee(
            trade.side, trade.quantity, rate=settlement.exact_rate, price=settlement.price
        )
        if due >= trade.margin:
            # With the margin gone there is nothing left to lose: 1 sat stays for the
            # liquidation to take, so that leverage stays a number.
            fee = Sats(trade.margin - 1)
            paid = self._trades.put(trades.with_funding(trade, fee))
            self._tell(TradeFunded(trade=paid, fee=fee, at=now))
            self._end(paid, Ending.LIQUIDATION, paid.liquidation, now)
            return
        funded = self._trades.put(trades.with_funding(trade, due))
        self._accounts[trade.account].receive(Sats(max(0, -due)))
        self._tell(TradeFunded(trade=funded, fee=due, at=now))

    def _running_trade(self, account: Account, trade_id: UUID) -> Trade:
        trade = self._trades.find(account, trade_id)
        if not trade.is_running:
            raise bad_request(f"Trade {trade_id} is not running")
        return trade

    def _fill_what_the_price_reaches(self, now: datetime) -> None:
        for trade in self._trades.open():
            if trade.limit is not None and trade.limit.reached_at(self.last):
                filled = self._trades.put(replace(trade, filled_at=now))
                self._tell(TradeChanged(event=TradeEvent.FILLED, trade=filled, at=now))

    def _end_what_the_price_ends(self, now: datetime) -> None:
        for trade in self._trades.running():
            if (reached := trades.exit_reached(trade, self.last)) is not None:
                self._end(trade, *reached, now)

    def _end(self, trade: Trade, ending: Ending, price: Price, now: datetime) -> Trade:
        account = self._accounts[trade.account]
        ended = trades.closed(
            trade, ending, price, fee_rate=account.fee_rate, at=self._trade_stamps.take(now)
        )
        account.receive(trades.payout(ended))
        self._trades.put(ended)
        self._tell(TradeChanged(event=TradeEvent.of(ending), trade=ended, at=now))
        return ended

    def _tell(self, event: Event) -> None:
        for observer in self.observers:
            observer(event)
