"""The stream's conversation without its sockets."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest

from marginguard.domain.units import Price, Sats
from marginguard.simulator.accounts import DEFAULT_PERMISSIONS, Credentials
from marginguard.simulator.exchange import Exchange, seeded_ids
from marginguard.simulator.limits import RateLimit, Window
from marginguard.simulator.stream_payloads import Push
from marginguard.simulator.stream_protocol import Session

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
NOW_MS = 1_767_268_800_123
NOW_US = 1_767_268_800_123_456
LAST_PRICE = "futures/inverse/btc_usd/lastPrice"
TRADES = "futures/inverse/btc_usd/isolated/trades"
POSITION = "futures/inverse/btc_usd/cross/position"


class SteppingClock:
    """A clock that goes forward by `step` at every look, and monotonically only by hand."""

    def __init__(self) -> None:
        self.time = NOW
        self.step = timedelta()
        self.elapsed_s = 0.0

    def now(self) -> datetime:
        seen = self.time
        self.time += self.step
        return seen

    def monotonic(self) -> float:
        return self.elapsed_s


class Talk:
    """One connection to an exchange with two accounts; answers come parsed."""

    def __init__(self) -> None:
        self.clock = SteppingClock()
        self.exchange = Exchange(price=Price(100_000.0), ids=seeded_ids(1))
        self.add("key", DEFAULT_PERMISSIONS)
        self.add("reader", ("account:read", "futures:isolated:read"))
        attempts = RateLimit(limit=20, span_s=60.0)
        self.session = Session(
            self.exchange,
            self.clock,
            messages=Window(limit=10, span_s=1.0),
            may_authenticate=lambda: attempts.take("address", self.clock.monotonic()),
        )

    def add(self, key, permissions):
        credentials = Credentials(key=key, secret=f"secret of {key}", passphrase="phrase")
        self.exchange.add_account(credentials, Sats(0), permissions=permissions)

    def say(self, message):
        self.clock.elapsed_s += 0.125  # within the limit of 10 a second
        return json.loads(self.session.answer(message))

    def ask(self, method, params=None, **more):
        request = {"jsonrpc": "2.0", "id": "1", "method": method} | more
        if params is not None:
            request["params"] = params
        return self.say(json.dumps(request))

    def authenticate(self, key="key", **changed):
        given = {"stamp": NOW_MS, "nonce": "0123abcd", "secret": f"secret of {key}"} | changed
        text = f"{given['stamp']}{given['nonce']}"
        digest = hmac.new(given["secret"].encode(), text.encode(), hashlib.sha256).digest()
        params = {
            "key": key,
            "passphrase": given.get("passphrase", "phrase"),
            "timestamp": given["stamp"],
            "nonce": given.get("said_nonce", given["nonce"]),
            "signature": base64.b64encode(digest).decode(),
        }
        return self.ask("authenticate", params)


@pytest.fixture
def talk() -> Talk:
    return Talk()


def code(answer):
    assert "result" not in answer
    return answer["error"]["data"]["code"]


def test_an_answer_carries_times_and_the_rate_limit(talk):
    talk.clock.step = timedelta(microseconds=7)

    answer = talk.ask("ping", id="abc")

    assert answer == {
        "jsonrpc": "2.0",
        "id": "abc",
        "result": "pong",
        "usIn": NOW_US,
        "usOut": NOW_US + 7,
        "usDiff": 7,
        "rateLimit": {"remaining": 9, "limit": 10},
    }


def test_hello_tells_the_version(talk):
    hello = {"clientName": "test", "clientVersion": "1"}

    assert talk.ask("hello", hello)["result"] == {"version": "1.0.0"}


def test_time_is_in_milliseconds(talk):
    assert talk.ask("time")["result"] == {"time": NOW_MS}


def test_an_id_may_be_a_number(talk):
    assert talk.ask("ping", id=7)["id"] == 7


@pytest.mark.parametrize(
    ("message", "number", "request_id"),
    [
        ("{", -32700, None),
        (b"\xff", -32700, None),
        ("", -32700, None),
        ('{"jsonrpc":"2.0","id":"1","method":"ping","params":{"x":NaN}}', -32700, None),
        ("[]", -32600, None),
        ('"ping"', -32600, None),
        ('{"jsonrpc":"2.0","method":"ping"}', -32600, None),
        ('{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600, None),
        ('{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600, None),
        ('{"jsonrpc":"1.0","id":"1","method":"ping"}', -32600, "1"),
        ('{"jsonrpc":"2.0","id":"1"}', -32600, "1"),
        ('{"jsonrpc":"2.0","id":"1","method":"ping","params":[]}', -32600, "1"),
        ('{"jsonrpc":"2.0","id":"1","method":"subscribe"}', -32602, "1"),
        ('{"jsonrpc":"2.0","id":"1","method":"subscribe","params":{"topics":"x"}}', -32602, "1"),
        ('{"jsonrpc":"2.0","id":"1","method":"hello","params":{}}', -32602, "1"),
    ],
)
def test_a_malformed_request_is_a_bad_request(talk, message, number, request_id):
    answer = talk.say(message)

    assert code(answer) == "BAD_REQUEST"
    assert (answer["error"]["code"], answer["id"]) == (number, request_id)
    assert answer["error"]["message"]


def test_an_unknown_method_is_not_found(talk):
    answer = talk.ask("withdrawEverything")

    assert (code(answer), answer["error"]["code"]) == ("NOT_FOUND", -32601)


def test_who_authenticates_learns_its_permissions(talk):
    assert talk.authenticate()["result"] == {
        "authenticated": True,
        "permissions": [
            "account:read",
            "futures:isolated:read",
            "futures:isolated:write",
            "futures:cross:read",
            "futures:cross:write",
        ],
    }
    assert talk.ask("whoami")["result"] == {
        "apiKey": "key",
        "userId": str(talk.exchange.account("key").id),
        "permissions": list(DEFAULT_PERMISSIONS),
    }


def test_the_timestamp_may_be_text(talk):
    assert talk.authenticate(stamp=str(NOW_MS))["result"]["authenticated"] is True


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": "nobody"},
        {"secret": "another"},
        {"passphrase": "another"},
        {"said_nonce": "4567"},
        {"stamp": NOW_MS - 30_001},
        {"stamp": NOW_MS + 30_001},
        {"stamp": "soon"},
        {"stamp": "9" * 5_000},
        {"stamp": -NOW_MS},
    ],
)
def test_who_proves_nothing_stays_nobody(talk, wrong):
    refused = talk.authenticate(**wrong)

    assert code(refused) == "UNAUTHORIZED"
    assert code(talk.ask("whoami")) == "UNAUTHORIZED"


@pytest.mark.parametrize("off_ms", [-30_000, 30_000])
def test_a_timestamp_is_good_for_30_seconds(talk, off_ms):
    assert "result" in talk.authenticate(stamp=NOW_MS + off_ms)


def test_the_21st_attempt_in_a_minute_is_refused_though_it_is_right(talk):
    first_20 = {code(talk.authenticate(secret="wrong")) for _ in range(20)}
    talk.clock.elapsed_s = 59.0
    too_early = talk.authenticate()
    talk.clock.elapsed_s = 61.0
    later = talk.authenticate()

    assert first_20 == {"UNAUTHORIZED"}
    assert code(too_early) == "TOO_MANY_REQUESTS"
    assert later["result"]["authenticated"] is True


def test_the_11th_message_in_a_second_is_refused_and_not_carried_out(talk):
    answers = [
        json.loads(talk.session.answer('{"jsonrpc":"2.0","id":"1","method":"ping"}'))
        for _ in range(10)
    ]
    subscribe = {"jsonrpc": "2.0", "id": "1", "method": "subscribe"}
    request = json.dumps(subscribe | {"params": {"topics": [LAST_PRICE]}})
    refused = json.loads(talk.session.answer(request))
    talk.clock.elapsed_s = 1.0

    assert [answer["rateLimit"]["remaining"] for answer in answers] == [*range(9, -1, -1)]
    assert (code(refused), refused["id"]) == ("TOO_MANY_REQUESTS", "1")
    assert talk.ask("unsubscribeAll")["result"] == {"unsubscribed": []}


def test_subscriptions_come_and_go_in_order(talk):
    other = "futures/inverse/btc_usd/ohlc/1m"

    assert talk.ask("subscribe", {"topics": [LAST_PRICE, other, LAST_PRICE]})["result"] == {
        "subscribed": [LAST_PRICE, other]
    }
    assert talk.ask("unsubscribe", {"topics": [other, "announcements"]})["result"] == {
        "unsubscribed": [other]
    }
    assert talk.ask("unsubscribeAll")["result"] == {"unsubscribed": [LAST_PRICE]}
    assert talk.ask("unsubscribeAll")["result"] == {"unsubscribed": []}


def test_one_unknown_topic_refuses_all_of_a_request(talk):
    refused = talk.ask("subscribe", {"topics": [LAST_PRICE, "futures/inverse/btc_usd/bogus"]})

    assert code(refused) == "BAD_REQUEST"
    assert talk.ask("unsubscribeAll")["result"] == {"unsubscribed": []}


def test_private_topics_are_for_those_who_may_read_them(talk):
    nobody = talk.ask("subscribe", {"topics": [TRADES]})
    talk.authenticate("reader")
    allowed = talk.ask("subscribe", {"topics": [TRADES]})
    forbidden = talk.ask("subscribe", {"topics": [POSITION]})

    assert code(nobody) == "UNAUTHORIZED"
    assert allowed["result"] == {"subscribed": [TRADES]}
    assert code(forbidden) == "FORBIDDEN"


def test_a_connection_hears_what_it_asked_for_and_of_itself_alone(talk):
    session = talk.session
    mine = Push(topic=TRADES, data={}, account="key")
    price = Push(topic=LAST_PRICE, data={})
    talk.authenticate()

    before = session.wants(mine), session.wants(price)
    talk.ask("subscribe", {"topics": [TRADES, LAST_PRICE]})

    assert before == (False, False)
    assert (session.wants(mine), session.wants(price)) == (True, True)
    assert not session.wants(Push(topic=TRADES, data={}, account="reader"))


def test_another_account_on_the_connection_does_not_inherit_private_topics(talk):
    talk.authenticate()
    talk.ask("subscribe", {"topics": [POSITION, LAST_PRICE]})
    talk.authenticate()
    again = talk.session.wants(Push(topic=POSITION, data={}, account="key"))
    talk.authenticate("reader")

    assert again
    assert talk.ask("unsubscribeAll")["result"] == {"unsubscribed": [LAST_PRICE]}
