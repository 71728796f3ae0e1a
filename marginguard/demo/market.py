"""The demo's market: three accounts with the same leveraged long, and what became of them."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from uuid import UUID

from marginguard.domain.contracts import INVERSE
from marginguard.domain.model import ActionKind, Side
from marginguard.domain.units import Price, Sats, Usd
from marginguard.simulator.accounts import Account, Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.orders import CrossRequest
from marginguard.simulator.trades import Ending, Order, Trade

DEPOSIT = Sats(100_000_000)
QUANTITY = Usd(10_000)
LEVERAGE = 10
# About 60. At 60 itself the low lies within a dollar of a fourth addition, which then sometimes
# came and sometimes not; at 62 every run adds three times.
THRESHOLD = 62.0
TARGET_LEVEL = 40.0

UNGUARDED = "unguarded"
GUARDED = {"adds-margin": ActionKind.ADD_MARGIN, "closes": ActionKind.CLOSE_POSITION}
"""The guarded accounts, each with its guard's action."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """One account at one moment. `level` is None once the position no longer runs."""

    name: str
    action: ActionKind | None
    level: float | None
    liquidation_price: Price | None
    margin: Sats
    equity: Sats
    liquidated: bool


class Market:
    """A simulated exchange with the demo's accounts on it, the longs opened at `price`.

    With `cross` they are cross positions, else isolated trades; about the same margin is at
    risk in both.
    """

    def __init__(self, *, price: Price, now: datetime, cross: bool = False) -> None:
        self.exchange = Exchange(price=price, ids=seeded_ids(secrets.randbits(64)))
        self.price_low = price
        self._accounts: dict[str, Account] = {}
        self._trades: dict[str, UUID] = {}
        for name in (UNGUARDED, *GUARDED):
            credentials = Credentials(
                key=f"demo-{name}", secret=secrets.token_hex(16), passphrase=secrets.token_hex(8)
            )
            account = self.exchange.add_account(credentials, DEPOSIT)
            self._accounts[name] = account
            if cross:
                self._open_cross(account, now)
            else:
                order = Order(side=Side.LONG, leverage=Fraction(LEVERAGE), quantity=QUANTITY)
                self._trades[name] = self.exchange.open_trade(account, order, now).id

    def _open_cross(self, account: Account, now: datetime) -> None:
        notional = INVERSE.notional(quantity=QUANTITY, entry=self.exchange.last)
        book = self.exchange.cross
        book.set_leverage(account, 2 * LEVERAGE, now)
        book.deposit(account, Sats(math.ceil(notional / LEVERAGE)), now)
        book.order(account, CrossRequest(side=Side.LONG, quantity=QUANTITY), now)

    def credentials(self) -> dict[str, Credentials]:
        """Return each account's credentials by its name."""
        return {name: account.credentials for name, account in self._accounts.items()}

    def note_price(self, price: Price) -> None:
        """Remember the lowest price."""
        self.price_low = min(self.price_low, price)

    def holdings(self) -> Sequence[Holding]:
        """Return what each account holds now, the unguarded one first."""
        trades = {trade.id: trade for trade in self.exchange.all_trades}
        return [
            self._holding(name, account, trades[self._trades[name]])
            if name in self._trades
            else self._cross_holding(name, account)
            for name, account in self._accounts.items()
        ]

    def _holding(self, name: str, account: Account, trade: Trade) -> Holding:
        runs = trade.closing is None
        pl = trade.pl_at(self.exchange.last) if runs else Sats(0)
        margin = trade.margin if runs else Sats(0)
        return Holding(
            name=name,
            action=GUARDED.get(name),
            level=100 * max(0, -pl) / trade.margin if runs else None,
            liquidation_price=trade.liquidation,
            margin=margin,
            equity=Sats(account.balance + margin + pl),
            liquidated=trade.closing is not None and trade.closing.ending is Ending.LIQUIDATION,
        )

    def _cross_holding(self, name: str, account: Account) -> Holding:
        position = self.exchange.cross.position(account)
        runs = position.quantity != 0
        pl = position.pl_at(self.exchange.last)
        return Holding(
            name=name,
            action=GUARDED.get(name),
            level=100 * max(0, -pl) / (position.margin - position.maintenance_margin)
            if runs
            else None,
            liquidation_price=position.liquidation,
            margin=position.margin,
            equity=Sats(account.balance + position.margin + pl),
            # Only a liquidation takes all of the margin.
            liquidated=not runs and position.margin == 0,
        )
