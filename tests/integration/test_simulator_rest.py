"""REST v3 of the simulated exchange: cross margin, limit orders, candles, funding, paging."""

from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import pytest

from marginguard.domain.units import Price, Sats
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.server import serve
from tests.integration.signed_client import NOW, TRADE, Client, StillClock

BALANCE = 10_000_000
CROSS = "/v3/futures/cross"
MARKET = {"type": "market", "side": "buy", "quantity": 1_000}
MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
async def client(clock: StillClock) -> AsyncIterator[Client]:
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1))
    exchange.add_account(
        Credentials(key="key", secret="secret", passphrase="phrase"), Sats(BALANCE)
    )
    timeout = aiohttp.ClientTimeout(total=10)
    async with (
        serve(exchange, clock=clock, rate_scale=1000) as server,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        yield Client(session=session, server=server)


async def value(client, method, path, body=None, **query):
    answer = await client.call(method, path, body, **query)
    assert answer.status == 200, answer.text
    return answer.value


async def funded(client, margin=500_000, leverage=10):
    await value(client, "POST", f"{CROSS}/deposit", {"amount": margin})
    return await value(client, "PUT", f"{CROSS}/leverage", {"leverage": leverage})


async def move(client, price, **more):
    body = str({"price": price} | more).replace("'", '"')
    answer = await client.plain("PUT", "/simulator/price", body)
    assert answer.status == 200, answer.text
    return answer.value


async def pages(client, path, limit, call=None):
    """Return every entry of a list, read in pages of `limit`, and how many pages it took."""
    found, cursor, count = [], {}, 0
    while cursor is not None:
        answer = await (call or client.call)("GET", path, limit=limit, **cursor)
        found += answer.value["data"]
        count += 1
        following = answer.value["nextCursor"]
        cursor = None if following is None else {"cursor": following}
    return found, count


async def test_an_untouched_cross_position_is_flat(client):
    position = await value(client, "GET", f"{CROSS}/position")

    assert position.pop("id")
    assert position == {
        "quantity": 0,
        "margin": 0,
        "leverage": 1,
        "entryPrice": None,
        "liquidation": None,
        "initialMargin": 0,
        "maintenanceMargin": 0,
        "runningMargin": 0,
        "totalPl": 0,
        "deltaPl": 0,
        "fundingFees": 0,
        "tradingFees": 0,
        "updatedAt": "1970-01-01T00:00:00.000Z",
    }


async def test_a_cross_position_goes_from_deposit_to_withdrawal(client):
    assert (await funded(client))["leverage"] == 10
    order = await value(client, "POST", f"{CROSS}/order", MARKET | {"clientId": "mine"})
    assert (order["filled"], order["clientId"], order["tradingFee"]) == (True, "mine", 1_000)

    position = await value(client, "GET", f"{CROSS}/position")
    assert (position["quantity"], position["entryPrice"]) == (1_000, 100_000)
    assert (position["margin"], position["liquidation"]) == (499_000, 66_778)
    assert (position["runningMargin"], position["maintenanceMargin"]) == (100_000, 1_500)

    await move(client, 125_000)
    sell = MARKET | {"side": "sell", "quantity": 400}
    await value(client, "POST", f"{CROSS}/order", sell)
    reduced = await value(client, "GET", f"{CROSS}/position")
    assert (reduced["quantity"], reduced["margin"]) == (600, 499_000 + 80_000 - 320)
    assert reduced["totalPl"] == 120_000

    closed = await value(client, "POST", f"{CROSS}/position/close")
    assert (closed["side"], closed["quantity"], closed["price"]) == ("sell", 600, 125_000)
    flat = await value(client, "GET", f"{CROSS}/position")
    assert (flat["quantity"], flat["margin"]) == (0, 499_000 + 200_000 - 320 - 480)

    left = await value(client, "POST", f"{CROSS}/withdraw", {"amount": flat["margin"]})
    assert left["margin"] == 0
    account = await value(client, "GET", "/v3/account")
    assert account["balance"] == BALANCE + 200_000 - 1_000 - 320 - 480


async def test_the_cross_position_shows_in_the_state_while_it_lives_and_after(client):
    await funded(client)
    await value(client, "POST", f"{CROSS}/order", MARKET)
    position = await value(client, "GET", f"{CROSS}/position")

    state = (await client.plain("GET", "/simulator/state")).value
    assert state["crossPositions"] == [position | {"account": "key"}]
    assert state["accounts"][0]["equity"] == BALANCE - 1_000

    await move(client, 50_000)
    state = (await client.plain("GET", "/simulator/state")).value
    (lost,) = state["crossPositions"]
    assert (lost["quantity"], lost["margin"], lost["entryPrice"]) == (0, 0, None)
    assert state["accounts"][0]["equity"] == BALANCE - 500_000


async def test_cross_orders_wait_fill_and_are_canceled(client):
    await funded(client)
    limit = MARKET | {"type": "limit", "price": 95_000, "quantity": 10}
    first = await value(client, "POST", f"{CROSS}/order", limit)
    second = await value(client, "POST", f"{CROSS}/order", limit | {"price": 90_000})
    third = await value(client, "POST", f"{CROSS}/order", limit | {"price": 110_000.5})
    assert await value(client, "GET", f"{CROSS}/orders/open") == [first, second, third]

    await move(client, 94_000)
    canceled = await value(client, "POST", f"{CROSS}/order/cancel", {"id": second["id"]})
    assert (canceled["canceled"], canceled["open"]) == (True, False)
    assert canceled["canceledAt"] is not None
    (rest,) = await value(client, "POST", f"{CROSS}/orders/cancel-all")
    assert rest["id"] == third["id"]

    assert await value(client, "GET", f"{CROSS}/orders/open") == []
    page = await value(client, "GET", f"{CROSS}/orders/filled")
    (filled,) = page["data"]
    assert (filled["id"], filled["price"], filled["type"]) == (first["id"], 95_000, "limit")


async def test_a_leverage_may_be_written_as_a_whole_float(client):
    assert (await funded(client, leverage=25.0))["leverage"] == 25


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "order", {}),
        ("POST", "order", MARKET | {"quantity": 0}),
        ("POST", "order", MARKET | {"quantity": -1_000}),
        ("POST", "order", MARKET | {"quantity": 1.5}),
        ("POST", "order", MARKET | {"quantity": 10_000}),
        ("POST", "order", MARKET | {"side": "long"}),
        ("POST", "order", MARKET | {"type": "limit"}),
        ("POST", "order", MARKET | {"price": 95_000}),
        ("POST", "order", MARKET | {"type": "limit", "price": 95_000.3}),
        ("POST", "order", MARKET | {"clientId": "x" * 65}),
        ("POST", "order", MARKET | {"leverage": 10}),
        ("POST", "order/cancel", {"id": "no uuid"}),
        ("POST", "position/close", None),
        ("POST", "deposit", {"amount": 0}),
        ("POST", "deposit", {"amount": 10**9}),
        ("POST", "deposit", {"amount": 1.5}),
        ("POST", "deposit", None),
        ("POST", "withdraw", {"amount": -1}),
        ("POST", "withdraw", {"amount": 500_001}),
        ("PUT", "leverage", {"leverage": 0}),
        ("PUT", "leverage", {"leverage": 10.5}),
        ("PUT", "leverage", {"leverage": 101}),
        ("PUT", "leverage", {"leverage": 1e300}),
        ("PUT", "leverage", {"leverage": "10"}),
    ],
)
async def test_a_cross_call_that_breaks_a_rule_is_a_bad_request_and_changes_nothing(
    client, method, path, body
):
    before = await funded(client)

    answer = await client.call(method, f"{CROSS}/{path}", body)

    assert (answer.status, answer.value["code"]) == (400, "BAD_REQUEST")
    assert answer.value["message"]
    assert await value(client, "GET", f"{CROSS}/position") == before
    assert await value(client, "GET", f"{CROSS}/orders/open") == []
    assert (await client.calls())[-1]["applied"] is False


