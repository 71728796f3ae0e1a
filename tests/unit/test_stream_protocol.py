"""The stream's frames: what is taken, what is ignored, and what is refused."""

import base64
import contextlib
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain.errors import Malformed, Rejected, Transient, Unauthorized
from marginguard.lnmarkets import stream_protocol
from marginguard.lnmarkets.signing import Credentials
from marginguard.lnmarkets.stream import backoff_s
from marginguard.lnmarkets.stream_prices import TickOrder
from marginguard.lnmarkets.stream_protocol import AccountEvent, Answer, Tick, parse
from tests.integration.canned_exchange import TRADE_ID
from tests.integration.canned_stream import CROSS, INDEX, LAST_PRICE, TRADES, push

TIME_MS = 1_700_000_000_000


def raw_price(price: str, time: str = str(TIME_MS)) -> bytes:
    """A last price with raw JSON values."""
    frame = push(LAST_PRICE, {"time": "TIME", "lastPrice": "PRICE"})
    return frame.replace('"TIME"', time).replace('"PRICE"', price).encode()


def raw_params(params: str) -> bytes:
    return b'{"jsonrpc":"2.0","method":"subscription","params":' + params.encode() + b"}"


@pytest.mark.parametrize(("price", "expected"), [("100000", 100_000.0), ("99999.5", 99_999.5)])
def test_a_last_price_is_taken(price, expected):
    tick = parse(raw_price(price))
    assert tick == Tick(LAST_PRICE, TIME_MS, expected)
    assert type(tick.price) is float


def test_an_index_is_taken():
    frame = push(INDEX, {"time": TIME_MS, "index": 100_000.5}).encode()
    assert parse(frame) == Tick(INDEX, TIME_MS, 100_000.5)


@pytest.mark.parametrize(
    "event",
    ["open", "filled", "closed", "canceled", "liquidation", "stoploss", "takeprofit", "funding"],
)
def test_an_event_of_a_trade_names_the_trade(event):
    frame = push(TRADES, {"pair": "btc_usd", "event": event, "trade": {"id": TRADE_ID, "pl": 5}})
    assert parse(frame.encode()) == AccountEvent(kind=f"isolated.{event}", position_id=TRADE_ID)


@pytest.mark.parametrize(
    "event", ["new", "limit", "cancel", "leverage", "deposit", "withdraw", "liquidation", "funding"]
)
def test_an_event_of_the_cross_position_is_about_cross(event):
    frame = push(CROSS, {"pair": "btc_usd", "event": event, "position": {}})
    assert parse(frame.encode()) == AccountEvent(kind=f"cross.{event}", position_id="cross")


@pytest.mark.parametrize("topic", ["wallet/deposit", "wallet/withdrawal"])
def test_a_movement_of_the_wallet_is_about_no_position(topic):
    frame = push(topic, {"amount": 5}).encode()
    assert parse(frame) == AccountEvent(kind=topic.replace("/", "."), position_id=None)


UNKNOWN = {
    "a topic": push("announcements", {"text": "hello"}),
    "a topic with data that we would refuse elsewhere": push("new/topic", [1, None]),
    "a field of a price": push(LAST_PRICE, {"time": TIME_MS, "lastPrice": 1, "x": None}),
    "an event of a trade": push(TRADES, {"event": "renamed", "trade": None}),
    "an event of the cross position": push(CROSS, {"event": "moved"}),
    "a method": '{"jsonrpc":"2.0","method":"maintenance","params":{"from":1}}',
    "a field of a frame": push(LAST_PRICE, {"time": TIME_MS, "lastPrice": 1})[:-1] + ',"new":1}',
}


