"""What holds on the simulated exchange whatever is done to it, isolated and cross together."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import floor

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from marginguard.domain import margin
from marginguard.domain.errors import Rejected
from marginguard.domain.model import MarginMode, Side
from marginguard.domain.units import Price, Sats
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.contract import MAX_PRICE
from marginguard.simulator.cross import max_quantity
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.orders import CrossRequest, OrderType
from marginguard.simulator.trades import Order
from tests.unit.strategies import a_position

NOW = datetime(2026, 1, 1, 7, 59, tzinfo=UTC)
DEPOSITS = {"small": 300_000, "large": 50_000_000}
KEYS = st.sampled_from([*DEPOSITS])
NUMBERS = st.integers(0, 50)
PRICES = st.integers(160_000, 240_000).map(lambda steps: Price(steps / 2))


def documented_liquidation(mode, side, quantity, entry, sats, maintenance):
    """Return what the margin mathematics says, to the half dollar."""
    position = a_position(
        mode=mode,
        side=side,
        quantity=quantity,
        entry_price=entry,
        margin=sats,
        maintenance_margin=maintenance,
    )
    exact = margin.exact_liquidation_price(position)
    return MAX_PRICE if exact is None else min(MAX_PRICE, margin.to_price_step(exact))


class ExchangeMachine(RuleBasedStateMachine):
    """Random commands on two accounts, many of them refused."""

    @initialize(books_loss=st.booleans(), spread=st.sampled_from([0, 10, 800]))
    def open_exchange(self, books_loss, spread):
        self.exchange = Exchange(
            price=Price(100_000.0),
            ids=seeded_ids(7),
            spread=spread,
            losing_reduction_books_loss=books_loss,
        )
        self.cross = self.exchange.cross
        for key, balance in DEPOSITS.items():
            credentials = Credentials(key=key, secret="s", passphrase="p")
            account = self.exchange.add_account(credentials, Sats(balance), fee_tier=len(key) // 2)
            self.cross.deposit(account, Sats(balance // 3), NOW)
            self.cross.set_leverage(account, 20, NOW)
        self.now = NOW
        self.ended = {}
        self.dead_orders = {}

    def attempt(self, command):
        """Run a command; one that is refused must change nothing."""
        before = self.holdings()
        try:
            command()
        except Rejected:
            assert self.holdings() == before

    def holdings(self):
        accounts = self.exchange.accounts
        return (
            self.exchange.all_trades,
            self.cross.positions,
            [a.balance for a in accounts],
            [self.cross.open_orders(a) for a in accounts],
            [self.cross.filled_orders(a) for a in accounts],
            [self.cross.transfers(a) for a in accounts],
        )

    def pick(self, key, number):
        """Return an account, and any trade there is, of whatever state and account."""
        every = self.exchange.all_trades
        return self.exchange.account(key), every[number % len(every)].id if every else None

    @rule(
        key=KEYS,
        side=st.sampled_from(Side),
        quantity=st.integers(0, 20_000),
        leverage=st.sampled_from(["0.5", "1", "3.3", "10", "50", "100", "101"]),
        price=st.none() | PRICES,
        stop=st.none() | PRICES,
    )
    def open(self, key, side, quantity, leverage, price, stop):
        wanted = Order(
            side=side,
            quantity=quantity,
            leverage=Fraction(leverage),
            price=price,
            stop_loss=stop,
        )
        account = self.exchange.account(key)
        self.attempt(lambda: self.exchange.open_trade(account, wanted, self.now))

    @rule(key=KEYS, number=NUMBERS, cancel=st.booleans())
    def close_or_cancel(self, key, number, cancel):
        account, trade_id = self.pick(key, number)
        command = self.exchange.cancel_trade if cancel else self.exchange.close_trade
        self.attempt(lambda: command(account, trade_id, self.now))

    @rule(key=KEYS, number=NUMBERS, amount=st.integers(-1, 2_000_000), add=st.booleans())
    def move_margin(self, key, number, amount, add):
        account, trade_id = self.pick(key, number)
        move = self.exchange.add_margin if add else self.exchange.cash_in
        self.attempt(lambda: move(account, trade_id, Sats(amount)))

    @rule(key=KEYS, number=NUMBERS, price=st.none() | PRICES, stop=st.booleans())
    def set_exit(self, key, number, price, stop):
        account, trade_id = self.pick(key, number)
        command = self.exchange.set_stop_loss if stop else self.exchange.set_take_profit
        self.attempt(lambda: command(account, trade_id, price))

    @rule(key=KEYS, number=NUMBERS, thousandths=st.integers(0, 200))
    def let_the_stop_trail(self, key, number, thousandths):
        account, trade_id = self.pick(key, number)
        distance = Fraction(thousandths, 1_000)
        self.attempt(lambda: self.exchange.set_trailing_stop(account, trade_id, distance))

    @rule(
        key=KEYS,
        side=st.sampled_from(Side),
        quantity=st.integers(0, 20_000) | st.integers(0, 12_000_000),
        price=st.none() | PRICES,
    )
    def order_cross(self, key, side, quantity, price):
        wanted = CrossRequest(side=side, quantity=quantity, price=price)
        account = self.exchange.account(key)
        self.attempt(lambda: self.cross.order(account, wanted, self.now))

    @rule(key=KEYS, share=st.integers(1, 99))
    def reduce_cross(self, key, share):
        account = self.exchange.account(key)
        position = self.cross.position(account)
        side = Side.SHORT if position.side is Side.LONG else Side.LONG
        wanted = CrossRequest(side=side, quantity=position.size * share // 100)
        self.attempt(lambda: self.cross.order(account, wanted, self.now))

    @rule(key=KEYS)
    def close_cross(self, key):
        account = self.exchange.account(key)
        runs = self.cross.position(account).quantity != 0
        self.attempt(lambda: self.cross.close(account, self.now))
        assert not runs or self.cross.position(account).quantity == 0

    @rule(key=KEYS, number=NUMBERS, everything=st.booleans())
    def cancel_cross(self, key, number, everything):
        account = self.exchange.account(key)
        orders = (*self.cross.open_orders(account), *self.cross.filled_orders(account))
        if everything:
            self.attempt(lambda: self.cross.cancel_all(account, self.now))
        elif orders:
            order_id = orders[number % len(orders)].id
            self.attempt(lambda: self.cross.cancel(account, order_id, self.now))

    @rule(key=KEYS, amount=st.integers(-1, 5_000_000), deposit=st.booleans())
    def transfer(self, key, amount, deposit):
        account = self.exchange.account(key)
        move = self.cross.deposit if deposit else self.cross.withdraw
        self.attempt(lambda: move(account, Sats(amount), self.now))

    @rule(key=KEYS, leverage=st.sampled_from([0, 1, 5, 20, 100, 101]))
    def set_leverage(self, key, leverage):
        account = self.exchange.account(key)
        self.attempt(lambda: self.cross.set_leverage(account, leverage, self.now))

    @rule(percent=st.integers(-200, 200))
    def move_price(self, percent):
        moved = round(self.exchange.last * (1 + percent / 1_000) * 2) / 2
        self.exchange.set_price(Price(min(max(moved, 20_000.0), 500_000.0)), self.now)

    @rule(rate=st.sampled_from([0.0001, -0.0003, 0.01, -0.02, 0.3]))
    def settle_funding(self, rate):
        self.exchange.settle_funding(rate, self.now)

    @rule(span=st.sampled_from([timedelta(milliseconds=1), timedelta(hours=3)]))
    def pass_time(self, span):
        self.now += span
        self.exchange.pass_time(self.now)

    @invariant()
    def sats_are_conserved(self):
        for account in self.exchange.accounts:
            own = [t for t in self.exchange.all_trades if t.account == account.key]
            held = sum(t.cost for t in own if t.is_open or t.is_running)
            fees = sum(t.opening_fee + t.closing.fee for t in own if t.closing is not None)
            realised = sum(t.closing.pl for t in own if t.closing is not None)
            realised += sum(t.cashed_in_pl for t in own)
            funding = sum(t.funding_fees for t in own)
            position = self.cross.position(account)
            held += position.margin
            fees += position.trading_fees
            realised += position.realised_pl
            funding += position.funding_fees
            assert account.balance + held == DEPOSITS[account.key] + realised - fees - funding

    @invariant()
    def the_cross_margin_is_what_its_lists_say(self):
        for account in self.exchange.accounts:
            position = self.cross.position(account)
            moved = sum(transfer.amount for transfer in self.cross.transfers(account))
            fees = sum(order.trading_fee for order in self.cross.filled_orders(account))
            funding = sum(paid.fee for paid in self.cross.funding_fees(account))
            assert (fees, funding) == (position.trading_fees, position.funding_fees)
            assert position.margin == moved + position.realised_pl - fees - funding
            signed = [
                order.side.sign * order.quantity for order in self.cross.filled_orders(account)
            ]
            assert position.quantity == sum(signed)

    @invariant()
    def no_balance_and_no_running_margin_is_gone(self):
        for account in self.exchange.accounts:
            assert account.balance >= 0
            assert self.cross.position(account).margin >= 0
            assert all(t.margin > 0 for t in self.exchange.running_trades(account))

    @invariant()
    def what_has_ended_stays_as_it_ended(self):
        for trade in self.exchange.all_trades:
            if trade.closing is not None or trade.canceled_at is not None:
                assert self.ended.setdefault(trade.id, trade) == trade
        for account in self.exchange.accounts:
            alive = self.exchange.running_trades(account) + self.exchange.open_trades(account)
            assert self.ended.keys().isdisjoint(t.id for t in alive)
            orders = self.cross.filled_orders(account) + self.cross.canceled_orders(account)
            for order in orders:
                assert self.dead_orders.setdefault(order.id, order) == order
            waiting = self.cross.open_orders(account)
            assert self.dead_orders.keys().isdisjoint(order.id for order in waiting)

    @invariant()
    def a_liquidated_position_is_flat_until_it_is_funded_and_opened_again(self):
        for account in self.exchange.accounts:
            filled = self.cross.filled_orders(account)
            if filled and filled[0].type is OrderType.LIQUIDATION:
                assert self.cross.position(account).quantity == 0

    @invariant()
    def ids_are_unique_and_no_list_has_one_time_twice(self):
        ids = [t.id for t in self.exchange.all_trades]
        ids += [settled.id for settled in self.exchange.settlements]
        lists = [[settled.time for settled in self.exchange.settlements]]
        for account in self.exchange.accounts:
            filled, transfers = self.cross.filled_orders(account), self.cross.transfers(account)
            waiting = self.cross.open_orders(account) + self.cross.canceled_orders(account)
            ids += [account.id, self.cross.position(account).id]
            ids += [entry.id for entry in (*filled, *transfers, *waiting)]
            lists.append([t.closing.at for t in self.exchange.closed_trades(account)])
            lists.append([t.canceled_at for t in self.exchange.canceled_trades(account)])
            lists.append([order.filled_at for order in filled])
            lists.append([transfer.time for transfer in transfers])
            lists.append([paid.time for paid in self.cross.funding_fees(account)])
        assert len(ids) == len(set(ids))
        for times in lists:
            assert times == sorted(set(times), reverse=True)

    @invariant()
    def nothing_runs_past_an_exit_and_nothing_waits_past_its_price(self):
        last = self.exchange.last
        for account in self.exchange.accounts:
            for trade in self.exchange.running_trades(account):
                sign = trade.side.sign
                assert sign * last > sign * trade.liquidation
                assert trade.stop_loss is None or sign * last > sign * trade.stop_loss
                assert trade.take_profit is None or sign * last < sign * trade.take_profit
            waiting = self.exchange.open_trades(account) + self.cross.open_orders(account)
            assert not any(order.limit.reached_at(last) for order in waiting)
            position = self.cross.position(account)
            sign = position.side.sign
            assert position.liquidation is None or sign * last > sign * position.liquidation

    @invariant()
    def liquidation_prices_are_those_of_the_margin_mathematics(self):
        for trade in self.exchange.all_trades:
            assert trade.liquidation == documented_liquidation(
                MarginMode.ISOLATED,
                trade.side,
                trade.quantity,
                trade.entry_price,
                trade.margin,
                trade.maintenance_margin,
            )
        for position in self.cross.positions:
            if position.quantity:
                notional = position.size * 100_000_000 / Fraction(position.entry_price)
                assert position.maintenance_margin == floor(notional * Fraction("0.0015"))
                assert position.running_margin == floor(notional / position.leverage)
                assert position.liquidation == documented_liquidation(
                    MarginMode.CROSS,
                    position.side,
                    position.size,
                    position.entry_price,
                    position.margin,
                    position.maintenance_margin,
                )
            else:
                assert position.entry_price is position.liquidation is None
            assert position.size <= max_quantity(position.leverage)


ExchangeMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestExchange = ExchangeMachine.TestCase
