"""The clients over real HTTP with canned answers: lists of what was closed, filled and moved."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web

from marginguard.domain.errors import Malformed
from marginguard.domain.model import ClosedTrade
from marginguard.lnmarkets.client import PublicClient
from marginguard.lnmarkets.server_clock import ServerClock
from tests.integration.canned_exchange import (
    CLOSED,
    FILLED,
    OTHER_ID,
    TRADE_ID,
    TRANSFERS,
    HandClock,
    closed_trade,
    cross_order,
    page,
    transfer,
)
from tests.integration.lnmarkets_account import account_of, flat_exchange, transport_to

SINCE = datetime(2026, 1, 1, 12, tzinfo=UTC)
EMPTY_PAGE = {"data": [], "nextCursor": None}


@pytest.fixture
async def exchange():
    async with flat_exchange() as server:
        yield server


@pytest.fixture
async def transport(exchange):
    async with transport_to(exchange) as opened:
        yield opened


@pytest.fixture
def server_clock(transport):
    return ServerClock(PublicClient(transport).server_time, HandClock())


@pytest.fixture
def account(transport, server_clock):
    return account_of(transport, server_clock)


def serve_closed(exchange, answer):
    """Answer the closed list with what `answer` returns for a request's query."""

    async def handle(request: web.Request) -> web.Response:
        return web.json_response(answer(dict(request.query)))

    exchange.handlers[CLOSED] = handle


def queries(exchange):
    return [
        {name: values[0] for name, values in parse_qs(urlsplit(seen.path_qs).query).items()}
        for seen in exchange.calls(CLOSED)
    ]


async def test_a_closed_trade_is_found_and_the_paging_ends(exchange, account):
    pages = {
        None: {"data": [closed_trade(id=OTHER_ID)], "nextCursor": "2026-01-02T00:00:00.000Z"},
        "2026-01-02T00:00:00.000Z": {"data": [closed_trade()], "nextCursor": "more"},
    }
    serve_closed(exchange, lambda query: pages[query.get("cursor")])
    trade_found = await account.closed_trade(TRADE_ID, SINCE)
    assert trade_found is not None
    assert (trade_found.id, trade_found.exit_price) == (TRADE_ID, 95_000.5)
    assert queries(exchange) == [
        {"limit": "50"},
        {"from": "2026-01-01T11:58:00.000Z", "limit": "1000"},
        {
            "from": "2026-01-01T11:58:00.000Z",
            "limit": "1000",
            "cursor": "2026-01-02T00:00:00.000Z",
        },
    ]


async def test_a_trade_is_found_where_the_list_goes_by_the_time_of_opening(exchange, account):
    """The trade was opened before `since`, so a list from there on may not hold it."""
    serve_closed(
        exchange,
        lambda query: EMPTY_PAGE if "from" in query else {**EMPTY_PAGE, "data": [closed_trade()]},
    )
    found = await account.closed_trade(TRADE_ID, SINCE)
    assert found is not None
    assert found.id == TRADE_ID


async def test_a_trade_that_is_not_in_the_list_is_none(exchange, account):
    serve_closed(exchange, lambda _query: EMPTY_PAGE)
    assert await account.closed_trade(TRADE_ID, SINCE) is None
    assert len(queries(exchange)) == 3


async def test_a_trade_that_ended_before_is_none(exchange, account):
    serve_closed(exchange, lambda _query: {**EMPTY_PAGE, "data": [closed_trade()]})
    ended = datetime(2026, 1, 2, tzinfo=UTC)
    assert await account.closed_trade(TRADE_ID, ended + timedelta(hours=1)) is None


async def test_a_trade_that_ended_now_is_found_though_our_clock_is_ahead(exchange, account):
    """Failure 8: `since` is our time, the end of the trade is the exchange's."""
    serve_closed(exchange, lambda _query: {**EMPTY_PAGE, "data": [closed_trade()]})
    ended = datetime(2026, 1, 2, tzinfo=UTC)
    assert await account.closed_trade(TRADE_ID, ended + timedelta(seconds=60)) is not None