async def test_an_unknown_cross_order_is_not_found(client):
    unknown = {"id": "00000000-0000-4000-8000-000000000000"}

    answer = await client.call("POST", f"{CROSS}/order/cancel", unknown)

    assert (answer.status, answer.value["code"]) == (404, "NOT_FOUND")


async def test_the_lists_of_the_cross_position_are_paged_newest_first_without_loss(client):
    """Everything happens at one time of the clock: each must be on one page, and on one only."""
    await funded(client)
    quantities = [10, 20, 30, 40, 50]
    for quantity in quantities:
        await value(client, "POST", f"{CROSS}/order", MARKET | {"quantity": quantity})
        await value(client, "POST", f"{CROSS}/deposit", {"amount": quantity})
        await client.plain("POST", "/simulator/funding", '{"rate": 0.0001}')
    await value(client, "POST", f"{CROSS}/withdraw", {"amount": 7})

    orders, order_pages = await pages(client, f"{CROSS}/orders/filled", 2)
    transfers, transfer_pages = await pages(client, f"{CROSS}/transfers", 4)
    fees, fee_pages = await pages(client, f"{CROSS}/funding-fees", 5)

    assert [order["quantity"] for order in orders] == quantities[::-1]
    assert order_pages == 3
    assert [transfer["amount"] for transfer in transfers] == [-7, 50, 40, 30, 20, 10, 500_000]
    assert transfer_pages == 2
    assert [paid["fee"] for paid in fees] == [15, 10, 6, 3, 1]
    assert fee_pages == 1
    assert len({paid["settlementId"] for paid in fees}) == 5
    for times in ([t["time"] for t in transfers], [o["filledAt"] for o in orders]):
        assert times == sorted(set(times), reverse=True)


