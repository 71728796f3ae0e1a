"""The simulated exchange as a whole: its accounts, its market, and how it is shown."""

from datetime import UTC, datetime
from fractions import Fraction

import pytest

from marginguard.domain.errors import ConfigError, Rejected
from marginguard.domain.model import Side
from marginguard.domain.units import Price, Sats
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.funding import next_funding_time
from marginguard.simulator.trades import Order
from marginguard.simulator.wire import equity, state_payload, trade_payload

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
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
