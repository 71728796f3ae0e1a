"""The clients over real HTTP with canned answers: what is read, and a read that is refused."""

import asyncio
import base64
import hashlib
import hmac
from datetime import UTC, datetime

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from marginguard.domain.errors import Malformed, MarginguardError, Rejected, Transient, Unauthorized
from marginguard.domain.model import MarginMode, Side
from marginguard.lnmarkets import client
from marginguard.lnmarkets.client import PublicClient
from marginguard.lnmarkets.server_clock import ServerClock
from marginguard.lnmarkets.transport import Transport
from tests.integration.canned_exchange import (
    CROSS_POSITION,
    OTHER_ID,
    RUNNING,
    TRADE_ID,
    HandClock,
    cross_position,
    trade,
)
from tests.integration.lnmarkets_account import SECRET, account_of, flat_exchange, transport_to


@pytest.fixture
async def exchange():
    async with flat_exchange() as server:
        yield server


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
async def transport(exchange):
    async with transport_to(exchange) as opened:
        yield opened


@pytest.fixture
def server_clock(transport, clock):
    return ServerClock(PublicClient(transport).server_time, clock)


@pytest.fixture
def account(transport, server_clock):
    return account_of(transport, server_clock)


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
