"""What a reduction and a backstop ask of an account, over real HTTP with canned answers."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web

from marginguard.domain.errors import Malformed
from marginguard.domain.model import NewTrade, Side
from marginguard.domain.outcome import OutcomeKind
from marginguard.lnmarkets.client import AccountClient, PublicClient
from marginguard.lnmarkets.limits import PERIOD_S
from marginguard.lnmarkets.server_clock import ServerClock
from marginguard.lnmarkets.signing import Credentials
from marginguard.lnmarkets.transport import Transport
from marginguard.ports import Exchange
from tests.integration.canned_exchange import (
    CLOSE,
    CLOSED,
    CROSS_POSITION,
    FILLED,
    OTHER_ID,
    RUNNING,
    TRADE_ID,
    HandClock,
    canned_exchange,
    closed_trade,
    cross_order,
    cross_position,
    page,
    trade,
)

OPEN = "/v3/futures/isolated/trade"
STOP_LOSS = "/v3/futures/isolated/trade/stoploss"
ORDER = "/v3/futures/cross/order"
ENDED = datetime(2026, 1, 2, tzinfo=UTC)
SINCE = datetime(2026, 1, 1, 12, tzinfo=UTC)
A_LITTLE_BEFORE = "2026-01-01T11:58:00.000Z"
NO_LIMIT = 1e6
SOME_LIMIT = 10.0


@pytest.fixture
async def exchange():
    async with canned_exchange() as server:
        yield server


@pytest.fixture
async def transport(exchange):
    async with Transport(exchange.url, timeout_s=5, rate_scale=NO_LIMIT) as opened:
        yield opened


def account_of(transport: Transport, rate_scale: float = NO_LIMIT) -> Exchange:
    return AccountClient(
        "main",
        Credentials(key="the-key", secret="the-secret", passphrase="the-phrase"),
        transport=transport,
        server_clock=ServerClock(PublicClient(transport).server_time, HandClock()),
        rate_scale=rate_scale,
    )


@pytest.fixture
def account(transport):
    return account_of(transport)


def new_trade(**changes) -> NewTrade:
    wanted = {"side": Side.LONG, "quantity": 500, "leverage": 12.5, "client_id": "mine"}
    return NewTrade(**{**wanted, **changes})


CALLS = [
    pytest.param(lambda a: a.open_trade(new_trade()), OPEN, trade(clientId="mine"), id="open"),
    pytest.param(
        lambda a: a.reduce_cross(Side.SHORT, 1000, "mine"),
        ORDER,
        cross_order(clientId="mine"),
        id="reduce cross",
    ),
    pytest.param(
        lambda a: a.set_stop_loss(TRADE_ID, 90_000.5),
        STOP_LOSS,
        trade(stoploss=90_000.5),
        id="set stop-loss",
    ),
    pytest.param(
        lambda a: a.set_stop_loss(TRADE_ID, None), STOP_LOSS, trade(), id="remove stop-loss"
    ),
]


def asked(exchange, path):
    return [
        {name: values[0] for name, values in parse_qs(urlsplit(seen.path_qs).query).items()}
        for seen in exchange.calls(path)
    ]


async def test_a_trade_is_opened_with_its_tag_and_its_exits_and_tells_its_new_id(exchange, account):
    exchange.answer(OPEN, trade(id=OTHER_ID, clientId="mine"))
    outcome = await account.open_trade(new_trade(stop_loss=90_000.5, take_profit=120_000.0))
    assert (outcome.kind, outcome.exchange_id) == (OutcomeKind.DONE, OTHER_ID)
    (seen,) = exchange.seen
    assert (seen.method, json.loads(seen.body)) == (
        "POST",
        {
            "type": "market",
            "side": "buy",
            "quantity": 500,
            "leverage": 12.5,
            "clientId": "mine",
            "stoploss": 90_000.5,
            "takeprofit": 120_000,
        },
    )


async def test_a_trade_without_exits_is_opened_without_them(exchange, account):
    exchange.answer(OPEN, trade(clientId="mine"))
    await account.open_trade(new_trade(side=Side.SHORT))
    (seen,) = exchange.seen
    body = json.loads(seen.body)
    assert body["side"] == "sell"
    assert body.keys().isdisjoint({"stoploss", "takeprofit", "price"})


async def test_the_cross_position_is_reduced_by_a_market_order_with_a_tag(exchange, account):
    exchange.answer(ORDER, cross_order(clientId="mine"))
    outcome = await account.reduce_cross(Side.SHORT, 1000, "mine")
    assert (outcome.kind, outcome.exchange_id) == (OutcomeKind.DONE, cross_order()["id"])
    (seen,) = exchange.seen
    assert json.loads(seen.body) == {
        "type": "market",
        "side": "sell",
        "quantity": 1000,
        "clientId": "mine",
    }


async def test_a_stop_loss_is_set_and_removed(exchange, account):
    exchange.answer(STOP_LOSS, trade(stoploss=90_000.5))
    for price in (90_000.5, None):
        outcome = await account.set_stop_loss(TRADE_ID, price)
        assert (outcome.kind, outcome.exchange_id) == (OutcomeKind.DONE, TRADE_ID)
    put, deleted = exchange.seen
    assert (put.method, json.loads(put.body)) == ("PUT", {"id": TRADE_ID, "value": 90_000.5})
    assert (deleted.method, deleted.body) == ("DELETE", b"")
    assert deleted.path_qs == f"{STOP_LOSS}?id={TRADE_ID}"


@pytest.mark.parametrize(("call", "path", "_answer"), CALLS)
@pytest.mark.parametrize(
    ("status", "payload", "kind"),
    [
        (400, {"code": "BAD_REQUEST", "message": "no"}, OutcomeKind.REJECTED),
        (429, {"code": "TOO_MANY_REQUESTS", "message": "no"}, OutcomeKind.BUSY),
        (503, {"code": "SERVICE_UNAVAILABLE", "message": "no"}, OutcomeKind.BUSY),
        (503, b"<html></html>", OutcomeKind.AMBIGUOUS),
        (500, {"code": "INTERNAL_SERVER_ERROR", "message": "no"}, OutcomeKind.AMBIGUOUS),
        (200, b"", OutcomeKind.AMBIGUOUS),
        (200, {"id": "another"}, OutcomeKind.AMBIGUOUS),
    ],
)
async def test_every_call_ends_as_the_exchange_says_and_is_sent_once(
    exchange, account, call, path, _answer, status, payload, kind
):
    """Failures 3, 4, 5, 7 and 10."""
    exchange.answer(path, payload, status=status)
    assert (await call(account)).kind is kind
    assert len(exchange.seen) == 1


async def test_a_closed_trade_is_found_by_its_tag_and_the_paging_ends(exchange, account):
    others = page(closed_trade(id=OTHER_ID), closed_trade(clientId="not mine"), cursor="c")
    pages = {None: others, "c": page(closed_trade(clientId="mine"), cursor="more")}

    async def handle(request: web.Request) -> web.Response:
        return web.json_response(pages[request.query.get("cursor")])

    exchange.handlers[CLOSED] = handle
    found = await account.closed_by_client_id("mine", SINCE)
    assert found is not None
    assert (found.id, found.client_id, found.exit_price) == (TRADE_ID, "mine", 95_000.5)
    first = {"from": A_LITTLE_BEFORE, "limit": "1000"}
    assert asked(exchange, CLOSED) == [{"limit": "50"}, first, {**first, "cursor": "c"}]


async def test_a_tagged_trade_is_found_where_the_list_goes_by_the_time_of_opening(
    exchange, account
):
    """It may have been opened before `since`, so a list from there on may not hold it."""

    async def handle(request: web.Request) -> web.Response:
        listed = [] if "from" in request.query else [closed_trade(clientId="mine")]
        return web.json_response(page(*listed))

    exchange.handlers[CLOSED] = handle
    assert await account.closed_by_client_id("mine", SINCE) is not None


@pytest.mark.parametrize("listed", [[], [closed_trade()], [closed_trade(clientId="not mine")]])
async def test_a_tag_that_no_closed_trade_has_finds_none(exchange, account, listed):
    exchange.answer(CLOSED, page(*listed))
    assert await account.closed_by_client_id("mine", SINCE) is None


async def test_a_tagged_trade_that_ended_before_is_none_but_for_what_clocks_may_differ_by(
    exchange, account
):
    """Failure 8: `since` is our time, the end of the trade is the exchange's."""
    exchange.answer(CLOSED, page(closed_trade(clientId="mine")))
    assert await account.closed_by_client_id("mine", ENDED + timedelta(seconds=119)) is not None
    assert await account.closed_by_client_id("mine", ENDED + timedelta(seconds=121)) is None


