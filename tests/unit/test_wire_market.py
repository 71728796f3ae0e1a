"""The market's past: what is taken, and what is refused."""

import json
from datetime import UTC, datetime

import pytest

from marginguard.domain.errors import Malformed
from marginguard.domain.model import Candle, FundingSettlement
from marginguard.lnmarkets import wire_market
from tests.integration.canned_exchange import page

AT = datetime(2026, 1, 2, tzinfo=UTC)


def bytes_of(payload: object) -> bytes:
    return json.dumps(payload).encode()


def candle(**changes):
    return {
        "time": "2026-01-02T00:00:00.000Z",
        "open": 100_000,
        "high": 100_010.5,
        "low": 99_000,
        "close": 99_500,
        "volume": 12_345,
        **changes,
    }


def settlement(**changes):
    return {
        "id": "0f000000-0000-4000-8000-000000000001",
        "time": "2026-01-02T00:00:00.000Z",
        "fundingRate": -0.0001,
        "fixingPrice": 100_000.5,
        **changes,
    }


def test_a_candle_is_read():
    found = wire_market.candle_page(bytes_of(page(candle(), cursor="c")))
    assert found.next_cursor == "c"
    assert found.items == (
        Candle(opened_at=AT, open=100_000, high=100_010.5, low=99_000, close=99_500, volume=12_345),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"open": 0},
        {"open": None},
        {"high": float("nan")},
        {"high": float("inf")},
        {"high": 99_999},
        {"low": 99_501},
        {"low": -1},
        {"close": "99500"},
        {"close": 100_011},
        {"volume": -1},
        {"volume": None},
        {"time": 1_700_000_000},
        {"time": "2026-01-02T00:00:00"},
    ],
)
def test_an_impossible_candle_refuses_the_page(changes):
    with pytest.raises(Malformed):
        wire_market.candle_page(bytes_of(page(candle(), candle(**changes))))


def test_a_settlement_of_funding_is_read():
    found = wire_market.settlement_page(bytes_of(page(settlement())))
    assert found.items == (
        FundingSettlement(
            id="0f000000-0000-4000-8000-000000000001",
            rate=-0.0001,
            fixing_price=100_000.5,
            at=AT,
        ),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"fundingRate": None},
        {"fundingRate": float("nan")},
        {"fundingRate": 1.0},
        {"fundingRate": "0.1"},
        {"fixingPrice": 0},
        {"fixingPrice": None},
        {"id": 7},
        {"time": None},
    ],
)
def test_an_impossible_settlement_refuses_the_page(changes):
    with pytest.raises(Malformed):
        wire_market.settlement_page(bytes_of(page(settlement(**changes))))
