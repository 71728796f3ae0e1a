"""The cross margin's payloads: what is taken, and what is refused."""

import json
from datetime import UTC, datetime

import pytest

from marginguard.domain.errors import Malformed
from marginguard.domain.model import (
    CrossOrder,
    FundingFee,
    MarginMode,
    OrderType,
    Position,
    Side,
    Transfer,
)
from marginguard.lnmarkets import wire_cross
from tests.integration.canned_exchange import (
    cross_order,
    cross_position,
    page,
    transfer,
    waiting_order,
)

AT = datetime(2026, 1, 2, tzinfo=UTC)


def bytes_of(payload: object) -> bytes:
    return json.dumps(payload).encode()


def with_raw(payload: dict, name: str, value: str) -> bytes:
    """The payload with one field's raw JSON value."""
    return bytes_of({**payload, name: "RAW"}).replace(b'"RAW"', value.encode())


def funding_fee(**changes):
    return {
        "settlementId": "0f000000-0000-4000-8000-000000000001",
        "fee": -12,
        "time": "2026-01-02T00:00:00.000Z",
        "tradeId": None,
        **changes,
    }


def test_a_long_becomes_a_position():
    assert wire_cross.position(bytes_of(cross_position())) == Position(
        id="cross",
        mode=MarginMode.CROSS,
        side=Side.LONG,
        quantity=1000,
        entry_price=100_000.0,
        margin=500_000,
        maintenance_margin=1500,
        leverage=10.0,
        pl=-5263,
        liquidation_price=66_733.5,
        stop_loss=None,
        take_profit=None,
        entry_margin=100_000,
        funding_paid=7,
        cashed_in=0,
        client_id=None,
    )


def test_a_negative_quantity_is_a_short():
    short = wire_cross.position(bytes_of(cross_position(quantity=-1000, liquidation=199_402)))
    assert short is not None
    assert (short.side, short.quantity) == (Side.SHORT, 1000)


@pytest.mark.parametrize("liquidation", [None, 0, 1.1e11])
def test_a_short_may_be_out_of_the_reach_of_liquidation(liquidation):
    short = wire_cross.position(bytes_of(cross_position(quantity=-1000, liquidation=liquidation)))
    assert short is not None
    assert short.liquidation_price == (liquidation or None)


def test_no_quantity_means_that_no_position_runs():
    flat = cross_position(quantity=0, entryPrice=None, liquidation=None)
    assert wire_cross.position(bytes_of(flat)) is None
    assert wire_cross.position_id(bytes_of(flat)) == flat["id"]


@pytest.mark.parametrize(
    "name",
    [
        "id",
        "quantity",
        "margin",
        "maintenanceMargin",
        "runningMargin",
        "leverage",
        "entryPrice",
        "liquidation",
        "totalPl",
        "fundingFees",
    ],
)
def test_a_missing_field_is_refused_and_never_taken_for_no_position(name):
    """Failure 10: a missing or renamed field that matters fails closed."""
    payload = cross_position()
    del payload[name]
    with pytest.raises(Malformed, match=name):
        wire_cross.position(bytes_of(payload))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quantity", "null"),
        ("quantity", "0.0"),
        ("quantity", "-0.5"),
        ("quantity", '"0"'),
        ("quantity", "false"),
        ("quantity", "NaN"),
        ("quantity", "2100000000000001"),
        ("margin", "-1"),
        ("margin", "1.5"),
        ("margin", "null"),
        ("margin", "9" * 400),
        ("maintenanceMargin", "-1"),
        ("maintenanceMargin", "null"),
        ("runningMargin", "-1"),
        ("leverage", "0"),
        ("leverage", "NaN"),
        ("leverage", '"10"'),
        ("entryPrice", "null"),
        ("entryPrice", "0"),
        ("entryPrice", "1e400"),
        ("entryPrice", "Infinity"),
        ("liquidation", "null"),
        ("liquidation", "0"),
        ("liquidation", "-1"),
        ("liquidation", "1e9"),
        ("totalPl", "0.5"),
        ("totalPl", "null"),
        ("fundingFees", '"7"'),
        ("id", "null"),
        ("id", '"a b"'),
    ],
)
def test_an_impossible_position_is_refused(name, value):
    """Failure 10: NaN, negative, huge, null or a wrong type is refused."""
    with pytest.raises(Malformed):
        wire_cross.position(with_raw(cross_position(), name, value))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"<html>502</html>",
        bytes_of(cross_position())[:-1],
        bytes_of([cross_position()]),
    ],
)
def test_a_body_of_another_shape_is_never_taken_for_no_position(body):
    """Failure 9: what cannot be read is not flat."""
    with pytest.raises(Malformed):
        wire_cross.position(body)