@pytest.mark.parametrize("frame", UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_unknown_is_ignored(frame):
    """Failure 10: added fields, topics and events do no harm."""
    parsed = parse(frame.encode())
    assert parsed is None or parsed == Tick(LAST_PRICE, TIME_MS, 1.0)


MALFORMED = {
    "nothing": b"",
    "a space": b" ",
    "half a frame": raw_price("100000")[:-20],
    "two frames": raw_price("1") + raw_price("2"),
    "HTML": b"<html><body>502 Bad Gateway</body></html>",
    "bytes that are no text": b"\xff\xfe\x00\x01",
    "text with a broken character": raw_price('"\xff"').replace(b"\xc3\xbf", b"\xff"),
    "null": b"null",
    "a number": b"5",
    "a string": b'"pong"',
    "a list": b"[]",
    "a batch": b"[" + raw_price("100000") + b"]",
    "lists without end": b"[" * 16_384,
    "objects without end": b'{"a":' * 2_700,
    "an empty object": b"{}",
    "an object of 16 KiB": json.dumps({"x": "y" * 16_376}).encode(),
    "no method": b'{"jsonrpc":"2.0","params":{"topic":"announcements","data":{}}}',
    "a method that is a number": b'{"jsonrpc":"2.0","method":7}',
    "no params": b'{"jsonrpc":"2.0","method":"subscription"}',
    "params null": raw_params("null"),
    "params a list": raw_params("[]"),
    "no topic": raw_params('{"data":{}}'),
    "topic null": raw_params('{"topic":null,"data":{}}'),
    "topic a number": raw_params('{"topic":1,"data":{}}'),
    "topic a list": raw_params('{"topic":["futures/inverse/btc_usd/lastPrice"],"data":{}}'),
    "no data": raw_params(f'{{"topic":"{LAST_PRICE}"}}'),
    "data null": push(LAST_PRICE, None).encode(),
    "data a list": push(LAST_PRICE, [1, 2]).encode(),
    "data a number": push(INDEX, 100_000).encode(),
    "no price": push(LAST_PRICE, {"time": TIME_MS}).encode(),
    "the price by another name": push(LAST_PRICE, {"time": TIME_MS, "price": 1}).encode(),
    "an index in the place of the last price": push(
        LAST_PRICE, {"time": TIME_MS, "index": 1}
    ).encode(),
    "price null": raw_price("null"),
    "price a string": raw_price('"100000"'),
    "price true": raw_price("true"),
    "price a list": raw_price("[100000]"),
    "price an object": raw_price("{}"),
    "price NaN": raw_price("NaN"),
    "price infinite": raw_price("Infinity"),
    "price minus infinite": raw_price("-Infinity"),
    "price 1e400": raw_price("1e400"),
    "price zero": raw_price("0"),
    "price minus zero": raw_price("-0.0"),
    "price negative": raw_price("-100000"),
    "price a thousand million": raw_price("1e9"),
    "price of 25 digits": raw_price("1" * 25),
    "price of 400 digits": raw_price("1" * 400),
    "price hexadecimal": raw_price("0x186a0"),
    "no time": push(LAST_PRICE, {"lastPrice": 100_000}).encode(),
    "time null": raw_price("100000", "null"),
    "time a string": raw_price("100000", f'"{TIME_MS}"'),
    "time ISO 8601": raw_price("100000", '"2026-01-01T00:00:00Z"'),
    "time with a fraction": raw_price("100000", f"{TIME_MS}.5"),
    "time as a float": raw_price("100000", "1.7e12"),
    "time true": raw_price("100000", "true"),
    "time zero": raw_price("100000", "0"),
    "time negative": raw_price("100000", "-1"),
    "time in nanoseconds": raw_price("100000", "1700000000000000000"),
    "time of 30 digits": raw_price("100000", "1" * 30),
    "index negative": push(INDEX, {"time": TIME_MS, "index": -1}).encode(),
    "a trade's data null": push(TRADES, None).encode(),
    "a trade without event": push(TRADES, {"trade": {"id": TRADE_ID}}).encode(),
    "a trade's event a number": push(TRADES, {"event": 1, "trade": {"id": TRADE_ID}}).encode(),
    "an event without trade": push(TRADES, {"event": "closed"}).encode(),
    "an event whose trade is null": push(TRADES, {"event": "closed", "trade": None}).encode(),
    "an event whose trade is a list": push(TRADES, {"event": "closed", "trade": []}).encode(),
    "a trade without id": push(TRADES, {"event": "closed", "trade": {}}).encode(),
    "a trade's id a number": push(TRADES, {"event": "closed", "trade": {"id": 5}}).encode(),
    "a trade's id empty": push(TRADES, {"event": "closed", "trade": {"id": ""}}).encode(),
    "a trade's id with a line break": push(
        TRADES, {"event": "closed", "trade": {"id": f"{TRADE_ID}\n"}}
    ).encode(),
    "a trade's id of 65 characters": push(
        TRADES, {"event": "closed", "trade": {"id": "a" * 65}}
    ).encode(),
    "a cross position's data a list": push(CROSS, []).encode(),
    "a cross position without event": push(CROSS, {"position": {}}).encode(),
    "a cross position's event null": push(CROSS, {"event": None}).encode(),
    "a deposit that is a number": push("wallet/deposit", 5).encode(),
    "an answer without id": b'{"jsonrpc":"2.0","result":"pong"}',
    "an answer to null": b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700}}',
    "an answer to a number": b'{"jsonrpc":"2.0","id":1,"result":"pong"}',
    "an answer with no error and no result": b'{"jsonrpc":"2.0","id":"1","error":null}',
}


