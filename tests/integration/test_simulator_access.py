"""Who may call the simulated exchange, how often, and by which clock."""

import base64
import hashlib
import hmac
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from marginguard.domain.errors import ConfigError
from marginguard.domain.units import Price, Sats
from marginguard.simulator.accounts import DEFAULT_PERMISSIONS, Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.server import serve

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ACCOUNT = "/v3/account"
ISOLATED = "/v3/futures/isolated/trade"


class HandClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.elapsed_s)

    def monotonic(self) -> float:
        return self.elapsed_s


class Caller:
    """Signs as the exchange's documentation says."""

    def __init__(self, session, server, clock, exchange) -> None:
        self.session = session
        self.server = server
        self.clock = clock
        self.exchange = exchange

    async def call(self, method, path, body=None, *, key="key", ahead_s=0.0):
        """Return status, body and the header `Retry-After` of a signed call."""
        data = "" if body is None else json.dumps(body)
        at = self.clock.now() + timedelta(seconds=ahead_s)
        stamp = str(int(at.timestamp() * 1000))
        text = f"{stamp}{method.lower()}{path}{data}"
        digest = hmac.new(f"secret of {key}".encode(), text.encode(), hashlib.sha256).digest()
        headers = {
            "lnm-access-key": key,
            "lnm-access-passphrase": "phrase",
            "lnm-access-timestamp": stamp,
            "lnm-access-signature": base64.b64encode(digest).decode(),
        }
        return await self.plain(method, path, data or None, headers)

    async def plain(self, method, path, data=None, headers=None):
        url = f"{self.server.base_url}{path}"
        async with self.session.request(method, url, data=data, headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text), answer.headers.get("Retry-After")


@asynccontextmanager
async def calling(permissions=DEFAULT_PERMISSIONS, **settings):
    clock = HandClock()
    exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1))
    for key in ("key", "other"):
        credentials = Credentials(key=key, secret=f"secret of {key}", passphrase="phrase")
        exchange.add_account(credentials, Sats(10_000_000), permissions=permissions)
    async with (
        serve(exchange, clock=clock, **settings) as server,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session,
    ):
        yield Caller(session, server, clock, exchange)


async def test_a_key_makes_5_calls_a_second():
    """Failure 5: 429 with `Retry-After`."""
    async with calling() as caller:
        first = [(await caller.call("GET", ACCOUNT))[0] for _ in range(5)]
        caller.clock.elapsed_s = 0.5
        refused = await caller.call("GET", ACCOUNT)
        other_key = await caller.call("GET", ACCOUNT, key="other")
        caller.clock.elapsed_s = 1.0
        later = await caller.call("GET", ACCOUNT)

    assert first == [200] * 5
    assert refused == (429, {"message": "Too many requests", "code": "TOO_MANY_REQUESTS"}, "1")
    assert (other_key[0], later[0]) == (200, 200)


async def test_an_address_makes_1_unsigned_call_a_second():
    async with calling() as caller:
        statuses = []
        for elapsed_s in (0.0, 0.9, 1.0):
            caller.clock.elapsed_s = elapsed_s
            statuses.append((await caller.plain("GET", "/v3/ping"))[0])
        signed = await caller.call("GET", "/v3/ping")

    assert statuses == [200, 429, 200]
    assert signed[0] == 200


async def test_a_change_over_the_limit_is_recorded_and_not_carried_out():
    order = {"type": "market", "side": "buy", "leverage": 10, "quantity": 100}
    async with calling() as caller:
        statuses = [(await caller.call("POST", ISOLATED, order))[0] for _ in range(6)]
        _, calls, _ = await caller.plain("GET", "/simulator/calls")
        trades = caller.exchange.all_trades

    assert statuses == [200] * 5 + [429]
    assert len(trades) == 5
    assert (calls[-1]["status"], calls[-1]["applied"]) == (429, False)


async def test_a_call_over_the_limit_leaves_a_fault_for_the_next():
    fault = {"method": "GET", "path": "/v3/ping", "fault": "status", "status": 500}
    async with calling() as caller:
        await caller.plain("GET", "/v3/time")
        await caller.plain("POST", "/simulator/faults", json.dumps(fault))
        over = await caller.plain("GET", "/v3/ping")
        caller.clock.elapsed_s = 1.0
        faulty = await caller.plain("GET", "/v3/ping")

    assert (over[0], faulty[0]) == (429, 500)


async def test_steering_the_simulator_counts_for_nothing():
    async with calling() as caller:
        steered = [(await caller.plain("GET", "/simulator/state"))[0] for _ in range(20)]
        status, *_ = await caller.plain("GET", "/v3/ping")

    assert steered == [200] * 20
    assert status == 200