def test_a_filled_order_is_read():
    assert wire_cross.filled_order(bytes_of(cross_order(clientId="mine"))) == CrossOrder(
        id="0d000000-0000-4000-8000-000000000001",
        type=OrderType.MARKET,
        side=Side.SHORT,
        quantity=1000,
        price=95_000.5,
        trading_fee=1052,
        created_at=AT,
        filled_at=AT,
        client_id="mine",
    )


def test_a_liquidation_stands_among_the_filled_orders():
    """Failure 11: liquidated before we acted."""
    found = wire_cross.filled_page(bytes_of(page(cross_order(type="liquidation"))))
    assert found.items[0].type is OrderType.LIQUIDATION


def test_an_order_may_come_without_a_client_id():
    payload = waiting_order()
    del payload["clientId"]
    (order,) = wire_cross.open_orders(bytes_of([payload]))
    assert (order.client_id, order.filled_at) == (None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"filled": False},
        {"open": True},
        {"canceled": True},
        {"filledAt": None},
        {"filledAt": "2026-01-02T00:00:00"},
        {"filledAt": 1_700_000_000},
        {"type": "stop"},
        {"side": "long"},
        {"quantity": 0},
        {"quantity": -1000},
        {"price": 0},
        {"price": None},
        {"tradingFee": -1},
        {"tradingFee": "1"},
        {"id": ""},
        {"filled": 1},
        {"createdAt": None},
        {"clientId": 5},
    ],
)
def test_an_impossible_filled_order_is_refused(changes):
    with pytest.raises(Malformed):
        wire_cross.filled_page(bytes_of(page(cross_order(**changes))))
    with pytest.raises(Malformed):
        wire_cross.filled_order(bytes_of(cross_order(**changes)))


def test_a_waiting_order_is_not_filled_and_a_filled_one_does_not_wait():
    with pytest.raises(Malformed):
        wire_cross.filled_order(bytes_of(waiting_order()))
    with pytest.raises(Malformed):
        wire_cross.filled_page(bytes_of(page(waiting_order())))
    with pytest.raises(Malformed):
        wire_cross.open_orders(bytes_of([cross_order()]))


@pytest.mark.parametrize(
    "payload",
    [
        waiting_order(filledAt="2026-01-02T00:00:00.000Z"),
        cross_order(filledAt=None),
        waiting_order(open=False),
        waiting_order(canceled=True),
    ],
)
def test_an_order_that_contradicts_itself_is_refused(payload):
    with pytest.raises(Malformed, match="says open"):
        wire_cross.order(bytes_of(payload))


def test_transfers_go_both_ways():
    found = wire_cross.transfer_page(
        bytes_of(page(transfer(), transfer(id="other", amount=-70), cursor="c"))
    )
    assert [t.amount for t in found.items] == [5000, -70]
    assert found.items[0] == Transfer(id="0e000000-0000-4000-8000-000000000001", amount=5000, at=AT)
    assert found.next_cursor == "c"


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": None},
        {"amount": "5000"},
        {"amount": 0.5},
        {"amount": 2_100_000_000_000_001},
        {"time": None},
        {"time": "2026-01-02"},
        {"time": 1_700_000_000},
        {"id": None},
        {"id": ""},
    ],
)
def test_an_impossible_transfer_refuses_the_page(changes):
    """A transfer proves a deposit, so none may be made up."""
    with pytest.raises(Malformed):
        wire_cross.transfer_page(bytes_of(page(transfer(id="good"), transfer(**changes))))


def test_funding_is_paid_or_received():
    found = wire_cross.funding_fee_page(bytes_of(page(funding_fee())))
    assert found.items == (
        FundingFee(settlement_id="0f000000-0000-4000-8000-000000000001", fee=-12, at=AT),
    )


@pytest.mark.parametrize("changes", [{"fee": None}, {"fee": 0.5}, {"time": 5}, {"settlementId": 7}])
def test_impossible_funding_refuses_the_page(changes):
    with pytest.raises(Malformed):
        wire_cross.funding_fee_page(bytes_of(page(funding_fee(**changes))))


@pytest.mark.parametrize(
    ("parse", "record"),
    [
        (wire_cross.filled_page, cross_order()),
        (wire_cross.transfer_page, transfer()),
        (lambda body: wire_cross.open_orders(body), None),
    ],
)
def test_an_id_that_comes_twice_refuses_the_list(parse, record):
    payload = [waiting_order()] * 2 if record is None else page(record, record)
    with pytest.raises(Malformed, match="twice"):
        parse(bytes_of(payload))


@pytest.mark.parametrize(
    "parse", [wire_cross.filled_page, wire_cross.transfer_page, wire_cross.funding_fee_page]
)
@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"data": []}', b'{"data": null, "nextCursor": null}', b"<html></html>"],
)
def test_a_page_of_another_shape_is_never_an_empty_one(parse, body):
    with pytest.raises(Malformed):
        parse(body)