@pytest.mark.parametrize("frame", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_frame_is_refused(frame):
    """Failure 10: NaN, negative, huge, null, missing or of a wrong type is refused."""
    with pytest.raises(Malformed):
        parse(frame)


def test_the_complaint_keeps_the_value_to_itself():
    with pytest.raises(Malformed) as caught:
        parse(raw_price('"a-private-value"'))
    assert "a-private-value" not in str(caught.value)
    assert LAST_PRICE in str(caught.value)


@given(data=st.binary(max_size=200))
def test_bytes_of_any_kind_are_parsed_ignored_or_refused(data):
    with contextlib.suppress(Malformed):
        parse(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    topic=st.sampled_from([LAST_PRICE, INDEX, TRADES, CROSS, "wallet/deposit", "x"]) | json_values,
    data=json_values
    | st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("time", "lastPrice", "index", "event", "trade", "pair"), json_values
        ),
    ),
)
def test_a_push_of_any_shape_never_brings_an_impossible_price(topic, data):
    try:
        frame = parse(push(topic, data).encode())
    except Malformed:
        return
    if isinstance(frame, Tick):
        assert 0 < frame.price < 1e9
        assert type(frame.time_ms) is int


def test_a_result_is_an_answer():
    frame = b'{"jsonrpc":"2.0","id":"7","result":{"a":1},"usIn":1,"usOut":2,"usDiff":1}'
    assert parse(frame) == Answer(id="7", result={"a": 1})


def test_a_result_of_null_is_an_answer():
    assert parse(b'{"id":"7","result":null}') == Answer(id="7", result=None)


def error_of(error: object) -> Exception:
    answer = parse(json.dumps({"id": "1", "error": error}).encode())
    assert isinstance(answer, Answer)
    assert answer.error is not None
    return answer.error


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("UNAUTHORIZED", Unauthorized),
        ("FORBIDDEN", Unauthorized),
        ("BAD_REQUEST", Rejected),
        ("NOT_FOUND", Rejected),
        ("TOO_MANY_REQUESTS", Transient),
        ("INTERNAL_SERVER_ERROR", Transient),
        ("SOMETHING_NEW", Transient),
    ],
)
def test_an_error_is_typed_by_the_exchanges_own_code(code, kind):
    error = error_of({"code": -32602, "message": "UNAUTHORIZED?", "data": {"code": code}})
    assert type(error) is kind
    assert code in str(error)


@pytest.mark.parametrize(
    "error",
    [
        "UNAUTHORIZED",
        {},
        {"code": -32001, "message": "UNAUTHORIZED"},
        {"data": None},
        {"data": "UNAUTHORIZED"},
        {"data": {"code": 401}},
        {"data": {"code": "not a code"}},
    ],
)
def test_an_error_without_the_exchanges_code_disarms_nobody(error):
    assert isinstance(error_of(error), Transient)


def test_what_the_exchange_says_is_shortened_and_printable():
    error = error_of({"message": "a\n\x1b[31m" + "b" * 10_000, "data": {"code": "BAD_REQUEST"}})
    assert len(str(error)) < 300
    assert str(error).isprintable()


