"""The other calls of REST v3 over real HTTP with canned answers: what is asked and understood."""

import json
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web

from marginguard.domain.errors import Malformed
from marginguard.domain.model import OrderType, Side
from marginguard.domain.outcome import OutcomeKind
from marginguard.lnmarkets.client import AccountClient, PublicClient
from marginguard.lnmarkets.server_clock import ServerClock
from marginguard.lnmarkets.signing import Credentials
from marginguard.lnmarkets.transport import Transport
from tests.integration.canned_exchange import (
    OTHER_ID,
    TRADE_ID,
    HandClock,
    canceled_trade,
    canned_exchange,
    closed_trade,
    cross_order,
    cross_position,
    open_trade,
    page,
    trade,
    transfer,
    waiting_order,
)

ISOLATED = "/v3/futures/isolated"
CROSS = "/v3/futures/cross"
SINCE = datetime(2026, 1, 1, 12, tzinfo=UTC)
NO_LIMIT = 1e6


@pytest.fixture
async def exchange():
    async with canned_exchange() as server:
        yield server


@pytest.fixture
async def transport(exchange):
    async with Transport(exchange.url, timeout_s=5, rate_scale=NO_LIMIT) as opened:
        yield opened


@pytest.fixture
def public(transport):
    return PublicClient(transport)


@pytest.fixture
def account(transport, public):
    return AccountClient(
        "main",
        Credentials(key="the-key", secret="the-secret", passphrase="the-phrase"),
        transport=transport,
        server_clock=ServerClock(public.server_time, HandClock()),
        rate_scale=NO_LIMIT,
    )


# What is called, with which method and path, what is sent, what is answered and the id in it.
CHANGES = [
    pytest.param(
        lambda a: a.isolated.place(
            side=Side.LONG, quantity=1000, leverage=12.5, client_id="mine", stop_loss=90_000.5
        ),
        ("POST", f"{ISOLATED}/trade"),
        {
            "type": "market",
            "side": "buy",
            "quantity": 1000,
            "leverage": 12.5,
            "clientId": "mine",
            "stoploss": 90_000.5,
        },
        trade(clientId="mine"),
        TRADE_ID,
        id="market trade",
    ),
    pytest.param(
        lambda a: a.isolated.place(
            side=Side.SHORT,
            quantity=5,
            leverage=1,
            client_id="mine",
            price=110_000.0,
            take_profit=90_000.0,
        ),
        ("POST", f"{ISOLATED}/trade"),
        {
            "type": "limit",
            "side": "sell",
            "quantity": 5,
            "leverage": 1,
            "clientId": "mine",
            "price": 110_000,
            "takeprofit": 90_000,
        },
        open_trade(clientId="mine"),
        TRADE_ID,
        id="limit trade",
    ),
    pytest.param(
        lambda a: a.isolated.cash_in(TRADE_ID, 777),
        ("POST", f"{ISOLATED}/trade/cash-in"),
        {"id": TRADE_ID, "amount": 777},
        trade(),
        TRADE_ID,
        id="cash in",
    ),
    pytest.param(
        lambda a: a.isolated.set_stop_loss(TRADE_ID, 90_000.5),
        ("PUT", f"{ISOLATED}/trade/stoploss"),
        {"id": TRADE_ID, "value": 90_000.5},
        trade(stoploss=90_000.5),
        TRADE_ID,
        id="stop-loss",
    ),
    pytest.param(
        lambda a: a.isolated.set_take_profit(TRADE_ID, 120_000.0),
        ("PUT", f"{ISOLATED}/trade/takeprofit"),
        {"id": TRADE_ID, "value": 120_000},
        trade(takeprofit=120_000),
        TRADE_ID,
        id="take-profit",
    ),
    pytest.param(
        lambda a: a.isolated.cancel(TRADE_ID),
        ("POST", f"{ISOLATED}/trade/cancel"),
        {"id": TRADE_ID},
        canceled_trade(),
        TRADE_ID,
        id="cancel",
    ),
    pytest.param(
        lambda a: a.isolated.cancel_all(),
        ("POST", f"{ISOLATED}/trades/cancel-all"),
        None,
        [canceled_trade(), canceled_trade(id=OTHER_ID)],
        None,
        id="cancel all",
    ),
    pytest.param(
        lambda a: a.cross.place(side=Side.SHORT, quantity=1000, client_id="mine"),
        ("POST", f"{CROSS}/order"),
        {"type": "market", "side": "sell", "quantity": 1000, "clientId": "mine"},
        cross_order(clientId="mine"),
        cross_order()["id"],
        id="cross market order",
    ),
    pytest.param(
        lambda a: a.cross.place(side=Side.LONG, quantity=5, client_id="mine", price=90_000.5),
        ("POST", f"{CROSS}/order"),
        {"type": "limit", "side": "buy", "quantity": 5, "clientId": "mine", "price": 90_000.5},
        waiting_order(side="buy", quantity=5),
        cross_order()["id"],
        id="cross limit order",
    ),
    pytest.param(
        lambda a: a.cross.withdraw(777),
        ("POST", f"{CROSS}/withdraw"),
        {"amount": 777},
        cross_position(),
        cross_position()["id"],
        id="withdraw",
    ),
    pytest.param(
        lambda a: a.cross.set_leverage(25),
        ("PUT", f"{CROSS}/leverage"),
        {"leverage": 25},
        cross_position(quantity=0, entryPrice=None, leverage=25),
        cross_position()["id"],
        id="leverage",
    ),
]


