"""The simulated exchange as a whole: sats are conserved, whatever is done to it."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from marginguard.domain.errors import ConfigError, Rejected
from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.funding import next_funding_time
from marginguard.simulator.trades import Order
from marginguard.simulator.wire import equity, state_payload, trade_payload

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DEPOSITS = {"small": 300_000, "large": 50_000_000}
TRADE_FIELDS = {
    *("id", "type", "side", "quantity", "margin", "leverage", "price", "entryPrice"),
    *("entryMargin", "exitPrice", "liquidation", "maintenanceMargin", "stoploss"),
    *("stoplossTrailingDistance", "takeprofit", "pl", "openingFee", "closingFee"),
    *("sumFundingFees", "sumCashInPl", "sumCashInMargin", "open", "running", "canceled"),
    *("closed", "createdAt", "filledAt", "closedAt", "clientId"),
}


def credentials(key: str = "k") -> Credentials:
    return Credentials(key=key, secret=f"secret of {key}", passphrase=f"phrase of {key}")


def order(side: Side = Side.LONG, **more: object) -> Order:
    return Order(**({"side": side, "leverage": Fraction(10), "quantity": 1_000} | more))


class ExchangeMachine(RuleBasedStateMachine):
    """Random commands on two accounts, many of them refused."""

    def __init__(self):
        super().__init__()
        self.exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(7), spread=10)
        for key, balance in DEPOSITS.items():
            self.exchange.add_account(credentials(key), Sats(balance), fee_tier=len(key) // 2)
        self.now = NOW
        self.ended = {}

    def attempt(self, command):
        """Run a command; one that is refused must change nothing."""
        before = self.holdings()
        try:
            command()
        except Rejected:
            assert self.holdings() == before

    def holdings(self):
        return self.exchange.all_trades, [a.balance for a in self.exchange.accounts]

    def pick(self, key, number):
        """Return any trade there is, ended or not, of any account, and an account."""
        every = self.exchange.all_trades
        return self.exchange.account(key), every[number % len(every)].id if every else None

    @rule(
        key=st.sampled_from([*DEPOSITS]),
        side=st.sampled_from(Side),
        quantity=st.integers(0, 20_000),
        leverage=st.sampled_from(["0.5", "1", "3.3", "10", "50", "100", "101"]),
        stop=st.none() | st.integers(160_000, 240_000).map(lambda n: n / 2),
    )
    def open(self, key, side, quantity, leverage, stop):
        wanted = order(side, quantity=quantity, leverage=Fraction(leverage), stop_loss=stop)
        account = self.exchange.account(key)
        self.attempt(lambda: self.exchange.open_trade(account, wanted, self.now))

    @rule(key=st.sampled_from([*DEPOSITS]), number=st.integers(0, 50))
    def close(self, key, number):
        account, trade_id = self.pick(key, number)
        self.attempt(lambda: self.exchange.close_trade(account, trade_id, self.now))

    @rule(
        key=st.sampled_from([*DEPOSITS]),
        number=st.integers(0, 50),
        amount=st.integers(-1, 2_000_000),
        add=st.booleans(),
    )
    def move_margin(self, key, number, amount, add):
        account, trade_id = self.pick(key, number)
        move = self.exchange.add_margin if add else self.exchange.cash_in
        self.attempt(lambda: move(account, trade_id, Sats(amount)))

    @rule(
        key=st.sampled_from([*DEPOSITS]),
        number=st.integers(0, 50),
        price=st.none() | st.integers(160_000, 240_000).map(lambda n: n / 2),
        stop=st.booleans(),
    )
    def set_exit(self, key, number, price, stop):
        account, trade_id = self.pick(key, number)
        command = self.exchange.set_stop_loss if stop else self.exchange.set_take_profit
        self.attempt(lambda: command(account, trade_id, price))

    @rule(percent=st.integers(-200, 200))
    def move_price(self, percent):
        moved = round(self.exchange.last * (1 + percent / 1_000) * 2) / 2
        self.exchange.set_price(Price(min(max(moved, 20_000.0), 500_000.0)), self.now)

    @rule(rate=st.sampled_from([0.0001, -0.0003, 0.01, -0.02, 0.3]))
    def settle_funding(self, rate):
        self.exchange.settle_funding(rate, self.now)

    @rule(milliseconds=st.integers(0, 3))
    def pass_time(self, milliseconds):
        self.now += timedelta(milliseconds=milliseconds)

    @invariant()
    def sats_are_conserved(self):
        for account in self.exchange.accounts:
            own = [t for t in self.exchange.all_trades if t.account == account.key]
            held = sum(t.margin + t.maintenance_margin for t in own if t.closing is None)
            fees = sum(t.opening_fee + t.closing.fee for t in own if t.closing is not None)
            realised = sum(t.closing.pl for t in own if t.closing is not None)
            realised += sum(t.cashed_in_pl for t in own)
            funding = sum(t.funding_fees for t in own)
            assert account.balance + held == DEPOSITS[account.key] + realised - fees - funding

    @invariant()
    def no_balance_and_no_running_margin_is_gone(self):
        for account in self.exchange.accounts:
            assert account.balance >= 0
            assert all(t.margin > 0 for t in self.exchange.running_trades(account))

    @invariant()
    def an_ended_trade_stays_as_it_ended(self):
        for trade in self.exchange.all_trades:
            if trade.closing is not None:
                assert self.ended.setdefault(trade.id, trade) == trade
        running = {t.id for a in self.exchange.accounts for t in self.exchange.running_trades(a)}
        assert running.isdisjoint(self.ended)

    @invariant()
    def ids_are_unique_and_ends_have_times_of_their_own(self):
        every = self.exchange.all_trades
        assert len({t.id for t in every}) == len(every)
        for account in self.exchange.accounts:
            times = [t.closing.at for t in self.exchange.closed_trades(account)]
            assert times == sorted(set(times), reverse=True)

    @invariant()
    def no_running_trade_is_past_an_exit(self):
        last = self.exchange.last
        for account in self.exchange.accounts:
            for trade in self.exchange.running_trades(account):
                sign = trade.side.sign
                assert sign * last > sign * trade.liquidation
                assert trade.stop_loss is None or sign * last > sign * trade.stop_loss
                assert trade.take_profit is None or sign * last < sign * trade.take_profit


ExchangeMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestExchange = ExchangeMachine.TestCase


def test_without_a_spread_every_price_is_the_last_price():
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1))

    assert exchange.bid == exchange.ask == exchange.index == exchange.last == 100_000


def test_a_spread_is_paid_on_opening_and_on_closing():
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1), spread=20)
    account = exchange.add_account(credentials(), Sats(10_000_000))

    trade = exchange.open_trade(account, order(), NOW)

    assert trade.entry_price == 100_010
    assert exchange.close_trade(account, trade.id, NOW).closing.price == 99_990
    assert exchange.index == 100_000


def test_each_half_of_a_spread_is_rounded_up_to_the_price_step():
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1), spread=0.5)

    assert (exchange.bid, exchange.ask) == (99_999.5, 100_000.5)


def test_a_spread_beyond_the_margin_refuses_the_trade():
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1), spread=4_000)
    account = exchange.add_account(credentials(), Sats(10_000_000))

    with pytest.raises(Rejected, match="spread"):
        exchange.open_trade(account, order(leverage=Fraction(100)), NOW)


@pytest.mark.parametrize("price", [0, -1, 100.25, float("nan"), float("inf"), 1e9])
def test_what_is_no_price_is_refused_and_changes_nothing(price):
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1))

    with pytest.raises(Rejected):
        exchange.set_price(Price(price), NOW)

    assert exchange.last == 100_000


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_what_is_no_funding_rate_is_refused(rate):
    with pytest.raises(Rejected):
        Exchange(price=Price(1.0), ids=seeded_ids(1)).settle_funding(rate, NOW)


def test_bad_accounts_and_spreads_are_refused():
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1))
    exchange.add_account(credentials("one"), Sats(0))

    with pytest.raises(ConfigError, match="unique"):
        exchange.add_account(credentials("one"), Sats(0))
    with pytest.raises(ConfigError, match="0 sats or more"):
        exchange.add_account(credentials("two"), Sats(-1))
    with pytest.raises(ConfigError, match="fee tier"):
        exchange.add_account(credentials("two"), Sats(0), fee_tier=5)
    with pytest.raises(ConfigError, match="spread"):
        Exchange(price=Price(100_000.0), ids=seeded_ids(1), spread=-1)


def test_one_seed_gives_one_history():
    def history():
        exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(42))
        account = exchange.add_account(credentials(), Sats(10_000_000))
        exchange.open_trade(account, order(), NOW)
        exchange.set_price(Price(80_000.0), NOW)
        return state_payload(exchange)

    assert history() == history()


@pytest.mark.parametrize(
    ("hour", "expected"), [(0, (1, 8)), (7, (1, 8)), (8, (1, 16)), (15, (1, 16)), (23, (2, 0))]
)
def test_funding_is_due_every_8_hours(hour, expected):
    day, next_hour = expected

    assert next_funding_time(NOW.replace(hour=hour, minute=59)) == NOW.replace(
        day=day, hour=next_hour
    )


def test_a_trade_payload_has_every_field_and_whole_sats():
    exchange = Exchange(price=Price(70_000.0), ids=seeded_ids(1))
    account = exchange.add_account(credentials(), Sats(10_000_000))
    trade = exchange.open_trade(account, order(client_id="mine"), NOW)
    exchange.set_price(Price(70_000.5), NOW)

    running = trade_payload(trade, exchange.last)
    ended = trade_payload(exchange.close_trade(account, trade.id, NOW), exchange.last)

    assert set(running) == set(ended) == TRADE_FIELDS
    assert (running["running"], running["closed"]) == (True, False)
    assert (ended["running"], ended["closed"]) == (False, True)
    assert running["closedAt"] is running["exitPrice"] is None
    assert ended["closedAt"] == "2026-01-01T12:00:00.000Z"
    assert ended["exitPrice"] == 70_000.5
    assert running["side"] == "buy"
    assert running["clientId"] == "mine"
    assert running["stoploss"] == running["takeprofit"] == 0
    for field in ("margin", "maintenanceMargin", "pl", "openingFee", "closingFee", "entryMargin"):
        assert type(running[field]) is int, field
        assert type(ended[field]) is int, field


def test_equity_is_balance_and_margin_and_pl():
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1))
    account = exchange.add_account(credentials(), Sats(1_000_000))
    exchange.open_trade(account, order(), NOW)
    exchange.set_price(Price(110_000.0), NOW)

    assert equity(exchange, account) == 1_000_000 - 2_100 + 90_909


def test_no_secret_is_in_the_state_or_in_a_repr():
    """Failure 36: secrets are shown nowhere."""
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1))
    account = exchange.add_account(credentials("key"), Sats(1))

    shown = f"{state_payload(exchange)}{account!r}"

    assert "key" in shown
    assert "secret of key" not in shown
    assert "phrase of key" not in shown
