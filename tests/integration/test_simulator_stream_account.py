"""The simulated exchange's stream over real WebSockets: what an account is told."""

import pytest

from marginguard.domain.errors import Rejected
from marginguard.domain.model import Side
from marginguard.domain.units import Sats
from marginguard.simulator.orders import CrossRequest
from tests.integration.streamed_market import (
    FUNDING_MS,
    MARKET,
    NOW,
    NOW_MS,
    ORDERS,
    POSITION,
    TRADES,
    Market,
)


@pytest.fixture
async def market():
    async with Market().serving(rate_scale=100) as market:
        yield market


async def test_a_trade_is_told_of_from_fill_to_close(market):
    async with market.stream() as stream:
        await stream.authenticate()
        await stream.subscribe(TRADES)
        trade = market.open_trade(client_id="mine")
        market.move(100_500)
        market.exchange.close_trade(market.accounts["key"], trade.id, NOW)
        filled = await stream.push(TRADES)
        closed = await stream.push(TRADES)

    assert filled == {
        "pair": "btc_usd",
        "event": "filled",
        "trade": {
            "id": str(trade.id),
            "clientId": "mine",
            "side": "buy",
            "type": "market",
            "quantity": 1_000,
            "margin": 100_000,
            "leverage": 10,
            "price": 100_000,
            "openingFee": 1_000,
            "createdAt": NOW_MS,
        },
    }
    assert closed == {
        "pair": "btc_usd",
        "event": "closed",
        "trade": {
            "id": str(trade.id),
            "clientId": "mine",
            "closedAt": NOW_MS,
            "closingFee": 995,
            "pl": 4_975,
            "exitPrice": 100_500,
        },
    }


@pytest.mark.parametrize(
    ("price", "event", "fields"),
    [
        (90_909.0, "liquidation", {"closedAt", "closingFee", "exitPrice"}),
        (95_000.0, "stoploss", {"closedAt", "closingFee", "exitPrice", "pl"}),
        (105_000.0, "takeprofit", {"closedAt", "closingFee", "exitPrice", "pl"}),
    ],
)
async def test_what_ends_a_trade_is_told(market, price, event, fields):
    limits = {} if event == "liquidation" else {"stop_loss": 95_000.0, "take_profit": 105_000.0}
    async with market.stream() as stream:
        await stream.authenticate()
        trade = market.open_trade(**limits)
        await stream.subscribe(TRADES)
        market.move(price)
        told = await stream.push(TRADES)

    assert (told["event"], told["trade"]["id"]) == (event, str(trade.id))
    assert told["trade"]["exitPrice"] == price
    assert set(told["trade"]) == {"id", "clientId"} | fields


async def test_a_limit_trade_is_told_of_when_placed_and_when_canceled(market):
    async with market.stream() as stream:
        await stream.authenticate()
        await stream.subscribe(TRADES)
        trade = market.open_trade(price=90_000.0)
        market.exchange.cancel_trade(market.accounts["key"], trade.id, NOW)
        placed = await stream.push(TRADES)
        canceled = await stream.push(TRADES)

    assert (placed["event"], placed["trade"]["type"]) == ("open", "limit")
    assert placed["trade"]["price"] == 90_000
    assert canceled["event"] == "canceled"
    assert canceled["trade"] == {"id": str(trade.id), "clientId": None, "closedAt": NOW_MS}


async def test_funding_is_told_to_those_who_pay_and_to_all(market):
    funding = f"{MARKET}/funding"
    async with market.stream() as stream:
        await stream.authenticate()
        trade = market.open_trade()
        await stream.subscribe(TRADES, funding)
        market.exchange.settle_funding(0.0001, NOW)
        paid = await stream.push(TRADES)
        settled = await stream.push(funding)

    (running,) = market.exchange.running_trades(market.accounts["key"])
    assert paid["event"] == "funding"
    assert paid["trade"] == {
        "id": str(trade.id),
        "clientId": None,
        "margin": 99_900,
        "liquidationPrice": running.liquidation,
        "fundingFee": 100,
        "fundedAt": NOW_MS,
    }
    assert settled == {"pair": "btc_usd", "current": {"rate": 0.0001, "time": FUNDING_MS}}


async def test_a_limit_trade_is_told_of_when_it_fills(market):
    async with market.stream() as stream:
        await stream.authenticate()
        market.open_trade(price=99_000.0)
        await stream.subscribe(TRADES)
        market.move(98_900)
        filled = await stream.push(TRADES)

    assert (filled["event"], filled["trade"]["type"]) == ("filled", "limit")
    assert filled["trade"]["price"] == 99_000