@pytest.mark.parametrize(("call", "route", "body", "answer", "exchange_id"), CHANGES)
async def test_a_change_asks_as_the_exchange_wants_and_is_done_when_it_says_so(
    exchange, account, call, route, body, answer, exchange_id
):
    exchange.answer(route[1], answer)
    outcome = await call(account)
    assert (outcome.kind, outcome.exchange_id) == (OutcomeKind.DONE, exchange_id)
    (seen,) = exchange.seen
    assert (seen.method, seen.path_qs) == route
    assert (json.loads(seen.body) if seen.body else None) == body
    assert seen.headers.get("Content-Type") == (None if body is None else "application/json")


BAD_ANSWERS = [
    b"",
    b"null",
    b"{}",
    b'"ok"',
    b"<html>200 OK, says the gateway</html>",
    json.dumps(trade(clientId="mine")).encode()[:-1],
    json.dumps([trade(clientId="mine")]).encode(),
    json.dumps(trade(id=OTHER_ID)).encode(),
    json.dumps(trade(id=7)).encode(),
    json.dumps(trade(running=None)).encode(),
    json.dumps(closed_trade(clientId="mine")).encode(),
    json.dumps(canceled_trade(canceled=False)).encode(),
    json.dumps(cross_order(filled="yes")).encode(),
    json.dumps(cross_order(quantity=999)).encode(),
    json.dumps(cross_order(side="buy")).encode(),
    json.dumps(cross_order(clientId="another")).encode(),
    json.dumps(cross_position(margin=float("nan"))).encode(),
    json.dumps(cross_position(quantity=1.5)).encode(),
    json.dumps(cross_position(id=None)).encode(),
]


@pytest.mark.parametrize("answer", BAD_ANSWERS)
@pytest.mark.parametrize(("call", "route", "_body", "_answer", "_id"), CHANGES)
async def test_a_change_whose_answer_does_not_fit_is_ambiguous(
    exchange, account, call, route, _body, _answer, _id, answer
):
    """Failure 10: a 2xx that is about something else, or nothing, proves nothing."""
    exchange.answer(route[1], answer)
    assert (await call(account)).kind is OutcomeKind.AMBIGUOUS
    assert len(exchange.seen) == 1


async def test_an_answer_about_another_order_than_the_canceled_one_is_ambiguous(exchange, account):
    exchange.answer(f"{ISOLATED}/trade/cancel", canceled_trade(id=OTHER_ID))
    assert (await account.isolated.cancel(TRADE_ID)).kind is OutcomeKind.AMBIGUOUS