async def test_of_two_trades_with_one_tag_the_one_that_ended_since_then_is_found(exchange, account):
    before = closed_trade(id=OTHER_ID, clientId="mine", closedAt="2026-01-01T00:00:00.000Z")
    exchange.answer(CLOSED, page(before, closed_trade(clientId="mine")))
    found = await account.closed_by_client_id("mine", SINCE)
    assert found is not None
    assert found.id == TRADE_ID


@pytest.mark.parametrize("path", [CLOSED, FILLED])
async def test_a_list_that_never_ends_does_not_prove_that_nothing_has_the_tag(
    exchange, account, path
):
    """What may be incomplete must not lead to a second order."""
    exchange.answer(path, page(cursor="again"))
    look = account.closed_by_client_id if path == CLOSED else account.cross_order
    with pytest.raises(Malformed, match="too long"):
        await look("mine", SINCE)
    assert len(exchange.seen) == (6 if path == CLOSED else 5)  # the newest ones first


@pytest.mark.parametrize("path", [CLOSED, FILLED])
async def test_a_bad_record_in_a_list_does_not_prove_that_nothing_has_the_tag(
    exchange, account, path
):
    """Failure 10: the bad record may be the one."""
    record = closed_trade(clientId=7) if path == CLOSED else cross_order(clientId=7)
    exchange.answer(path, page(record))
    look = account.closed_by_client_id if path == CLOSED else account.cross_order
    with pytest.raises(Malformed, match="clientId"):
        await look("mine", SINCE)


