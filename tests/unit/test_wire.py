"""The exchange's payloads: what is taken, and what is refused."""

import json
from datetime import UTC, datetime

import pytest

from marginguard.domain.errors import Malformed
from marginguard.domain.model import (
    Balance,
    ClosedTrade,
    MarginMode,
    PendingTrade,
    Position,
    Side,
)
from marginguard.lnmarkets import wire
from tests.integration.canned_exchange import (
    OTHER_ID,
    TRADE_ID,
    canceled_trade,
    closed_trade,
    open_trade,
    trade,
)

DELETED = object()


def bytes_of(payload: object) -> bytes:
    return json.dumps(payload).encode()


def raw_trade(name: str, value: str) -> bytes:
    """A list of one running trade in which one field has this raw JSON value."""
    return bytes_of([trade(**{name: "RAW"})]).replace(b'"RAW"', value.encode())


def test_a_running_trade_becomes_a_position():
    (position,) = wire.running_trades(bytes_of([trade()]))
    assert position == Position(
        id=TRADE_ID,
        mode=MarginMode.ISOLATED,
        side=Side.LONG,
        quantity=1000,
        entry_price=100_000.0,
        margin=100_000,
        maintenance_margin=1909,
        leverage=10.0,
        pl=-1740,
        liquidation_price=90_909.0,
        stop_loss=None,
        take_profit=None,
        entry_margin=100_000,
        funding_paid=12,
        cashed_in=34,
        client_id=None,
    )
    assert isinstance(position.entry_price, float)


def test_every_trade_of_the_list_comes_back_in_its_order():
    positions = wire.running_trades(bytes_of([trade(), trade(id=OTHER_ID, side="sell")]))
    assert [(p.id, p.side) for p in positions] == [(TRADE_ID, Side.LONG), (OTHER_ID, Side.SHORT)]


def test_an_empty_list_means_that_nothing_runs():
    assert wire.running_trades(b"[]") == ()


def test_stop_loss_take_profit_and_client_id_are_taken():
    (position,) = wire.running_trades(
        bytes_of([trade(stoploss=95_000.5, takeprofit=120_000, clientId="mine")])
    )
    assert (position.stop_loss, position.take_profit) == (95_000.5, 120_000.0)
    assert position.client_id == "mine"


@pytest.mark.parametrize("nothing", [0, 0.0, None])
def test_a_stop_loss_or_take_profit_of_zero_or_null_is_none(nothing):
    (position,) = wire.running_trades(bytes_of([trade(stoploss=nothing, takeprofit=nothing)]))
    assert (position.stop_loss, position.take_profit) == (None, None)


def test_a_stop_loss_that_trails_the_market_is_told_from_a_fixed_one():
    (position,) = wire.running_trades(
        bytes_of([trade(stoploss=95_000, stoplossTrailingDistance=0.05)])
    )
    assert (position.stop_loss, position.trailing_stop) == (95_000.0, True)


@pytest.mark.parametrize("nothing", [0, 0.0, None, DELETED])
def test_a_stop_loss_without_a_trailing_distance_is_fixed(nothing):
    payload = trade(stoploss=95_000, stoplossTrailingDistance=nothing)
    if nothing is DELETED:
        del payload["stoplossTrailingDistance"]
    (position,) = wire.running_trades(bytes_of([payload]))
    assert (position.stop_loss, position.trailing_stop) == (95_000.0, False)


@pytest.mark.parametrize("value", ["-0.05", "NaN", "1e999", '"0.05"', "true", "[]"])
def test_an_impossible_trailing_distance_refuses_the_list(value):
    """Failure 10: a guard that took it for a fixed stop-loss would overwrite it."""
    with pytest.raises(Malformed, match="stoplossTrailingDistance"):
        wire.running_trades(raw_trade("stoplossTrailingDistance", value))


@pytest.mark.parametrize("nothing", [0, None])
def test_a_short_without_a_liquidation_price_has_none(nothing):
    (position,) = wire.running_trades(bytes_of([trade(side="sell", liquidation=nothing)]))
    assert position.liquidation_price is None


def test_a_short_at_leverage_one_may_be_liquidated_astronomically_far_away():
    (position,) = wire.running_trades(bytes_of([trade(side="sell", liquidation=1.1e11)]))
    assert position.liquidation_price == 1.1e11


