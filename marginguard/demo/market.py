"""The demo's market: three accounts with the same leveraged long, and what became of them."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from marginguard.domain.model import ActionKind, Side
from marginguard.domain.units import Price, Sats, Usd
from marginguard.simulator.accounts import Account, Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.trades import Ending, Order, Trade

DEPOSIT = Sats(100_000_000)
QUANTITY = Usd(10_000)
LEVERAGE = 10
THRESHOLD = 60.0
TARGET_LEVEL = 40.0

UNGUARDED = "unguarded"
GUARDED = {"adds-margin": ActionKind.ADD_MARGIN, "closes": ActionKind.CLOSE_POSITION}
"""The guarded accounts, each with its guard's action."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """One account at one moment. `level` is None once the position no longer runs."""

    name: str
    trade_id: str
    action: ActionKind | None
    level: float | None
    liquidation_price: Price
    balance: Sats
    margin: Sats
    equity: Sats
    liquidated: bool


class Market:
    """A simulated exchange with the demo's accounts on it, the longs opened at `price`."""

    def __init__(self, *, price: Price, now: datetime) -> None:
        self.exchange = Exchange(price=price, ids=seeded_ids(secrets.randbits(64)))
        self._accounts: dict[str, tuple[Account, Trade]] = {}
        self.price_low = price
        for name in (UNGUARDED, *GUARDED):
            credentials = Credentials(
                key=f"demo-{name}", secret=secrets.token_hex(16), passphrase=secrets.token_hex(8)
            )
            account = self.exchange.add_account(credentials, DEPOSIT)
            order = Order(side=Side.LONG, leverage=Fraction(LEVERAGE), quantity=QUANTITY)
            self._accounts[name] = (account, self.exchange.open_trade(account, order, now))

    def credentials(self) -> dict[str, Credentials]:
        """Return each account's credentials by its name."""
        return {name: account.credentials for name, (account, _) in self._accounts.items()}

    def note_price(self, price: Price) -> None:
        """Remember the lowest price."""
        self.price_low = min(self.price_low, price)

    def holdings(self) -> Sequence[Holding]:
        """Return what each account holds now, the unguarded one first."""
        trades = {trade.id: trade for trade in self.exchange.all_trades}
        return [
            self._holding(name, account, trades[opened.id])
            for name, (account, opened) in self._accounts.items()
        ]

    def _holding(self, name: str, account: Account, trade: Trade) -> Holding:
        runs = trade.closing is None
        pl = trade.pl_at(self.exchange.last) if runs else Sats(0)
        margin = trade.margin if runs else Sats(0)
        return Holding(
            name=name,
            trade_id=str(trade.id),
            action=GUARDED.get(name),
            level=100 * max(0, -pl) / trade.margin if runs else None,
            liquidation_price=trade.liquidation,
            balance=account.balance,
            margin=margin,
            equity=Sats(account.balance + margin + pl),
            liquidated=trade.closing is not None and trade.closing.ending is Ending.LIQUIDATION,
        )
