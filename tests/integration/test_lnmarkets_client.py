"""The clients over real HTTP with canned answers."""

import asyncio
import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from marginguard.domain.errors import Malformed, MarginguardError, Rejected, Transient, Unauthorized
from marginguard.domain.model import ClosedTrade, MarginMode, Side
from marginguard.domain.outcome import OutcomeKind
from marginguard.lnmarkets import client
from marginguard.lnmarkets.client import AccountClient, PublicClient
from marginguard.lnmarkets.server_clock import ServerClock
from marginguard.lnmarkets.signing import Credentials
from marginguard.lnmarkets.transport import Transport
from marginguard.ports import Exchange
from tests.integration.canned_exchange import (
    ADD_MARGIN,
    CLOSE,
    CLOSED,
    CROSS_POSITION,
    FILLED,
    OTHER_ID,
    RUNNING,
    TRADE_ID,
    TRANSFERS,
    HandClock,
    canned_exchange,
    closed_trade,
    cross_order,
    cross_position,
    page,
    trade,
    transfer,
    waiting_order,
)

SECRET = "the-secret"
SINCE = datetime(2026, 1, 1, 12, tzinfo=UTC)
NO_LIMIT = 1e6
EMPTY_PAGE = {"data": [], "nextCursor": None}


@pytest.fixture
async def exchange():
    async with canned_exchange() as server:
        server.answer("/v3/time", {"time": "2026-01-02T03:04:15.000Z"})
        server.answer(CROSS_POSITION, cross_position(quantity=0, entryPrice=None))
        yield server


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
async def transport(exchange):
    async with Transport(exchange.url, timeout_s=5, rate_scale=NO_LIMIT) as opened:
        yield opened


@pytest.fixture
def server_clock(transport, clock):
    return ServerClock(PublicClient(transport).server_time, clock)


@pytest.fixture
def account(transport, server_clock) -> Exchange:
    return AccountClient(
        "main",
        Credentials(key="the-key", secret=SECRET, passphrase="the-phrase"),
        transport=transport,
        server_clock=server_clock,
        rate_scale=NO_LIMIT,
    )


async def test_ticker_and_time_are_read_unsigned(exchange, transport):
    exchange.answer("/v3/futures/ticker", {"lastPrice": 100_000, "index": 100_001.5})
    public = PublicClient(transport)
    ticker = await public.ticker()
    assert (ticker.last, ticker.index) == (100_000.0, 100_001.5)
    reading = await public.server_time()
    assert reading.time == datetime(2026, 1, 2, 3, 4, 15, tzinfo=UTC)
    assert 0 < reading.round_trip_s < 5
    assert not any("lnm-access-key" in {n.lower() for n in seen.headers} for seen in exchange.seen)


async def test_a_ticker_says_how_long_it_waited_for_its_turn(exchange):
    exchange.answer("/v3/futures/ticker", {"lastPrice": 100_000, "index": 100_001.5})
    async with Transport(exchange.url, timeout_s=5.0, rate_scale=20.0) as slower:
        public = PublicClient(slower)
        first, second = await public.ticker(), await public.ticker()
    assert 0 <= first.waited_s < second.waited_s


async def test_a_signed_request_carries_key_passphrase_time_and_signature(exchange, account, clock):
    exchange.answer("/v3/account", {"balance": 500})
    balance = await account.balance()
    assert (balance.account_id, balance.available) == ("main", 500)
    (seen,) = exchange.seen
    headers = {name.lower(): value for name, value in seen.headers.items()}
    timestamp = str(int(clock.wall.timestamp() * 1000))
    digest = hmac.new(
        SECRET.encode(), f"{timestamp}get/v3/account".encode(), hashlib.sha256
    ).digest()
    assert headers["lnm-access-key"] == "the-key"
    assert headers["lnm-access-passphrase"] == "the-phrase"
    assert headers["lnm-access-timestamp"] == timestamp
    assert headers["lnm-access-signature"] == base64.b64encode(digest).decode()


async def test_running_positions_are_read(exchange, account):
    exchange.answer(RUNNING, [trade(), trade(id=OTHER_ID)])
    assert [p.id for p in await account.running_positions()] == [TRADE_ID, OTHER_ID]


async def test_the_cross_position_stands_among_the_running_ones(exchange, account):
    exchange.answer(RUNNING, [trade()])
    exchange.answer(CROSS_POSITION, cross_position(quantity=-1000))
    isolated, cross = await account.running_positions()
    assert (isolated.id, isolated.mode) == (TRADE_ID, MarginMode.ISOLATED)
    assert (cross.id, cross.mode, cross.side, cross.quantity) == (
        "cross",
        MarginMode.CROSS,
        Side.SHORT,
        1000,
    )
    assert cross.buffer == 500_000 - 1500