async def test_the_cross_position_is_told_of_with_its_orders(market):
    account, cross = market.accounts["key"], market.exchange.cross
    async with market.stream() as stream:
        await stream.authenticate()
        await stream.subscribe(POSITION, ORDERS)
        cross.deposit(account, Sats(500_000), NOW)
        cross.set_leverage(account, 10, NOW)
        order = cross.order(account, CrossRequest(side=Side.LONG, quantity=1_000), NOW)
        events = [await stream.push(POSITION) for _ in range(3)]
        placed = await stream.push(ORDERS)

    assert [told["event"] for told in events] == ["deposit", "leverage", "new"]
    assert events[0]["position"] == {
        "quantity": 0,
        "leverage": 1,
        "margin": 500_000,
        "entryPrice": None,
        "liquidation": None,
        "totalPl": 0,
        "fundingFees": 0,
        "tradingFees": 0,
        "initialMargin": 0,
        "maintenanceMargin": 0,
        "runningMargin": 0,
        "deltaPl": 0,
        "updatedAt": NOW_MS,
    }
    position = events[2]["position"]
    assert (position["quantity"], position["leverage"]) == (1_000, 10)
    assert (position["margin"], position["entryPrice"]) == (499_000, 100_000)
    assert placed == {
        "pair": "btc_usd",
        "event": "new",
        "order": {
            "id": str(order.id),
            "clientId": None,
            "side": "buy",
            "type": "market",
            "quantity": 1_000,
            "price": 100_000,
            "tradingFee": 1_000,
            "createdAt": NOW_MS,
            "filledAt": int(order.filled_at.timestamp() * 1000),
        },
    }


async def test_a_cross_limit_order_is_told_of_until_it_fills_or_is_canceled(market):
    account, cross = market.accounts["key"], market.exchange.cross
    cross.deposit(account, Sats(500_000), NOW)
    async with market.stream() as stream:
        await stream.authenticate()
        await stream.subscribe(ORDERS)
        for price in (99_000.0, 90_000.0):
            request = CrossRequest(side=Side.LONG, quantity=100, price=price)
            order = cross.order(account, request, NOW)
        market.move(98_500)
        cross.cancel(account, order.id, NOW)
        told = [await stream.push(ORDERS) for _ in range(4)]

    common = {"id", "clientId", "side", "type", "quantity", "price", "createdAt"}
    assert [(push["event"], push["order"]["price"]) for push in told] == [
        ("new", 99_000),
        ("new", 90_000),
        ("limit", 99_000),
        ("canceled", 90_000),
    ]
    assert [set(push["order"]) - common for push in told] == [
        {"tradingFee"},
        {"tradingFee"},
        {"tradingFee", "filledAt"},
        {"canceledAt"},
    ]


async def test_the_liquidation_of_a_cross_position_is_told(market):
    account, cross = market.accounts["key"], market.exchange.cross
    cross.deposit(account, Sats(200_000), NOW)
    cross.set_leverage(account, 10, NOW)
    cross.order(account, CrossRequest(side=Side.LONG, quantity=1_000), NOW)
    async with market.stream() as stream:
        await stream.authenticate()
        await stream.subscribe(POSITION)
        market.move(50_000)
        told = await stream.push(POSITION)

    assert (told["event"], told["position"]["quantity"]) == ("liquidation", 0)


async def test_adding_margin_and_a_refused_command_have_no_event(market):
    async with market.stream() as stream:
        await stream.authenticate()
        trade = market.open_trade()
        await stream.subscribe(TRADES)
        market.exchange.add_margin(market.accounts["key"], trade.id, 5_000)
        with pytest.raises(Rejected):
            market.open_trade(quantity=0)
        market.exchange.close_trade(market.accounts["key"], trade.id, NOW)

        assert (await stream.push(TRADES))["event"] == "closed"


async def test_accounts_hear_of_their_own_trades_alone(market):
    async with market.stream() as mine, market.stream() as theirs:
        await mine.authenticate("key")
        await theirs.authenticate("other")
        for stream in (mine, theirs):
            await stream.subscribe(TRADES)
        own = market.open_trade("key")
        foreign = market.open_trade("other")

        assert (await mine.push(TRADES))["trade"]["id"] == str(own.id)
        assert (await theirs.push(TRADES))["trade"]["id"] == str(foreign.id)
