"""The simulated exchange over real sockets: signatures, and calls that are refused."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.integration.served_exchange import BALANCE, an_exchange, served
from tests.integration.signed_client import NOW, TRADE, Client, StillClock


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with served(an_exchange(), StillClock()) as client:
        yield client


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