def test_a_request_is_json_rpc():
    sent = json.loads(stream_protocol.request("3", "subscribe", {"topics": [INDEX]}))
    assert sent == {
        "jsonrpc": "2.0",
        "id": "3",
        "method": "subscribe",
        "params": {"topics": [INDEX]},
    }


def test_authenticate_is_signed_over_timestamp_and_nonce():
    credentials = Credentials(key="k", secret="s3cret", passphrase="p")
    params = stream_protocol.authentication(credentials, timestamp_ms=TIME_MS, nonce="abc")
    expected = hmac.new(b"s3cret", b"1700000000000abc", hashlib.sha256).digest()
    assert params == {
        "key": "k",
        "passphrase": "p",
        "timestamp": TIME_MS,
        "nonce": "abc",
        "signature": base64.b64encode(expected).decode(),
    }


def test_the_permissions_are_read():
    result = {"authenticated": True, "permissions": ["account:read", "futures:isolated:write"]}
    assert stream_protocol.permissions(result) == {"account:read", "futures:isolated:write"}


@pytest.mark.parametrize(
    "result",
    [
        None,
        "ok",
        [],
        {},
        {"authenticated": 1, "permissions": []},
        {"authenticated": True},
        {"authenticated": True, "permissions": None},
        {"authenticated": True, "permissions": "account:read"},
        {"authenticated": True, "permissions": [5]},
        {"authenticated": True, "permissions": [None]},
        {"authenticated": True, "permissions": [["account:read"]]},
        {"authenticated": True, "permissions": ["a b\n"]},
    ],
)
def test_permissions_that_cannot_be_read_are_not_none(result):
    """Failure 9: what cannot be read is unknown, not empty."""
    with pytest.raises(Malformed):
        stream_protocol.permissions(result)


def test_a_key_that_was_not_taken_is_refused():
    with pytest.raises(Unauthorized):
        stream_protocol.permissions({"authenticated": False, "permissions": []})


def order(*ticks: tuple[int, float], now_ms: int | None = None) -> list[str | None]:
    """What is objected to each of the ticks (milliseconds and price)."""
    rule = TickOrder(tolerance_s=5.0)
    return [rule.objection(Tick(LAST_PRICE, at, price), now_ms) for at, price in ticks]


def test_ticks_in_order_are_news():
    assert order((1000, 5.0), (1001, 5.0), (1002, 6.0)) == [None, None, None]


def test_a_tick_from_before_the_newest_is_out_of_order():
    """Failure 21: out of order, repeated and future ticks are ignored."""
    assert order((1000, 5.0), (999, 6.0), (1001, 7.0)) == [None, "out of order", None]


def test_a_tick_that_comes_twice_is_repeated_and_two_prices_of_one_moment_are_not():
    """Failure 21: a breach in a burst is not lost."""
    assert order((1000, 5.0), (1000, 5.0), (1000, 4.0)) == [None, "repeated", None]


def test_a_tick_from_the_future_is_ignored_and_leaves_no_trace():
    """Failure 21: one wrong time must not make every later tick look old."""
    assert order((106_000, 5.0), (100_000, 6.0), now_ms=100_000) == ["future", None]


def test_a_tick_that_waited_in_a_buffer_is_late():
    """Failure 19: fresh from the socket does not mean fresh."""
    assert order((94_000, 5.0), (95_000, 6.0), now_ms=100_000) == ["late", None]


def test_without_the_exchanges_time_every_tick_in_order_is_news():
    assert order((1, 5.0), (9_000_000_000_000, 6.0)) == [None, None]


@given(failures=st.integers(1, 10_000), chance=st.floats(0, 1))
def test_a_pause_grows_to_its_bound_and_is_never_less_than_half_of_it(failures, chance):
    pause_s = backoff_s(failures, first_s=0.5, most_s=30.0, chance=chance)
    whole_s = backoff_s(failures, first_s=0.5, most_s=30.0, chance=0.0)
    assert whole_s == (0.5 * 2 ** (failures - 1) if failures < 7 else 30.0)
    assert whole_s / 2 <= pause_s <= whole_s