async def test_a_stop_loss_is_removed_by_a_call_without_a_body(exchange, account):
    exchange.answer(f"{ISOLATED}/trade/stoploss", trade())
    outcome = await account.isolated.remove_stop_loss(TRADE_ID)
    assert (outcome.kind, outcome.exchange_id) == (OutcomeKind.DONE, TRADE_ID)
    (seen,) = exchange.seen
    assert (seen.method, seen.body, seen.headers.get("Content-Type")) == ("DELETE", b"", None)
    assert seen.path_qs == f"{ISOLATED}/trade/stoploss?id={TRADE_ID}"


async def test_open_and_canceled_orders_are_read(exchange, account):
    exchange.answer(f"{ISOLATED}/trades/open", [open_trade()])
    exchange.answer(f"{ISOLATED}/trades/canceled", page(canceled_trade(id=OTHER_ID)))
    assert [t.id for t in await account.isolated.open()] == [TRADE_ID]
    assert [t.id for t in await account.isolated.canceled(SINCE)] == [OTHER_ID]


async def test_closed_trades_are_read_page_by_page(exchange, account):
    pages = {None: page(closed_trade(), cursor="c"), "c": page(closed_trade(id=OTHER_ID))}

    async def handle(request: web.Request) -> web.Response:
        return web.json_response(pages[request.query.get("cursor")])

    exchange.handlers[f"{ISOLATED}/trades/closed"] = handle
    assert [t.id for t in await account.isolated.closed(SINCE)] == [TRADE_ID, OTHER_ID]
    first, second = (parse_qs(urlsplit(seen.path_qs).query) for seen in exchange.seen)
    assert first == {"from": ["2026-01-01T12:00:00.000Z"], "limit": ["1000"]}
    assert second == {**first, "cursor": ["c"]}


async def test_cross_orders_transfers_and_funding_are_read(exchange, account):
    exchange.answer(f"{CROSS}/orders/open", [waiting_order()])
    exchange.answer(f"{CROSS}/orders/filled", page(cross_order(type="liquidation")))
    exchange.answer(f"{CROSS}/transfers", page(transfer(amount=-70)))
    exchange.answer(
        f"{CROSS}/funding-fees",
        page({"settlementId": "s", "fee": 12, "time": "2026-01-02T00:00:00.000Z"}),
    )
    (waiting,) = await account.cross.open_orders()
    assert (waiting.type, waiting.filled_at) == (OrderType.LIMIT, None)
    (filled,) = await account.cross.filled_orders(SINCE)
    assert filled.type is OrderType.LIQUIDATION
    assert [t.amount for t in await account.cross.transfers(SINCE)] == [-70]
    assert [f.fee for f in await account.cross.funding_fees(SINCE)] == [12]


async def test_candles_and_settlements_are_read_unsigned(exchange, public):
    exchange.answer(
        "/v3/futures/candles",
        page(
            {
                "time": "2026-01-01T12:00:00.000Z",
                "open": 100_000,
                "high": 100_010,
                "low": 99_990,
                "close": 100_005.5,
                "volume": 3,
            }
        ),
    )
    exchange.answer(
        "/v3/futures/funding-settlements",
        page(
            {
                "id": "s",
                "time": "2026-01-01T16:00:00.000Z",
                "fundingRate": 0.0001,
                "fixingPrice": 100_000,
            }
        ),
    )
    until = datetime(2026, 1, 1, 13, tzinfo=UTC)
    (candle,) = await public.candles(since=SINCE, until=until, span="5m")
    (settlement,) = await public.funding_settlements(since=SINCE)
    assert (candle.close, settlement.rate) == (100_005.5, 0.0001)
    asked = parse_qs(urlsplit(exchange.seen[0].path_qs).query)
    assert asked == {
        "from": ["2026-01-01T12:00:00.000Z"],
        "to": ["2026-01-01T13:00:00.000Z"],
        "range": ["5m"],
        "limit": ["1000"],
    }
    assert not any("lnm-access-key" in {n.lower() for n in seen.headers} for seen in exchange.seen)


async def test_a_list_of_candles_that_never_ends_is_refused(exchange, public):
    exchange.answer("/v3/futures/candles", page(cursor="again"))
    with pytest.raises(Malformed, match="more than 5 pages"):
        await public.candles(since=SINCE)
