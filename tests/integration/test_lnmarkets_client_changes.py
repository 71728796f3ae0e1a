"""The clients over real HTTP with canned answers: changes, and what became of them."""

import base64
import hashlib
import hmac
import json

import pytest

from marginguard.domain.errors import Rejected
from marginguard.domain.outcome import OutcomeKind
from marginguard.lnmarkets.client import PublicClient
from marginguard.lnmarkets.server_clock import ServerClock
from tests.integration.canned_exchange import (
    ADD_MARGIN,
    CLOSE,
    OTHER_ID,
    TRADE_ID,
    HandClock,
    closed_trade,
    cross_order,
    cross_position,
    trade,
    waiting_order,
)
from tests.integration.lnmarkets_account import SECRET, account_of, flat_exchange, transport_to


@pytest.fixture
async def exchange():
    async with flat_exchange() as server:
        yield server


@pytest.fixture
async def transport(exchange):
    async with transport_to(exchange) as opened:
        yield opened


@pytest.fixture
def account(transport):
    return account_of(transport, ServerClock(PublicClient(transport).server_time, HandClock()))


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


async def test_no_secret_shows_in_an_error_or_an_outcome(exchange, account):
    """Failure 36: secrets never reach a record."""
    exchange.answer("/v3/account", {"code": "BAD_REQUEST", "message": "no"}, status=400)
    exchange.answer(CLOSE, b"", status=500)
    with pytest.raises(Rejected) as caught:
        await account.balance()
    outcome = await account.close_position(TRADE_ID)
    shown = f"{caught.value!r} {outcome!r}"
    assert not any(part in shown for part in ("the-key", SECRET, "the-phrase"))