async def test_funding_settlements_need_no_signature_and_are_paged(client, clock):
    await client.plain("GET", "/v3/ping")
    await client.plain("POST", "/simulator/funding", '{"rate": -0.0003}')
    await move(client, 90_000)
    clock.time = NOW + timedelta(hours=13)

    path = "/v3/futures/funding-settlements"
    first = (await client.plain("GET", f"{path}?limit=2")).value
    last = (await client.plain("GET", f"{path}?limit=2&cursor={first['nextCursor']}")).value

    found = [*first["data"], *last["data"]]
    assert all(settlement.pop("id") for settlement in found)
    assert found == [
        {"time": "2026-01-02T00:00:00.000Z", "fundingRate": 0.0001, "fixingPrice": 90_000},
        {"time": "2026-01-01T16:00:00.000Z", "fundingRate": 0.0001, "fixingPrice": 90_000},
        {"time": "2026-01-01T12:00:00.000Z", "fundingRate": -0.0003, "fixingPrice": 100_000},
    ]
    assert last["nextCursor"] is None


async def test_funding_takes_effect_before_the_call_that_comes_after_its_time(client, clock):
    trade = await client.open_trade()
    clock.time = client.at = NOW.replace(hour=16)

    (settled,) = await client.running()

    assert settled["sumFundingFees"] == 100
    assert settled["margin"] == trade["margin"] - 100


async def test_candles_need_no_signature_and_are_paged_newest_first(client, clock):
    for minute, price in enumerate([101_000, 99_000, 102_000.5]):
        clock.time = NOW + minute * MINUTE
        await move(client, price)

    path = "/v3/futures/candles?range=1m&limit=2"
    first = (await client.plain("GET", path)).value
    last = (await client.plain("GET", f"{path}&cursor={first['nextCursor']}")).value
    hours = (await client.plain("GET", "/v3/futures/candles?range=1h")).value

    assert first["data"] == [
        {
            "time": "2026-01-01T12:02:00.000Z",
            "open": 99_000,
            "high": 102_000.5,
            "low": 99_000,
            "close": 102_000.5,
            "volume": 0,
        },
        {
            "time": "2026-01-01T12:01:00.000Z",
            "open": 101_000,
            "high": 101_000,
            "low": 99_000,
            "close": 99_000,
            "volume": 0,
        },
    ]
    assert [c["time"] for c in last["data"]] == ["2026-01-01T12:00:00.000Z"]
    assert last["nextCursor"] is None
    (hour,) = hours["data"]
    assert (hour["open"], hour["high"], hour["low"]) == (100_000, 102_000.5, 99_000)


async def test_candles_keep_to_their_period(client, clock):
    for minute in range(5):
        clock.time = NOW + minute * MINUTE
        await move(client, 100_000 + minute)

    period = "from=2026-01-01T12:01:00.000Z&to=2026-01-01T12:03:00.000Z"
    page = (await client.plain("GET", f"/v3/futures/candles?{period}")).value

    assert [candle["close"] for candle in page["data"]] == [100_003, 100_002, 100_001]


@pytest.mark.parametrize("query", ["range=2m", "limit=0", "limit=1001", "from=now", "x=1"])
async def test_candles_that_make_no_sense_are_a_bad_request(client, query):
    answer = await client.plain("GET", f"/v3/futures/candles?{query}")

    assert (answer.status, answer.value["code"]) == (400, "BAD_REQUEST")


async def test_a_limit_trade_goes_from_open_to_running_or_canceled(client):
    limit = {"type": "limit", "side": "buy", "leverage": 10, "quantity": 100}
    filled = await value(client, "POST", TRADE, limit | {"price": 95_000})
    canceled = await value(client, "POST", TRADE, limit | {"price": 90_000})
    others = [await value(client, "POST", TRADE, limit | {"price": 80_000}) for _ in range(3)]
    assert await value(client, "GET", f"{TRADE}s/open") == [filled, canceled, *others]
    assert await client.running() == []

    await move(client, 94_000)
    assert [trade["id"] for trade in await client.running()] == [filled["id"]]
    answer = await value(client, "POST", f"{TRADE}/cancel", {"id": canceled["id"]})
    assert (answer["canceled"], answer["open"]) == (True, False)
    rest = await value(client, "POST", f"{TRADE}s/cancel-all")
    assert [trade["id"] for trade in rest] == [trade["id"] for trade in others]

    assert await value(client, "GET", f"{TRADE}s/open") == []
    found, count = await pages(client, f"{TRADE}s/canceled", 3)
    newest_first = [*others[::-1], canceled]
    assert [trade["id"] for trade in found] == [trade["id"] for trade in newest_first]
    assert count == 2
    page = await value(client, "GET", f"{TRADE}s/closed")
    assert page == {"data": [], "nextCursor": None}


async def test_the_index_may_be_told_to_lag(client):
    assert await move(client, 90_000, index=99_000.5) == {"price": 90_000, "index": 99_000.5}

    ticker = (await client.plain("GET", "/v3/futures/ticker")).value
    assert (ticker["lastPrice"], ticker["index"]) == (90_000, 99_000.5)

    assert await move(client, 91_000) == {"price": 91_000}
    ticker = (await client.plain("GET", "/v3/futures/ticker")).value
    assert (ticker["lastPrice"], ticker["index"]) == (91_000, 91_000)