def test_funding_that_was_received_is_negative():
    (position,) = wire.running_trades(bytes_of([trade(sumFundingFees=-12)]))
    assert position.funding_paid == -12


def test_unknown_fields_are_ignored_and_a_client_id_may_be_left_out():
    """Failure 10: added fields are ignored."""
    payload = trade(brandNew={"deep": [1, 2]})
    del payload["clientId"]
    (position,) = wire.running_trades(bytes_of([payload]))
    assert position.client_id is None


NEEDED = (
    "id",
    "side",
    "quantity",
    "entryPrice",
    "margin",
    "maintenanceMargin",
    "leverage",
    "pl",
    "liquidation",
    "stoploss",
    "takeprofit",
    "entryMargin",
    "sumFundingFees",
    "sumCashInMargin",
    "running",
    "closed",
)


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_field_refuses_the_whole_list(name):
    """Failure 10: a missing or renamed field that matters fails closed."""
    payload = trade()
    del payload[name]
    with pytest.raises(Malformed, match=name):
        wire.running_trades(bytes_of([trade(id=OTHER_ID), payload]))


@pytest.mark.parametrize("name", sorted(set(NEEDED) - {"stoploss", "takeprofit"}))
def test_null_where_a_value_belongs_is_refused(name):
    with pytest.raises(Malformed):
        wire.running_trades(bytes_of([trade(**{name: None})]))


BAD_VALUES = [
    ("margin", "-1"),
    ("margin", "NaN"),
    ("margin", "1.5"),
    ("margin", "1e5"),
    ("margin", '"100000"'),
    ("margin", "true"),
    ("margin", "[]"),
    ("margin", "2100000000000001"),
    ("margin", "9" * 400),
    ("maintenanceMargin", "-1"),
    ("entryMargin", "-1"),
    ("quantity", "0"),
    ("quantity", "-1000"),
    ("quantity", "1000.5"),
    ("quantity", '"1000"'),
    ("entryPrice", "0"),
    ("entryPrice", "-1"),
    ("entryPrice", "NaN"),
    ("entryPrice", "Infinity"),
    ("entryPrice", "-Infinity"),
    ("entryPrice", "1e400"),
    ("entryPrice", "1e9"),
    ("entryPrice", '"100000"'),
    ("entryPrice", "true"),
    ("entryPrice", "{}"),
    ("liquidation", "0"),
    ("liquidation", "-5"),
    ("liquidation", "1e9"),
    ("liquidation", "Infinity"),
    ("stoploss", "-1"),
    ("stoploss", "NaN"),
    ("stoploss", "false"),
    ("takeprofit", "1e400"),
    ("leverage", "0"),
    ("leverage", "NaN"),
    ("pl", "1.5"),
    ("pl", "-2100000000000001"),
    ("sumFundingFees", "null"),
    ("sumFundingFees", "0.5"),
    ("sumCashInMargin", '"0"'),
    ("side", '"long"'),
    ("side", "1"),
    ("id", '""'),
    ("id", "7"),
    ("id", '"a b"'),
    ("id", '"' + "a" * 65 + '"'),
    ("running", "false"),
    ("running", "1"),
    ("running", '"true"'),
    ("closed", "true"),
    ("closed", "0"),
    ("clientId", "5"),
]


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_an_impossible_value_refuses_the_whole_list(name, value):
    """Failure 10: NaN, negative, huge, null or a wrong type is refused."""
    with pytest.raises(Malformed):
        wire.running_trades(raw_trade(name, value))


BAD_BODIES = [
    b"",
    b" ",
    b"null",
    b"{}",
    b'{"data": []}',
    b'"pong"',
    b"<html><body>502 Bad Gateway</body></html>",
    bytes_of([trade()])[:-1],
    bytes_of([trade()]) + b"]",
    b"[null]",
    b"[[]]",
    b"\xff\xfe[]",
    b"[" * 10_000,
]


@pytest.mark.parametrize("body", BAD_BODIES)
def test_a_body_that_is_no_list_of_trades_is_never_an_empty_list(body):
    """Failure 9: what cannot be read is not flat."""
    with pytest.raises(Malformed):
        wire.running_trades(body)


def test_an_id_that_comes_twice_refuses_the_list():
    with pytest.raises(Malformed, match="twice"):
        wire.running_trades(bytes_of([trade(), trade(margin=5)]))


