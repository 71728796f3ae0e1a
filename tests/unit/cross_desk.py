"""An account on the simulated exchange that trades on cross margin."""

from datetime import UTC, datetime

from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats, Usd
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.orders import CrossRequest

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
RICH = Sats(100 * 100_000_000)


class Desk:
    """An account on an exchange of its own, with sats on cross margin."""

    def __init__(self, price=100_000.0, *, margin=500_000, leverage=10, balance=RICH, **exchange):
        self.exchange = Exchange(price=Price(price), ids=seeded_ids(1), **exchange)
        self.account = self.exchange.add_account(
            Credentials(key="k", secret="s", passphrase="p"), Sats(balance)
        )
        self.book = self.exchange.cross
        self.events = []
        self.exchange.observers.append(self.events.append)
        if margin:
            self.book.deposit(self.account, Sats(margin), NOW)
        self.book.set_leverage(self.account, leverage, NOW)

    @property
    def position(self):
        return self.book.position(self.account)

    def order(self, quantity, price=None, **more):
        """Buy `quantity` USD, or sell if it is below 0."""
        side = Side.LONG if quantity >= 0 else Side.SHORT
        wanted = CrossRequest(side=side, quantity=Usd(abs(quantity)), price=price, **more)
        return self.book.order(self.account, wanted, NOW)

    def move(self, price):
        self.exchange.set_price(Price(price), NOW)
