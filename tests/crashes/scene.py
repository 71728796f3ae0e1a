"""The exchange of a run: positions of every sort on several accounts, all opened at one price."""

import contextlib
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import aiohttp
import orjson

from marginguard.aio import SystemClock
from marginguard.domain.model import Side
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.orders import CrossRequest
from marginguard.simulator.server import serve
from marginguard.simulator.trades import Order
from marginguard.simulator.wire import state_payload
from tests.crashes.evidence import Call, holdings_of
from tests.crashes.plan import ACCOUNTS, CALLS, CALM, READS, THRESHOLD

BALANCE = 10_000_000
QUANTITY = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wanted:
    account: str
    side: Side
    leverage: int


_TRADES = (
    _Wanted(account="long", side=Side.LONG, leverage=10),
    _Wanted(account="short", side=Side.SHORT, leverage=10),
    _Wanted(account="pair", side=Side.LONG, leverage=9),
    _Wanted(account="pair", side=Side.LONG, leverage=10),
)


class Scene:
    """A simulated exchange, steered from here, and looked into from outside."""

    def __init__(self, seed):
        self._clock = SystemClock()
        self._exchange = Exchange(price=CALM, ids=seeded_ids(seed))
        self.accounts = {}
        for name in ACCOUNTS:
            credentials = Credentials(
                key=f"key-{name}",
                secret=f"secret-of-{name}",
                passphrase=f"passphrase-of-{name}",
            )
            self.accounts[name] = self._exchange.add_account(credentials, BALANCE)
        self._names = {account.key: name for name, account in self.accounts.items()}
        self._trades = {}
        self._opened = set()
        self.leapt_over = set()
        """Trades of the daemon's that a single move took from below the threshold past liquidation.

        An order that the exchange carries out late is filled at a price of its own, and may then
        be liquidated nearer than those that the moves are drawn for: nobody could have acted.
        """
        self._open_cross()
        self.calm()

    @contextlib.asynccontextmanager
    async def open_for_trade(self):
        """Serve until the block ends."""
        async with (
            serve(self._exchange, clock=self._clock, rate_scale=1000) as self.server,
            aiohttp.ClientSession(self.server.base_url) as self._session,
        ):
            yield

    def move(self, price):
        """Move the price."""
        before = self._now()
        self._exchange.set_price(price, self._clock.now())
        lost = {str(holding) for holding in self._now() if holding.liquidated}
        self.leapt_over |= {
            str(holding)
            for holding in before
            if holding.running
            and holding.level < THRESHOLD
            and holding.position not in self._opened
            and str(holding) in lost
        }

    def _now(self):
        state = orjson.loads(orjson.dumps(state_payload(self._exchange), default=str))
        return holdings_of(state, self._names)

    def calm(self):
        """Bring the price back and open anew, as their owners might, the trades that ended."""
        self.move(CALM)
        now = self._clock.now()
        running = {t.id for a in self.accounts.values() for t in self._exchange.running_trades(a)}
        for wanted in _TRADES:
            if self._trades.get(wanted) not in running:
                order = Order(
                    side=wanted.side, leverage=Fraction(wanted.leverage), quantity=QUANTITY
                )
                trade = self._exchange.open_trade(self.accounts[wanted.account], order, now)
                self._trades[wanted] = trade.id
                self._opened.add(str(trade.id))

    def _open_cross(self):
        account, book, now = self.accounts["cross"], self._exchange.cross, self._clock.now()
        book.set_leverage(account, 20, now)
        book.deposit(account, 100_000, now)
        book.order(account, CrossRequest(side=Side.LONG, quantity=QUANTITY), now)

    def clear_faults(self):
        """Let no fault wait for its call any more; return how many of which kind did."""
        spared = Counter()
        for method, path in {*chain.from_iterable(CALLS.values()), *READS}:
            while (fault := self.server.faults.take(method, path)) is not None:
                spared[fault.fault.value] += 1
        return spared

    async def calls(self):
        """Return every call that asked for a change."""
        return [Call.of(row, self._names) for row in await self._get("calls")]

    async def holdings(self):
        """Return every position, ended ones too."""
        return holdings_of(await self._get("state"), self._names)

    async def _get(self, what):
        async with self._session.get(f"/simulator/{what}") as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()