async def test_faster_market_time_allows_more():
    async with calling(rate_scale=2.0) as caller:
        signed = [(await caller.call("GET", ACCOUNT))[0] for _ in range(11)]
        unsigned = [(await caller.plain("GET", "/v3/ping"))[0] for _ in range(3)]

    assert signed == [200] * 10 + [429]
    assert unsigned == [200] * 2 + [429]


@pytest.mark.parametrize(
    ("permissions", "statuses"),
    [
        (("account:read",), [200, 403, 403]),
        (("futures:isolated:read",), [403, 200, 403]),
        (("futures:isolated:write",), [403, 403, 200]),
        (("futures:read", "futures:write"), [403, 200, 200]),
        (("futures:cross:read", "futures:cross:write"), [403, 403, 403]),
    ],
)
async def test_a_key_does_what_its_permissions_say(permissions, statuses):
    """Failure 6: 403 with the exchange's own code."""
    order = {"type": "market", "side": "buy", "leverage": 10, "quantity": 100}
    async with calling(permissions) as caller:
        answers = [
            await caller.call("GET", ACCOUNT),
            await caller.call("GET", f"{ISOLATED}s/running"),
            await caller.call("POST", ISOLATED, order),
        ]
        trades = caller.exchange.all_trades

    assert [status for status, *_ in answers] == statuses
    assert len(trades) == (statuses[-1] == 200)
    for status, body, _ in answers:
        if status == 403:
            assert body["code"] == "FORBIDDEN"
            assert body["message"].startswith("The API key lacks ")


async def test_a_wrong_signature_is_told_before_a_missing_permission():
    async with calling(permissions=()) as caller:
        status, body, _ = await caller.call("GET", ACCOUNT, ahead_s=31)

    assert (status, body["code"]) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize("skew_s", [-40.0, 12.5, 86_400.0])
async def test_a_skewed_clock_is_the_whole_exchanges(skew_s):
    """Failure 8: the exchange's clock is off."""
    async with calling(clock_skew_s=skew_s, rate_scale=10) as caller:
        _, told, _ = await caller.plain("GET", "/v3/time")
        right = await caller.call("GET", ACCOUNT, ahead_s=skew_s)
        early = await caller.call("GET", ACCOUNT, ahead_s=skew_s - 31)
        late = await caller.call("GET", ACCOUNT, ahead_s=skew_s + 31)
        order = {"type": "market", "side": "buy", "leverage": 10, "quantity": 100}
        _, trade, _ = await caller.call("POST", ISOLATED, order, ahead_s=skew_s)
        async with caller.session.ws_connect(caller.server.stream_url) as socket:
            await socket.send_str('{"jsonrpc":"2.0","id":"1","method":"time"}')
            streamed = await socket.receive_json()

    expected = NOW + timedelta(seconds=skew_s)
    assert datetime.fromisoformat(told["time"]) == expected
    assert datetime.fromisoformat(trade["createdAt"]) == expected
    assert streamed["result"]["time"] == expected.timestamp() * 1000
    assert [status for status, *_ in (right, early, late)] == [200, 401, 401]


@pytest.mark.parametrize("skew_s", [float("nan"), float("inf"), 1e9, -1e9])
async def test_a_skew_beyond_a_year_is_refused(skew_s):
    with pytest.raises(ConfigError, match="clock skew"):
        async with calling(clock_skew_s=skew_s):
            pass


async def test_a_timestamp_of_a_thousand_digits_is_unauthorized():
    async with calling() as caller:
        headers = {
            "lnm-access-key": "key",
            "lnm-access-passphrase": "phrase",
            "lnm-access-timestamp": "1" * 5_000,
            "lnm-access-signature": "bm8=",
        }
        status, body, _ = await caller.plain("GET", ACCOUNT, headers=headers)

    assert (status, body["code"]) == (401, "UNAUTHORIZED")


async def test_funding_is_settled_on_the_exchanges_clock():
    """Nobody has to call for it."""
    order = {"type": "market", "side": "buy", "leverage": 10, "quantity": 1_000}
    subscribe = {"topics": ["futures/inverse/btc_usd/funding"]}
    async with calling() as caller:
        await caller.call("POST", ISOLATED, order)
        async with caller.session.ws_connect(caller.server.stream_url) as socket:
            request = {"jsonrpc": "2.0", "id": "1", "method": "subscribe", "params": subscribe}
            await socket.send_json(request)
            await socket.receive_json()
            caller.clock.elapsed_s = 4 * 3600.0  # 16:00 UTC
            push = await socket.receive_json(timeout=10)
        (trade,) = caller.exchange.all_trades

    assert push["params"]["topic"] == "futures/inverse/btc_usd/funding"
    assert trade.funding_fees == 100