async def test_isolated_trades_and_the_cross_position_are_read_at_once(exchange, account):
    arrived = asyncio.Barrier(2)

    async def both(payload):
        async with asyncio.timeout(5):
            await arrived.wait()
        return web.json_response(payload)

    exchange.handlers[RUNNING] = lambda _request: both([trade()])
    exchange.handlers[CROSS_POSITION] = lambda _request: both(cross_position())
    assert len(await account.running_positions()) == 2


@pytest.mark.parametrize("status", [500, 502, 503, 429, 404])
@pytest.mark.parametrize("path", [RUNNING, CROSS_POSITION])
async def test_half_of_the_positions_is_never_taken_for_all(exchange, account, path, status):
    """Failure 9: the other half may be about to be liquidated."""
    exchange.answer(RUNNING, [trade()])
    exchange.answer(CROSS_POSITION, cross_position())
    exchange.answer(path, {"code": "NOT_FOUND", "message": "no"}, status=status)
    with pytest.raises(MarginguardError):
        await account.running_positions()


async def test_a_malformed_cross_position_refuses_the_whole_read(exchange, account):
    """Failure 10: what cannot be read is unknown."""
    exchange.answer(RUNNING, [trade()])
    exchange.answer(CROSS_POSITION, cross_position(margin=-1))
    with pytest.raises(Malformed, match="margin"):
        await account.running_positions()


FORBIDDEN = {"code": "FORBIDDEN", "message": "missing permission"}


async def test_a_key_without_the_cross_permission_guards_isolated_trades(exchange, account):
    """Loud: once that cross is not covered, and no more calls for an hour."""
    exchange.answer(RUNNING, [trade()])
    exchange.answer(CROSS_POSITION, FORBIDDEN, status=403)
    assert account.covers_cross
    with capture_logs() as logs:
        for _ in range(3):
            assert [p.id for p in await account.running_positions()] == [TRADE_ID]
    assert not account.covers_cross
    told = [(e["event"], e["log_level"]) for e in logs if "cross" in e["event"]]
    assert told == [("account.cross_not_covered", "warning")]
    # Once, and once more after the resync of the clock.
    assert len(exchange.calls(CROSS_POSITION)) == 2


async def test_a_key_without_the_cross_permission_is_tried_again(exchange, account, monkeypatch):
    monkeypatch.setattr(client, "CROSS_RETRY_S", 0.0)
    exchange.answer(RUNNING, [trade()])
    exchange.answer(CROSS_POSITION, FORBIDDEN, status=403)
    await account.running_positions()
    exchange.answer(CROSS_POSITION, cross_position())
    with capture_logs() as logs:
        assert [p.id for p in await account.running_positions()] == [TRADE_ID, "cross"]
    assert account.covers_cross
    assert "account.cross_covered" in [e["event"] for e in logs]


async def test_a_permission_that_is_lost_is_a_refusal(exchange, account):
    """Failure 6: a cross position that was seen does not silently vanish."""
    exchange.answer(RUNNING, [trade()])
    exchange.answer(CROSS_POSITION, cross_position())
    await account.running_positions()
    exchange.answer(CROSS_POSITION, FORBIDDEN, status=403)
    with pytest.raises(Unauthorized):
        await account.running_positions()


async def test_a_key_that_is_refused_is_not_taken_for_one_without_the_permission(exchange, account):
    """Failure 6: UNAUTHORIZED is about the key, FORBIDDEN about what it may do."""
    exchange.answer(RUNNING, [trade()])
    exchange.answer(CROSS_POSITION, {"code": "UNAUTHORIZED", "message": "no"}, status=401)
    with pytest.raises(Unauthorized):
        await account.running_positions()


async def test_many_guards_that_look_at_once_cost_few_calls(exchange, account):
    exchange.answer(RUNNING, [trade()])
    exchange.answer("/v3/account", {"balance": 500})
    looks = [account.running_positions() for _ in range(10)] + [
        account.balance() for _ in range(10)
    ]
    await asyncio.gather(*looks)
    for path in (RUNNING, CROSS_POSITION, "/v3/account"):
        assert len(exchange.calls(path)) == 2


async def test_one_bad_trade_refuses_the_whole_read(exchange, account):
    """Failure 10: nothing may silently be left out."""
    exchange.answer(RUNNING, [trade(), trade(id=OTHER_ID, margin=-1)])
    with pytest.raises(Malformed, match=r"1\.margin"):
        await account.running_positions()


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
async def test_an_error_is_never_an_empty_list(exchange, account, status):
    """Failure 9: an empty list that comes with an error is not flat."""
    exchange.answer(RUNNING, [], status=status)
    with pytest.raises(Transient):
        await account.running_positions()