def test_the_complaint_names_the_field_and_keeps_the_value_to_itself():
    with pytest.raises(Malformed) as caught:
        wire.running_trades(bytes_of([trade(margin="a-private-value")]))
    assert "0.margin" in str(caught.value)
    assert "a-private-value" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_closed_trade_is_read():
    assert wire.closed_trade(bytes_of(closed_trade())) == ClosedTrade(
        id=TRADE_ID,
        exit_price=95_000.5,
        pl=-5263,
        closed_at=datetime(2026, 1, 2, tzinfo=UTC),
        margin=100_000,
    )


def test_a_closed_trade_carries_the_tag_that_it_was_opened_with():
    assert wire.closed_trade(bytes_of(closed_trade(clientId="mine"))).client_id == "mine"
    page = wire.closed_page(bytes_of({"data": [closed_trade(clientId="mine")], "nextCursor": None}))
    assert [t.client_id for t in page.items] == ["mine"]


def test_a_closed_trade_without_a_tag_may_come_without_the_field():
    payload = closed_trade()
    del payload["clientId"]
    assert wire.closed_trade(bytes_of(payload)).client_id is None


def test_a_closed_trade_may_lack_exit_price_and_time():
    closed = wire.closed_trade(bytes_of(closed_trade(exitPrice=None, closedAt=None)))
    assert (closed.exit_price, closed.closed_at) == (None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"closed": False},
        {"pl": None},
        {"pl": 0.5},
        {"exitPrice": -1},
        {"closedAt": "yesterday"},
        {"closedAt": "2026-01-02T00:00:00"},
        {"closedAt": 1_700_000_000},
        {"clientId": 7},
    ],
)
def test_an_impossible_closed_trade_is_refused(changes):
    with pytest.raises(Malformed):
        wire.closed_trade(bytes_of(closed_trade(**changes)))


def test_a_page_of_closed_trades_tells_where_to_go_on():
    page = wire.closed_page(bytes_of({"data": [closed_trade()], "nextCursor": "c"}))
    assert [t.id for t in page.items] == [TRADE_ID]
    assert page.next_cursor == "c"


@pytest.mark.parametrize("end", [None, ""])
def test_a_page_without_a_next_cursor_is_the_last(end):
    assert wire.closed_page(bytes_of({"data": [], "nextCursor": end})).next_cursor is None


@pytest.mark.parametrize(
    "payload",
    [
        [],
        {"data": []},
        {"nextCursor": None},
        {"data": None, "nextCursor": None},
        {"data": [], "nextCursor": 5},
        {"data": [trade()], "nextCursor": None},
        {"data": [closed_trade(), closed_trade()], "nextCursor": None},
    ],
)
def test_a_page_of_another_shape_is_refused(payload):
    with pytest.raises(Malformed):
        wire.closed_page(bytes_of(payload))


def test_the_balance_is_read():
    body = bytes_of({"balance": 12_345, "username": "satoshi", "feeTier": 0})
    assert wire.balance(body, "main") == Balance(account_id="main", available=12_345)


@pytest.mark.parametrize("value", ["-1", "null", "1.5", '"1"', "NaN", "2100000000000001"])
def test_an_impossible_balance_is_refused(value):
    with pytest.raises(Malformed):
        wire.balance(b'{"balance": ' + value.encode() + b"}", "main")


def test_the_ticker_takes_whole_and_fractional_prices():
    ticker = wire.ticker(bytes_of({"lastPrice": 100_000, "index": 100_000.5, "prices": []}))
    assert (ticker.last, ticker.index) == (100_000.0, 100_000.5)


@pytest.mark.parametrize("name", ["lastPrice", "index"])
@pytest.mark.parametrize("value", ["0", "-1", "null", "NaN", "Infinity", "1e400", '"1"', "1e9"])
def test_an_impossible_ticker_is_refused(name, value):
    prices = {"lastPrice": "100000", "index": "100000", name: value}
    body = ", ".join(f'"{key}": {raw}' for key, raw in prices.items())
    with pytest.raises(Malformed):
        wire.ticker(b"{" + body.encode() + b"}")


def test_the_time_is_read_as_aware():
    body = b'{"time": "2026-01-02T03:04:05.678Z"}'
    assert wire.server_time(body) == datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


