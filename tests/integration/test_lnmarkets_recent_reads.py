"""Looks at one account one after another share what was read, until something is changed."""

import pytest
from aiohttp import web

from marginguard.domain.outcome import OutcomeKind
from marginguard.lnmarkets.client import AccountClient, PublicClient
from marginguard.lnmarkets.server_clock import ServerClock
from marginguard.lnmarkets.signing import Credentials
from marginguard.lnmarkets.transport import Transport
from tests.integration.canned_exchange import (
    CLOSE,
    CROSS_POSITION,
    RUNNING,
    TRADE_ID,
    HandClock,
    canned_exchange,
    closed_trade,
    cross_position,
    trade,
)

ACCOUNT = "/v3/account"
LONG_S = 60.0


@pytest.fixture
async def exchange():
    async with canned_exchange() as server:
        server.answer("/v3/time", {"time": "2026-01-02T03:04:15.000Z"})
        server.answer(CROSS_POSITION, cross_position(quantity=0, entryPrice=None))
        server.answer(RUNNING, [trade()])
        server.answer(ACCOUNT, {"balance": 500})
        yield server


@pytest.fixture
async def account(exchange):
    async with Transport(exchange.url, timeout_s=5, rate_scale=1e6) as transport:
        yield AccountClient(
            "main",
            Credentials(key="the-key", secret="the-secret", passphrase="the-phrase"),
            transport=transport,
            server_clock=ServerClock(PublicClient(transport).server_time, HandClock()),
            rate_scale=1e6,
        )


async def look(account, max_age_s):
    await account.balance(max_age_s=max_age_s)
    return await account.running_positions(max_age_s=max_age_s)


def times_read(exchange):
    return [len(exchange.calls(path)) for path in (RUNNING, CROSS_POSITION, ACCOUNT)]


async def test_looks_one_after_another_share_one_read(exchange, account):
    first = await look(account, LONG_S)
    assert await look(account, LONG_S) == first
    assert times_read(exchange) == [1, 1, 1]


async def test_who_does_not_say_how_old_it_may_be_reads_anew(exchange, account):
    await look(account, LONG_S)
    await look(account, 0.0)
    assert times_read(exchange) == [2, 2, 2]


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_after_any_change_even_a_refused_one_everything_is_read_anew(
    exchange, account, status
):
    """Failure 1: what was read before the close shows a position that may be gone."""
    exchange.answer(CLOSE, closed_trade(), status=status)
    await look(account, LONG_S)
    outcome = await account.close_position(TRADE_ID)
    assert (outcome.kind is OutcomeKind.DONE) is (status == 200)
    await look(account, LONG_S)
    assert times_read(exchange) == [2, 2, 2]


async def test_neither_a_change_that_begins_nor_one_that_ends_leaves_anything_to_share(
    exchange, account
):
    looked = []

    async def close(_request):
        looked.append(await look(account, LONG_S))
        return web.json_response(closed_trade())

    exchange.handlers[CLOSE] = close
    await look(account, LONG_S)
    await account.close_position(TRADE_ID)
    assert len(looked) == 1
    assert times_read(exchange) == [2, 2, 2]
    await look(account, LONG_S)
    assert times_read(exchange) == [3, 3, 3]