async def test_a_refused_read_is_sent_again_once_with_the_exchanges_time(exchange, account, clock):
    """Failure 8: a clock that is off is set right before the key is blamed."""
    exchange.answer(RUNNING, [trade()])
    good = exchange.handlers[RUNNING]

    async def refuse_the_first(request: web.Request) -> web.StreamResponse:
        if len(exchange.calls(RUNNING)) == 1:
            return web.json_response({"code": "UNAUTHORIZED", "message": "old"}, status=401)
        return await good(request)

    exchange.handlers[RUNNING] = refuse_the_first
    assert len(await account.running_positions()) == 1
    first, second = (int(seen.headers["lnm-access-timestamp"]) for seen in exchange.calls(RUNNING))
    assert second - first == pytest.approx(10_000, abs=1_000)  # half a round trip of error
    assert len(exchange.calls("/v3/time")) == 1


@pytest.mark.parametrize(("status", "code"), [(401, "UNAUTHORIZED"), (403, "FORBIDDEN")])
async def test_a_read_refused_again_after_the_resync_is_unauthorized(
    exchange, account, status, code
):
    """Failure 6: the exchange's own refusal, twice."""
    exchange.answer(RUNNING, {"code": code, "message": "no"}, status=status)
    with pytest.raises(Unauthorized):
        await account.running_positions()
    assert len(exchange.calls(RUNNING)) == 2
    assert len(exchange.calls("/v3/time")) == 1


async def test_a_refused_read_whose_resync_fails_does_not_blame_the_key(exchange, account):
    """Failure 8: without the exchange's time a refusal proves nothing about the key."""
    exchange.answer(RUNNING, {"code": "UNAUTHORIZED", "message": "no"}, status=401)
    exchange.answer("/v3/time", b"", status=502)
    with pytest.raises(Transient):
        await account.running_positions()


async def test_a_refusal_under_an_unmeasured_clock_says_that_it_may_be_the_clock(exchange, account):
    exchange.answer("/v3/account", {"code": "UNAUTHORIZED", "message": "no"}, status=401)
    exchange.answer("/v3/time", b"", status=502)
    with pytest.raises(Transient, match="clock cannot be measured") as caught:
        await account.balance()
    assert not isinstance(caught.value, Unauthorized)


async def test_the_clock_is_set_right_on_request_and_a_failure_is_told(exchange, account):
    """Failure 8: whoever had a change refused asks for the exchange's time."""
    exchange.answer("/v3/account", {"balance": 500})
    await account.balance()
    await account.resync_clock()
    await account.balance()
    first, second = (
        int(seen.headers["lnm-access-timestamp"]) for seen in exchange.calls("/v3/account")
    )
    assert second - first == pytest.approx(10_000, abs=1_000)  # half a round trip of error
    exchange.answer("/v3/time", b"", status=502)
    with capture_logs() as logs:
        await account.resync_clock()
    assert [(log["event"], log["log_level"]) for log in logs] == [("clock.unmeasured", "warning")]


async def test_a_gateways_403_is_no_refusal_of_the_key(exchange, account):
    """Failure 6: a 403 from a gateway is not the exchange's."""
    exchange.answer(RUNNING, b"<html>Forbidden</html>", status=403)
    with pytest.raises(Rejected) as caught:
        await account.running_positions()
    assert not isinstance(caught.value, Unauthorized)
    assert caught.value.code is None
    assert len(exchange.calls(RUNNING)) == 1


async def test_a_close_that_is_answered_is_done(exchange, account):
    exchange.answer(CLOSE, closed_trade())
    outcome = await account.close_position(TRADE_ID)
    assert (outcome.kind, outcome.exchange_id) == (OutcomeKind.DONE, TRADE_ID)
    (seen,) = exchange.seen
    assert (seen.method, json.loads(seen.body)) == ("POST", {"id": TRADE_ID})


async def test_added_margin_that_is_answered_is_done(exchange, account):
    exchange.answer(ADD_MARGIN, trade(margin=100_777))
    outcome = await account.add_margin(TRADE_ID, 777)
    assert (outcome.kind, outcome.exchange_id) == (OutcomeKind.DONE, TRADE_ID)
    (seen,) = exchange.seen
    assert (seen.method, json.loads(seen.body)) == ("POST", {"id": TRADE_ID, "amount": 777})


async def test_a_signed_change_verifies_over_the_body_that_arrived(exchange, account):
    exchange.answer(ADD_MARGIN, trade())
    await account.add_margin(TRADE_ID, 777)
    (seen,) = exchange.seen
    timestamp = seen.headers["lnm-access-timestamp"]
    message = f"{timestamp}post{ADD_MARGIN}".encode() + seen.body
    digest = hmac.new(SECRET.encode(), message, hashlib.sha256).digest()
    assert seen.headers["lnm-access-signature"] == base64.b64encode(digest).decode()