async def test_a_cross_order_is_found_by_its_tag_and_the_paging_ends(exchange, account):
    pages = {
        None: page(cross_order(id="other", clientId="not mine"), cursor="c"),
        "c": page(cross_order(clientId="mine", quantity=7), cursor="more"),
    }

    async def handle(request: web.Request) -> web.Response:
        return web.json_response(pages[request.query.get("cursor")])

    exchange.handlers[FILLED] = handle
    found = await account.cross_order("mine", SINCE)
    assert found is not None
    assert (found.id, found.quantity, found.side) == (cross_order()["id"], 7, Side.SHORT)
    first = {"from": A_LITTLE_BEFORE, "limit": "1000"}
    assert asked(exchange, FILLED) == [first, {**first, "cursor": "c"}]


async def test_a_cross_order_with_another_tag_or_filled_before_is_none(exchange, account):
    """Failure 8: but for the two minutes by which the clocks may differ."""
    exchange.answer(FILLED, page(cross_order(), cross_order(id="other", clientId="not mine")))
    assert await account.cross_order("mine", SINCE) is None
    exchange.answer(FILLED, page(cross_order(clientId="mine")))
    assert await account.cross_order("mine", ENDED + timedelta(seconds=119)) is not None
    assert await account.cross_order("mine", ENDED + timedelta(seconds=121)) is None


@pytest.mark.parametrize(("call", "path", "answer"), CALLS)
async def test_a_proof_is_never_served_from_a_read_that_began_before_the_change(
    exchange, account, call, path, answer
):
    """The early read shows the account as it was: it must not prove or disprove the change."""
    exchange.answer(path, answer)
    exchange.answer(CROSS_POSITION, cross_position())
    early_read, change_made = asyncio.Event(), asyncio.Event()

    async def slow_at_first(_request: web.Request) -> web.Response:
        if early_read.is_set():
            return web.json_response([trade(stoploss=91_000)])
        early_read.set()
        await change_made.wait()
        return web.json_response([trade()])

    exchange.handlers[RUNNING] = slow_at_first
    early = asyncio.create_task(account.running_positions())
    await early_read.wait()
    assert (await call(account)).kind is OutcomeKind.DONE
    proof = asyncio.create_task(account.running_positions())
    await asyncio.sleep(0)
    change_made.set()
    assert (await early)[0].stop_loss is None
    assert (await proof)[0].stop_loss == 91_000


async def test_a_close_goes_out_before_the_stop_losses_that_wait(exchange):
    """Failure 5: protective calls first, within the exchange's limit on the key."""
    exchange.answer(STOP_LOSS, trade())
    exchange.answer(CLOSE, closed_trade())
    async with Transport(exchange.url, timeout_s=5) as transport:
        account = account_of(transport, SOME_LIMIT)
        stops = [asyncio.create_task(account.set_stop_loss(TRADE_ID, 91_000.0)) for _ in range(6)]
        await asyncio.sleep(0)
        outcome = await account.close_position(TRADE_ID)
        assert outcome.kind is OutcomeKind.DONE
        assert len(exchange.calls(STOP_LOSS)) <= 1
        outcomes = await asyncio.gather(*stops)
    assert {stop.kind for stop in outcomes} == {OutcomeKind.DONE}
    assert len(exchange.calls(STOP_LOSS)) == 6


async def test_after_a_429_a_close_goes_out_before_the_stop_losses(exchange):
    """Failure 5: `Retry-After` for the whole key, protective calls first."""
    arrived = []

    def note(name, payload, status=200, **headers):
        async def handle(_request: web.Request) -> web.Response:
            arrived.append((name, asyncio.get_running_loop().time()))
            return web.json_response(payload, status=status, headers=headers)

        return handle

    busy = {"code": "TOO_MANY_REQUESTS", "message": "no"}
    exchange.handlers[STOP_LOSS] = note("busy", busy, 429, **{"Retry-After": "0.3"})
    exchange.handlers[CLOSE] = note("close", closed_trade())
    async with Transport(exchange.url, timeout_s=5) as transport:
        account = account_of(transport, SOME_LIMIT)
        refused = await account.set_stop_loss(TRADE_ID, 91_000.0)
        assert (refused.kind, refused.retry_after_s) == (OutcomeKind.BUSY, 0.3)
        exchange.handlers[STOP_LOSS] = note("stop-loss", trade())
        stops = [asyncio.create_task(account.set_stop_loss(TRADE_ID, 91_000.0)) for _ in range(3)]
        await asyncio.sleep(0)
        await account.close_position(TRADE_ID)
        await asyncio.gather(*stops)
    assert [name for name, _ in arrived] == ["busy", "close", *["stop-loss"] * 3]
    waited_s = arrived[1][1] - arrived[0][1]
    assert waited_s >= 0.3
    assert arrived[2][1] - arrived[1][1] > PERIOD_S / SOME_LIMIT / 2