@pytest.mark.parametrize("value", ['"2026-01-02T03:04:05"', "1700000000000", "null", '"soon"'])
def test_a_time_without_a_zone_or_of_another_kind_is_refused(value):
    with pytest.raises(Malformed):
        wire.server_time(b'{"time": ' + value.encode() + b"}")


def test_an_error_of_the_exchange_has_code_and_message():
    error = wire.api_error(b'{"message": "no", "code": "UNAUTHORIZED", "details": [1]}')
    assert error == wire.ApiError(code="UNAUTHORIZED", message="no")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>403 Forbidden</html>",
        b'{"code": 1020}',
        b'{"code": "error code: 1020"}',
        b'["UNAUTHORIZED"]',
        b'"UNAUTHORIZED"',
        b'{"code": "UNAUTHORIZED"',
    ],
)
def test_an_error_body_of_somebody_else_has_no_code(body):
    assert wire.api_error(body) is None


def test_a_canceled_order_among_the_closed_trades_is_left_out():
    """The exchange describes its list of closed trades so; such an order never ran."""
    page = wire.closed_page(
        bytes_of({"data": [canceled_trade(id=OTHER_ID), closed_trade()], "nextCursor": None})
    )
    assert [t.id for t in page.items] == [TRADE_ID]


def test_a_limit_order_that_waits_is_read():
    (pending,) = wire.open_trades(bytes_of([open_trade(stoploss=80_000)]))
    assert pending == PendingTrade(
        id=TRADE_ID,
        side=Side.LONG,
        quantity=1000,
        price=90_000.5,
        margin=100_000,
        leverage=10.0,
        stop_loss=80_000.0,
        take_profit=None,
        canceled=False,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        client_id=None,
    )


def test_a_canceled_order_is_read():
    page = wire.canceled_page(bytes_of({"data": [canceled_trade()], "nextCursor": None}))
    assert [(t.id, t.canceled) for t in page.items] == [(TRADE_ID, True)]
    assert wire.canceled_trade(bytes_of(canceled_trade())).canceled


@pytest.mark.parametrize(
    "changes",
    [
        {"running": True},
        {"closed": True},
        {"canceled": True},
        {"canceled": None},
        {"canceled": 0},
        {"price": 0},
        {"price": None},
        {"price": float("nan")},
        {"quantity": 0},
        {"quantity": "1000"},
        {"margin": -1},
        {"leverage": 0},
        {"side": "long"},
        {"stoploss": -1},
        {"createdAt": None},
        {"createdAt": "2026-01-01T00:00:00"},
        {"id": ""},
        {"clientId": 5},
    ],
)
def test_an_impossible_open_order_refuses_the_list(changes):
    with pytest.raises(Malformed):
        wire.open_trades(bytes_of([open_trade(id=OTHER_ID), open_trade(**changes)]))


def test_an_open_order_that_comes_twice_refuses_the_list():
    with pytest.raises(Malformed, match="twice"):
        wire.open_trades(bytes_of([open_trade(), open_trade()]))
    with pytest.raises(Malformed, match="twice"):
        wire.canceled_page(bytes_of({"data": [canceled_trade()] * 2, "nextCursor": None}))


@pytest.mark.parametrize("payload", [open_trade(clientId="mine"), trade(clientId="mine")])
def test_an_order_that_waits_or_runs_tells_its_id(payload):
    assert wire.live_trade_id(bytes_of(payload), client_id="mine") == TRADE_ID


@pytest.mark.parametrize(
    "payload",
    [
        closed_trade(),
        canceled_trade(),
        trade(open=True),
        trade(running=False),
        trade(running=None),
        trade(id=None),
        trade(clientId="another"),
        trade(clientId=None),
        [],
        {},
    ],
)
def test_an_order_that_neither_waits_nor_runs_or_is_another_is_refused(payload):
    with pytest.raises(Malformed):
        wire.live_trade_id(bytes_of(payload), client_id="mine")


@pytest.mark.parametrize("payload", [[], [canceled_trade()], canceled_trade()])
def test_canceling_all_answers_a_list_or_one(payload):
    found = wire.canceled_trades(bytes_of(payload))
    assert len(found) == (1 if payload else 0)


@pytest.mark.parametrize("payload", [None, {}, [trade()], [None], "ok"])
def test_canceling_all_with_another_answer_is_refused(payload):
    with pytest.raises(Malformed):
        wire.canceled_trades(bytes_of(payload))