async def test_a_change_that_is_refused_is_rejected_and_not_resent(exchange, account):
    """Failure 6: the caller decides about a second attempt at a change."""
    exchange.answer(CLOSE, {"code": "UNAUTHORIZED", "message": "no"}, status=401)
    outcome = await account.close_position(TRADE_ID)
    assert (outcome.kind, outcome.unauthorized) == (OutcomeKind.REJECTED, True)
    assert len(exchange.seen) == 1


BAD_ANSWERS = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'"ok"',
    b"<html>200 OK, says the gateway</html>",
    json.dumps(trade()).encode()[:-1],
    json.dumps({"id": TRADE_ID}).encode(),
    json.dumps([trade()]).encode(),
    json.dumps([closed_trade()]).encode(),
    json.dumps(trade(id=OTHER_ID)).encode(),
    json.dumps(closed_trade(id=OTHER_ID)).encode(),
    json.dumps(trade(id=None)).encode(),
    json.dumps(closed_trade(id=7)).encode(),
    json.dumps(trade(margin=-5)).encode(),
    json.dumps(trade(margin="5")).encode(),
    json.dumps(trade(quantity=0)).encode(),
    json.dumps(trade(entryPrice=float("nan"))).encode(),
    json.dumps(trade(liquidation=float("inf"))).encode(),
    json.dumps(closed_trade(pl=None)).encode(),
    json.dumps(closed_trade(pl=10**40)).encode(),
    json.dumps(closed_trade(exitPrice=float("-inf"))).encode(),
    json.dumps(closed_trade(closedAt=5)).encode(),
]


@pytest.mark.parametrize("body", BAD_ANSWERS)
async def test_a_change_whose_answer_does_not_parse_is_ambiguous(exchange, account, body):
    """Failure 10: a 2xx that cannot be read proves nothing about the call."""
    exchange.answer(CLOSE, body)
    exchange.answer(ADD_MARGIN, body)
    assert (await account.close_position(TRADE_ID)).kind is OutcomeKind.AMBIGUOUS
    assert (await account.add_margin(TRADE_ID, 5)).kind is OutcomeKind.AMBIGUOUS


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


async def test_the_cross_position_is_closed_by_a_call_without_a_body(exchange, account):
    exchange.answer("/v3/futures/cross/position/close", cross_order())
    outcome = await account.close_position("cross")
    assert (outcome.kind, outcome.exchange_id) == (OutcomeKind.DONE, cross_order()["id"])
    (seen,) = exchange.seen
    assert (seen.method, seen.body) == ("POST", b"")
    message = f"{seen.headers['lnm-access-timestamp']}post/v3/futures/cross/position/close"
    digest = hmac.new(SECRET.encode(), message.encode(), hashlib.sha256).digest()
    assert seen.headers["lnm-access-signature"] == base64.b64encode(digest).decode()


async def test_margin_for_the_cross_position_is_a_deposit(exchange, account):
    exchange.answer("/v3/futures/cross/deposit", cross_position(margin=500_777))
    outcome = await account.add_margin("cross", 777)
    assert (outcome.kind, outcome.exchange_id) == (OutcomeKind.DONE, cross_position()["id"])
    (seen,) = exchange.seen
    assert (seen.method, json.loads(seen.body)) == ("POST", {"amount": 777})


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        {},
        "ok",
        cross_position(margin=-1),
        cross_position(quantity=None),
        cross_position(entryPrice=None),
        waiting_order(),
        cross_order(filledAt=None),
        cross_order(price=0),
        cross_order(id=None),
        trade(),
    ],
)
async def test_a_cross_change_whose_answer_does_not_parse_is_ambiguous(exchange, account, payload):
    """Failure 10: a 2xx that cannot be read proves nothing about the call."""
    exchange.answer("/v3/futures/cross/position/close", payload)
    exchange.answer("/v3/futures/cross/deposit", payload)
    assert (await account.close_position("cross")).kind is OutcomeKind.AMBIGUOUS
    assert (await account.add_margin("cross", 5)).kind is OutcomeKind.AMBIGUOUS


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


async def test_no_secret_shows_in_an_error_or_an_outcome(exchange, account):
    """Failure 36: secrets never reach a record."""
    exchange.answer("/v3/account", {"code": "BAD_REQUEST", "message": "no"}, status=400)
    exchange.answer(CLOSE, b"", status=500)
    with pytest.raises(Rejected) as caught:
        await account.balance()
    outcome = await account.close_position(TRADE_ID)
    shown = f"{caught.value!r} {outcome!r}"
    assert not any(part in shown for part in ("the-key", SECRET, "the-phrase"))