async def test_a_cursor_that_never_ends_is_not_followed_for_ever(exchange, account):
    serve_closed(exchange, lambda _query: {"data": [], "nextCursor": "again"})
    assert await account.closed_trade(TRADE_ID, SINCE) is None
    assert len(queries(exchange)) == 11


async def test_a_bad_record_in_the_closed_list_refuses_the_read(exchange, account):
    serve_closed(
        exchange, lambda _query: {**EMPTY_PAGE, "data": [closed_trade(id=OTHER_ID, pl="1")]}
    )
    with pytest.raises(Malformed):
        await account.closed_trade(TRADE_ID, SINCE)


async def test_the_last_order_filled_is_what_closed_the_cross_position(exchange, account):
    early = cross_order(id="early", price=96_000, filledAt="2026-01-01T13:00:00.000Z")
    late = cross_order(id="late", price=95_000.5, filledAt="2026-01-01T14:00:00.000Z")
    exchange.answer(FILLED, page(early, late))
    closed = await account.closed_trade("cross", SINCE)
    assert closed == ClosedTrade(
        id="cross",
        exit_price=95_000.5,
        pl=None,
        closed_at=datetime(2026, 1, 1, 14, tzinfo=UTC),
        liquidated=False,
    )


async def test_a_liquidation_of_the_cross_position_is_told_by_the_kind_of_its_order(
    exchange, account
):
    exchange.answer(FILLED, page(cross_order(type="liquidation")))
    assert (await account.closed_trade("cross", SINCE)).liquidated


async def test_the_cross_position_was_not_closed_by_an_order_filled_before(exchange, account):
    exchange.answer(FILLED, page(cross_order(filledAt="2026-01-01T11:59:59.000Z")))
    assert await account.closed_trade("cross", SINCE) is None
    exchange.answer(FILLED, page())
    assert await account.closed_trade("cross", SINCE) is None


async def test_deposits_since_a_time_are_counted_once_each(exchange, account):
    """A transfer proves a deposit: an earlier one, or one told twice, must not."""
    before = transfer(id="before", time="2026-01-01T11:59:59.999Z")
    first = transfer(id="first", time="2026-01-01T12:00:00.000Z")
    second = transfer(id="second", amount=-7, time="2026-01-01T12:00:05.000Z")
    pages = {None: page(second, first, cursor="c"), "c": page(first, before)}

    async def handle(request: web.Request) -> web.Response:
        return web.json_response(pages[request.query.get("cursor")])

    exchange.handlers[TRANSFERS] = handle
    found = await account.deposits(SINCE)
    assert [(t.id, t.amount) for t in found] == [("second", -7), ("first", 5000)]
    asked = parse_qs(urlsplit(exchange.calls(TRANSFERS)[0].path_qs).query)
    assert asked["from"] == ["2026-01-01T12:00:00.000Z"]


async def test_times_of_ours_are_told_to_the_exchange_in_its_own(exchange, account, server_clock):
    """Failure 8: a clock that is 10 s behind must not hide a deposit, or bring an older one."""
    await server_clock.resync()
    assert server_clock.offset_s == pytest.approx(10, abs=1)
    exchange.answer(TRANSFERS, page(transfer(time="2026-01-01T12:00:05.000Z")))
    assert await account.deposits(SINCE) == ()
    exchange.answer(TRANSFERS, page(transfer(time="2026-01-01T12:00:15.000Z")))
    assert len(await account.deposits(SINCE)) == 1


async def test_a_list_of_transfers_that_never_ends_is_refused(exchange, account):
    """What may be incomplete proves nothing about a deposit that is not in it."""
    exchange.answer(TRANSFERS, page(cursor="again"))
    with pytest.raises(Malformed, match="more than 5 pages"):
        await account.deposits(SINCE)
    assert len(exchange.calls(TRANSFERS)) == 5
