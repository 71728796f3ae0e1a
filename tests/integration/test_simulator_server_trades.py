"""The simulated exchange over real sockets: trades and their lists."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.integration.served_exchange import BALANCE, an_exchange, served
from tests.integration.signed_client import NOW, TRADE, Client, StillClock


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
async def client(clock: StillClock) -> AsyncIterator[Client]:
    async with served(an_exchange(), clock) as client:
        yield client


async def test_a_trade_goes_from_opening_to_the_closed_list(client):
    opened = await client.open_trade(clientId="mine", stoploss=95_000)
    assert (opened["running"], opened["clientId"], opened["stoploss"]) == (True, "mine", 95_000)
    assert await client.running() == [opened]

    grown = await client.call("POST", f"{TRADE}/add-margin", {"id": opened["id"], "amount": 5_000})
    assert grown.value["margin"] == opened["margin"] + 5_000
    assert grown.value["liquidation"] < opened["liquidation"]

    await client.plain("PUT", "/simulator/price", '{"price": 110000}')
    assert (await client.running())[0]["pl"] == 90_909

    closed = await client.call("POST", f"{TRADE}/close", {"id": opened["id"]})
    assert (closed.value["closed"], closed.value["pl"]) == (True, 90_909)
    assert await client.running() == []
    page = (await client.call("GET", f"{TRADE}s/closed")).value
    assert page == {"data": [closed.value], "nextCursor": None}
    account = (await client.call("GET", "/v3/account")).value
    assert account["balance"] == BALANCE + 90_909 - 1_000 - 909


async def test_leverage_may_be_fractional_and_margin_given_instead_of_quantity(client):
    by_quantity = await client.open_trade(leverage=7.5)
    by_margin = await client.open_trade(leverage=7.5, quantity=None, margin=133_333)

    assert (by_quantity["leverage"], by_quantity["margin"]) == (7.5, 133_333)
    assert (by_margin["quantity"], by_margin["margin"]) == (999, 133_333)


async def test_stop_loss_and_take_profit_are_put_and_deleted(client):
    trade_id = (await client.open_trade())["id"]

    for name, price in (("stoploss", 95_000.5), ("takeprofit", 105_000)):
        path = f"{TRADE}/{name}"
        put = await client.call("PUT", path, {"id": trade_id, "value": price})
        assert put.value[name] == price
        deleted = await client.call("DELETE", path, id=trade_id)
        assert deleted.value[name] == 0
        await client.call("PUT", path, {"id": trade_id, "value": price})
        assert (await client.call("PUT", path, {"id": trade_id, "value": 0})).value[name] == 0


async def test_a_trailing_stop_is_put_as_a_share_of_the_price_and_follows_the_market(client):
    trade_id = (await client.open_trade())["id"]
    path = f"{TRADE}/stoploss"
    trailing = {"id": trade_id, "value": 0.05, "mode": "trailing"}
    shown = ("stoploss", "stoplossTrailingDistance")

    put = await client.call("PUT", path, trailing)
    assert [put.value[name] for name in shown] == [95_000, 0.05]
    await client.plain("PUT", "/simulator/price", '{"price": 102000}')
    assert [(await client.running())[0][name] for name in shown] == [96_900, 0.05]

    fixed = await client.call("PUT", path, {"id": trade_id, "value": 97_000, "mode": "fixed"})
    assert [fixed.value[name] for name in shown] == [97_000, 0]
    await client.call("PUT", path, trailing)
    deleted = await client.call("DELETE", path, id=trade_id)
    assert [deleted.value[name] for name in shown] == [0, 0]


async def test_two_trades_may_be_opened_with_one_tag_and_both_keep_it_to_the_end(client):
    """The exchange does not take the tag for a reason to carry an order out only once."""
    order = {"clientId": "mine", "stoploss": 95_000, "takeprofit": 105_000}
    opened = [await client.open_trade(**order) for _ in range(2)]
    assert opened[0]["id"] != opened[1]["id"]
    assert await client.running() == opened
    assert [(t["clientId"], t["stoploss"], t["takeprofit"]) for t in opened] == [
        ("mine", 95_000, 105_000)
    ] * 2

    await client.plain("PUT", "/simulator/price", '{"price": 95000}')

    closed = (await client.call("GET", f"{TRADE}s/closed")).value["data"]
    assert {t["id"] for t in closed} == {t["id"] for t in opened}
    assert [t["clientId"] for t in closed] == ["mine"] * 2


@pytest.mark.parametrize(
    ("side", "value", "allowed"),
    [
        ("buy", 90_909, True),  # its liquidation price
        ("buy", 90_908.5, False),
        ("buy", 99_999.5, True),
        ("buy", 100_000, False),
        ("sell", 111_111, True),
        ("sell", 111_111.5, False),
        ("sell", 100_000.5, True),
        ("sell", 100_000, False),
        ("buy", 95_000.25, False),
    ],
)
async def test_a_stop_loss_lies_between_liquidation_and_the_market(client, side, value, allowed):
    """The same on an order as on a running trade."""
    order = {"type": "market", "side": side, "leverage": 10, "quantity": 1_000}
    trade_id = (await client.open_trade(side=side))["id"]

    put = await client.call("PUT", f"{TRADE}/stoploss", {"id": trade_id, "value": value})
    opened = await client.call("POST", TRADE, order | {"stoploss": value})

    assert (put.status, opened.status) == ((200, 200) if allowed else (400, 400))


async def test_a_cash_in_reaches_the_balance(client):
    trade_id = (await client.open_trade())["id"]
    before = (await client.call("GET", "/v3/account")).value["balance"]

    answer = await client.call("POST", f"{TRADE}/cash-in", {"id": trade_id, "amount": 5_000})

    assert answer.value["sumCashInMargin"] == 5_000
    assert (await client.call("GET", "/v3/account")).value["balance"] == before + 5_000


async def test_the_closed_list_is_paged_newest_first_without_loss(client, clock):
    """A crash ends many trades at one time: each must still be on one page, and on one only."""
    ids = [(await client.open_trade(quantity=10 + n))["id"] for n in range(7)]
    await client.plain("PUT", "/simulator/price", '{"price": 50000}')

    found, cursor, pages = [], {}, 0
    while True:
        page = (await client.call("GET", f"{TRADE}s/closed", limit=3, **cursor)).value
        found += page["data"]
        pages += 1
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}

    assert pages == 3
    assert [trade["id"] for trade in found] == ids[::-1]
    times = [trade["closedAt"] for trade in found]
    assert times == sorted(times, reverse=True)


async def test_the_closed_list_keeps_to_its_period(client, clock):
    first = (await client.open_trade())["id"]
    second = (await client.open_trade())["id"]
    await client.call("POST", f"{TRADE}/close", {"id": first})
    clock.time = client.at = NOW + timedelta(seconds=10)
    await client.call("POST", f"{TRADE}/close", {"id": second})

    async def ids(**period: str) -> list[str]:
        page = await client.call("GET", f"{TRADE}s/closed", **period)
        return [trade["id"] for trade in page.value["data"]]

    assert await ids(**{"from": "2026-01-01T12:00:05.000Z"}) == [second]
    assert await ids(to="2026-01-01T12:00:05.000Z") == [first]
    assert await ids(**{"from": "2026-01-01T12:00:10.000Z"}) == [second]
    assert await ids() == [second, first]


async def test_open_and_canceled_lists_are_empty(client):
    assert (await client.call("GET", f"{TRADE}s/open")).value == []
    canceled = await client.call("GET", f"{TRADE}s/canceled", limit=10)
    assert canceled.value == {"data": [], "nextCursor": None}
