"""The simulated exchange over real sockets: signatures, answers, steering, faults."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import pytest

from marginguard.domain.errors import ConfigError
from marginguard.domain.units import Price, Sats
from marginguard.simulator.accounts import Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.server import serve
from tests.integration.signed_client import NOW, TRADE, Answer, Client, StillClock

BALANCE = 10_000_000


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def exchange() -> Exchange:
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1))
    exchange.add_account(
        Credentials(key="key", secret="secret", passphrase="phrase"), Sats(BALANCE)
    )
    return exchange


@pytest.fixture
async def client(exchange: Exchange, clock: StillClock) -> AsyncIterator[Client]:
    timeout = aiohttp.ClientTimeout(total=10)
    async with (
        serve(exchange, clock=clock, rate_scale=1000) as server,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        yield Client(session=session, server=server)


async def test_public_calls_need_no_signature(client):
    ping = await client.plain("GET", "/v3/ping")
    time = await client.plain("GET", "/v3/time")
    ticker = await client.plain("GET", "/v3/futures/ticker")

    assert ping.value == "pong"
    assert time.value == {"time": "2026-01-01T12:00:00.000Z"}
    assert ticker.value == {
        "time": "2026-01-01T12:00:00.000Z",
        "exchangesWeights": {"bybit": 0.4, "binance": 0.4, "okx": 0.2},
        "index": 100_000,
        "lastPrice": 100_000,
        "fundingRate": 0.0001,
        "fundingTime": "2026-01-01T16:00:00.000Z",
        "prices": [{"minSize": 1, "maxSize": 500_000, "askPrice": 100_000, "bidPrice": 100_000}],
    }
    assert '"lastPrice":100000,' in ticker.text  # as JavaScript writes it, without ".0"
    assert ticker.headers["Content-Type"] == "application/json; charset=utf-8"


async def test_the_account_is_read_with_a_signature(client):
    answer = await client.call("GET", "/v3/account")

    assert answer.status == 200
    assert answer.value["balance"] == BALANCE
    assert answer.value["feeTier"] == 1
    assert set(answer.value) == {
        *("id", "username", "balance", "syntheticUsdBalance", "feeTier", "email")
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": "other"},
        {"secret": "other"},
        {"passphrase": "other"},
        {"at": NOW - timedelta(seconds=30, milliseconds=1)},
        {"at": NOW + timedelta(seconds=30, milliseconds=1)},
        {"changed_headers": {"lnm-access-key": None}},
        {"changed_headers": {"lnm-access-passphrase": None}},
        {"changed_headers": {"lnm-access-timestamp": None}},
        {"changed_headers": {"lnm-access-signature": None}},
        {"changed_headers": {"lnm-access-timestamp": "soon"}},
        {"changed_headers": {"lnm-access-signature": "bm8="}},
    ],
)
async def test_a_call_that_is_not_properly_signed_is_unauthorized(client, wrong):
    for name, value in wrong.items():
        setattr(client, name, value)

    answer = await client.call("GET", "/v3/account")

    assert answer.status == 401
    assert answer.value["code"] == "UNAUTHORIZED"
    assert answer.value["message"]


@pytest.mark.parametrize("seconds", [-30, 30])
async def test_a_signature_is_good_for_30_seconds(client, seconds):
    client.at = NOW + timedelta(seconds=seconds)

    assert (await client.call("GET", "/v3/account")).status == 200


async def test_the_signature_covers_query_and_body(client):
    trade = await client.open_trade()
    stamp = str(int(NOW.timestamp() * 1000))

    def headers(text: str) -> dict[str, str]:
        digest = hmac.new(b"secret", f"{stamp}{text}".encode(), hashlib.sha256).digest()
        return {
            "lnm-access-key": "key",
            "lnm-access-passphrase": "phrase",
            "lnm-access-timestamp": stamp,
            "lnm-access-signature": base64.b64encode(digest).decode(),
        }

    closed = f"{TRADE}s/closed"
    unsigned_query = await client.plain("GET", f"{closed}?limit=5", None, headers(f"get{closed}"))
    body = json.dumps({"id": trade["id"]})
    other_body = await client.plain(
        "POST", f"{TRADE}/close", f"{body} ", headers(f"post{TRADE}/close{body}")
    )

    assert unsigned_query.status == other_body.status == 401
    assert len(await client.running()) == 1


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


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", TRADE, {"type": "market", "side": "buy", "leverage": 10}),
        ("POST", TRADE, {"type": "market", "side": "up", "leverage": 10, "quantity": 1}),
        ("POST", TRADE, {"type": "limit", "side": "buy", "leverage": 10, "quantity": 1}),
        (
            *("POST", TRADE),
            {"type": "market", "side": "buy", "leverage": 10, "quantity": 1, "price": 9},
        ),
        ("POST", TRADE, {"type": "market", "side": "buy", "leverage": 101, "quantity": 1}),
        ("POST", TRADE, {"type": "market", "side": "buy", "leverage": 10, "quantity": 1.5}),
        ("POST", TRADE, {"type": "market", "side": "buy", "leverage": 10, "quantity": "1"}),
        (
            *("POST", TRADE),
            {"type": "market", "side": "buy", "leverage": 10, "quantity": 1, "stopLoss": 9},
        ),
        (
            *("POST", TRADE),
            {"type": "market", "side": "buy", "leverage": 10, "quantity": 1, "clientId": "x" * 65},
        ),
        ("POST", TRADE, []),
        ("POST", f"{TRADE}/close", {}),
        ("POST", f"{TRADE}/close", {"id": "no uuid"}),
        ("POST", f"{TRADE}/cancel", {"id": "%"}),
        ("POST", f"{TRADE}/add-margin", {"id": "%", "amount": 0}),
        ("POST", f"{TRADE}/add-margin", {"id": "%", "amount": 1.5}),
        ("POST", f"{TRADE}/add-margin", {"id": "%", "amount": 10**9}),
        ("PUT", f"{TRADE}/stoploss", {"id": "%", "value": 120_000}),
        ("PUT", f"{TRADE}/stoploss", {"id": "%", "value": 95_000, "mode": "trailing"}),
        ("PUT", f"{TRADE}/takeprofit", {"id": "%", "value": 90_000}),
    ],
)
async def test_a_call_that_breaks_a_rule_is_a_bad_request_and_changes_nothing(
    client, method, path, body
):
    trade = await client.open_trade()
    if isinstance(body, dict) and body.get("id") == "%":
        body = body | {"id": trade["id"]}

    answer = await client.call(method, path, body)

    assert answer.status == 400
    assert answer.value["code"] == "BAD_REQUEST"
    assert answer.value["message"]
    assert await client.running() == [trade]
    assert (await client.calls())[-1]["applied"] is False


async def test_a_body_that_is_not_json_is_a_bad_request(client):
    answer = await client.plain("PUT", "/simulator/price", '{"price": NaN}')

    assert answer.status == 400


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 1001}, {"from": "yesterday"}, {"x": 1}])
async def test_a_page_that_makes_no_sense_is_a_bad_request(client, query):
    answer = await client.call("GET", f"{TRADE}s/closed", **query)

    assert (answer.status, answer.value["code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v3/futures/cross/position"),
        ("GET", "/v3/futures/cross/order"),
        ("POST", "/v3/futures/candles"),
        ("POST", "/v3/ping"),
        ("GET", "/v2/user"),
        ("GET", "/v1"),
        ("GET", "/simulator/unknown"),
        ("POST", "/simulator/price"),
    ],
)
async def test_what_is_not_there_is_not_found(client, method, path):
    answer = await client.call(method, path, {} if method == "POST" else None)

    assert (answer.status, answer.value["code"]) == (404, "NOT_FOUND")


async def test_an_unknown_trade_is_not_found(client):
    answer = await client.call(
        "POST", f"{TRADE}/close", {"id": "00000000-0000-4000-8000-000000000000"}
    )

    assert (answer.status, answer.value["code"]) == (404, "NOT_FOUND")


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


async def test_a_price_set_by_hand_liquidates_and_shows_in_the_state(client):
    trade = await client.open_trade()

    answer = await client.plain("PUT", "/simulator/price", '{"price": 80000.5}')

    assert answer.value == {"price": 80_000.5}
    state = (await client.plain("GET", "/simulator/state")).value
    assert state["price"] == state["index"] == 80_000.5
    assert state["crossPositions"] == []
    (ended,) = state["trades"]
    assert (ended["ending"], ended["account"]) == ("liquidation", "key")
    assert ended["pl"] == -trade["margin"]
    (account,) = state["accounts"]
    assert account["key"] == "key"
    assert account["balance"] == account["equity"] == BALANCE - 100_000 - 2_100
    assert "secret" not in json.dumps(state)


async def test_funding_is_settled_on_demand(client):
    trade = await client.open_trade()

    answer = await client.plain("POST", "/simulator/funding", '{"rate": 0.0001}')

    assert answer.status == 200
    (settled,) = await client.running()
    assert settled["sumFundingFees"] == 100
    assert settled["margin"] == trade["margin"] - 100


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("PUT", "price", '{"price": 0}', ["Price", "0.5"]),
        ("PUT", "price", '{"price": 100.3}', ["steps of 0.5"]),
        ("PUT", "price", '{"price": "high"}', ["price"]),
        ("PUT", "price", '{"prize": 1}', ["price", "prize"]),
        ("PUT", "price", '{"price": 99000, "index": 0.3}', ["Index", "0.5"]),
        ("PUT", "price", "", ["body"]),
        ("POST", "funding", '{"rate": null}', ["rate"]),
        ("POST", "faults", '{"fault": "explode"}', ["method", "path", "fault", "blackhole"]),
        ("POST", "faults", '{"method": "GET", "path": "/v3/a", "fault": "late"}', ["delay"]),
    ],
)
async def test_a_wrong_control_call_is_refused_by_name(client, method, path, body, words):
    answer = await client.plain(method, f"/simulator/{path}", body)

    assert (answer.status, answer.value["code"]) == (400, "BAD_REQUEST")
    for word in words:
        assert word in answer.value["message"]
    assert (await client.plain("GET", "/simulator/state")).value["price"] == 100_000


async def test_every_call_that_asks_for_a_change_has_a_row(client):
    trade = await client.open_trade()
    await client.running()
    await client.call("DELETE", f"{TRADE}/stoploss", id=trade["id"])
    client.key = "nobody"
    await client.call("POST", f"{TRADE}/close", {"id": trade["id"]})

    opened, deleted, refused = await client.calls()

    assert opened == {
        "time": "2026-01-01T12:00:00.000Z",
        "account": "key",
        "method": "POST",
        "path": TRADE,
        "body": {"type": "market", "side": "buy", "leverage": 10, "quantity": 1_000},
        "status": 200,
        "applied": True,
    }
    assert (deleted["path"], deleted["body"]) == (f"{TRADE}/stoploss", {"id": trade["id"]})
    assert (refused["account"], refused["status"], refused["applied"]) == ("nobody", 401, False)


@pytest.mark.parametrize(
    ("fault", "more", "status", "applied"),
    [
        ("status", {"status": 503}, 503, False),
        ("status", {"status": 429}, 429, False),
        ("status_after", {"status": 500}, 500, True),
        ("status_after", {"status": 504}, 504, True),
        ("delay", {"delay": 0.01}, 200, True),
        ("malformed", {}, 200, True),
    ],
)
async def test_a_fault_that_answers_tells_the_truth_in_the_calls(
    client, fault, more, status, applied
):
    trade = await client.open_trade()
    await client.fault("POST", f"{TRADE}/close", fault, **more)

    answer = await client.call("POST", f"{TRADE}/close", {"id": trade["id"]})

    assert answer.status == status
    row = (await client.calls())[-1]
    assert (row["status"], row["applied"]) == (status, applied)
    assert len(await client.running()) == (0 if applied else 1)


async def test_a_malformed_answer_is_half_of_the_json(client):
    await client.fault("GET", "/v3/account", "malformed")

    answer = await client.call("GET", "/v3/account")

    assert answer.status == 200
    with pytest.raises(json.JSONDecodeError):
        _ = answer.value


@pytest.mark.parametrize(("fault", "applied"), [("drop_request", False), ("drop_response", True)])
async def test_a_dropped_connection_may_or_may_not_have_been_carried_out(client, fault, applied):
    trade = await client.open_trade()
    await client.fault("POST", f"{TRADE}/close", fault)

    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.call("POST", f"{TRADE}/close", {"id": trade["id"]})

    row = (await client.calls())[-1]
    assert (row["status"], row["applied"]) == (None, applied)
    assert len(await client.running()) == (0 if applied else 1)


@pytest.mark.parametrize("processed", [True, False])
async def test_a_black_hole_never_answers(client, processed):
    trade = await client.open_trade()
    await client.fault("POST", f"{TRADE}/close", "blackhole", processed=processed)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.call("POST", f"{TRADE}/close", {"id": trade["id"]})

    row = (await client.calls())[-1]
    assert (row["status"], row["applied"]) == (None, processed)
    assert len(await client.running()) == (0 if processed else 1)


async def test_a_late_call_is_applied_after_the_connection_closed(client):
    trade = await client.open_trade()
    await client.fault("POST", f"{TRADE}/close", "late", delay=0.2)

    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.call("POST", f"{TRADE}/close", {"id": trade["id"]})

    assert len(await client.running()) == 1
    async with asyncio.timeout(5):
        while await client.running():
            pass
    row = (await client.calls())[-1]
    assert (row["status"], row["applied"]) == (None, True)


async def test_a_call_that_comes_later_than_its_signature_lives_is_not_applied(client, clock):
    """Failure 2: after 30 s a signed request can no longer take effect."""
    trade = await client.open_trade()
    await client.fault("POST", f"{TRADE}/close", "delay", delay=0.05)

    async def close() -> Answer:
        return await client.call("POST", f"{TRADE}/close", {"id": trade["id"]})

    async with asyncio.TaskGroup() as tasks:
        call = tasks.create_task(close())
        async with asyncio.timeout(5):
            while len(await client.calls()) < 2:
                pass
        clock.time = NOW + timedelta(seconds=31)

    assert call.result().status == 401
    assert (await client.calls())[-1]["applied"] is False


async def test_a_fault_is_used_up(client):
    await client.fault("GET", "/v3/ping", "status", status=500, times=2)

    statuses = [(await client.plain("GET", "/v3/ping?x=1")).status for _ in range(3)]

    assert statuses == [500, 500, 200]


async def test_a_gateway_answers_html(client):
    await client.fault("GET", "/v3/ping", "status", status=403, gateway=True)

    answer = await client.plain("GET", "/v3/ping")

    assert answer.status == 403
    assert answer.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("fault", [{"fault": "blackhole"}, {"fault": "delay", "delay": 3600}])
async def test_the_server_ends_while_a_call_waits(exchange, clock, fault):
    async with (
        asyncio.timeout(10),
        aiohttp.ClientSession() as session,
        asyncio.TaskGroup() as tasks,
        serve(exchange, clock=clock, rate_scale=1000) as server,
    ):
        client = Client(session=session, server=server)
        await client.fault("POST", f"{TRADE}/close", **fault)

        async def be_left_hanging() -> None:
            with pytest.raises(aiohttp.ClientConnectionError):
                await client.call("POST", f"{TRADE}/close", {})

        tasks.create_task(be_left_hanging())
        while not await client.calls():
            pass


async def test_a_port_in_use_is_a_config_error(exchange):
    async with serve(exchange) as server:
        with pytest.raises(ConfigError, match=f"port {server.port}: Address already in use"):
            async with serve(exchange, port=server.port):
                pytest.fail("two servers on one port")


async def test_an_error_in_the_block_comes_out_as_it_is(exchange):
    with pytest.raises(ZeroDivisionError):
        async with serve(exchange):
            raise ZeroDivisionError


async def test_an_ipv6_address_is_bracketed_in_the_url(exchange):
    async with serve(exchange, host="::1") as server:
        assert server.rest_url == f"http://[::1]:{server.port}/v3"
