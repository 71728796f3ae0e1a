"""An account over a real socket: authenticated, subscribed, and its events told."""

import base64
import hashlib
import hmac
from typing import Any

import pytest
from structlog.testing import capture_logs

from marginguard.domain.errors import Unauthorized, Unreachable
from marginguard.lnmarkets.stream import StreamTimings
from tests.integration.canned_exchange import TRADE_ID
from tests.integration.canned_stream import CROSS, TRADES, push, refusal
from tests.integration.hearing import GRANTED, Hearing, Resyncs, account_stream, private, running


@pytest.fixture
async def account_server():
    async with account_stream() as stream:
        yield stream


@pytest.fixture
def hearing():
    return Hearing()


async def test_one_refused_topic_does_not_take_the_others_along(account_server, hearing):
    def reply(request: dict[str, Any]) -> dict[str, Any]:
        topics = request["params"]["topics"]
        return refusal("FORBIDDEN") if topics == [CROSS] else {"result": {"subscribed": topics}}

    account_server.replies["subscribe"] = reply
    with capture_logs() as logs:
        async with running(private(account_server, hearing)):
            socket = await account_server.subscribed()
            await socket.send_str(push(TRADES, {"event": "closed", "trade": {"id": TRADE_ID}}))
            await hearing.until(("event", "isolated.closed", TRADE_ID))
    refused = [log for log in logs if log["event"] == "stream.topic_refused"]
    assert [log["topic"] for log in refused] == [CROSS]


async def test_an_account_authenticates_before_it_subscribes(account_server, hearing):
    stream = private(account_server, hearing)
    assert stream.permissions is None
    async with running(stream):
        await hearing.until(("snapshot",))
    assert [request["method"] for request in account_server.requests] == [
        "hello",
        "authenticate",
        *4 * ["subscribe"],
    ]
    assert stream.permissions == {"futures:isolated:read"}
    assert hearing.told == [("permissions", {"futures:isolated:read"}), ("snapshot",)]
    (params,) = [request["params"] for request in account_server.asked("authenticate")]
    signed = f"{params['timestamp']}{params['nonce']}".encode()
    expected = hmac.new(b"a-secret", signed, hashlib.sha256).digest()
    assert params["signature"] == base64.b64encode(expected).decode()
    assert (params["key"], params["passphrase"]) == ("key", "a-passphrase")
    assert isinstance(params["timestamp"], int)
    assert "a-secret" not in str(account_server.requests)


async def test_an_account_hears_of_its_events(account_server, hearing):
    async with running(private(account_server, hearing)):
        socket = await account_server.subscribed()
        await hearing.until(("snapshot",))
        for frame in (
            push(TRADES, {"event": "liquidation", "trade": {"id": TRADE_ID}}),
            push(CROSS, {"event": "deposit", "position": {}}),
            push("wallet/deposit", {}),
        ):
            await socket.send_str(frame)
        await hearing.until(("event", "wallet.deposit", None))
    assert hearing.told[2:] == [
        ("event", "isolated.liquidation", TRADE_ID),
        ("event", "cross.deposit", "cross"),
        ("event", "wallet.deposit", None),
    ]


async def test_after_a_kill_an_account_authenticates_and_subscribes_again(account_server, hearing):
    """Failure 18: reconnect, authenticate, subscribe, snapshot."""
    async with running(private(account_server, hearing)):
        (await account_server.subscribed())._req.transport.abort()
        await account_server.subscribed(2)
        await hearing.until(("snapshot",), 2)
    nonces = {request["params"]["nonce"] for request in account_server.asked("authenticate")}
    assert len(nonces) == 2
    assert len(account_server.asked("subscribe")) == 8


async def test_a_refused_key_is_reported_after_a_clock_resync_and_tried_again(
    account_server, hearing
):
    """Failure 6: refused again with the exchange's time: reported, and tried slowly."""
    resyncs = Resyncs()
    account_server.replies["authenticate"] = lambda _request: refusal("UNAUTHORIZED")
    async with running(private(account_server, hearing, resyncs)):
        await hearing.until(("refused", Unauthorized), 2)
        account_server.replies["authenticate"] = lambda _request: GRANTED
        await hearing.until(("snapshot",))
    refused = hearing.times("refused")
    assert resyncs.times == refused
    assert len(account_server.asked("authenticate")) == 2 * refused + 1


async def test_a_key_refused_for_its_time_alone_is_not_reported(account_server, hearing):
    """Failure 8: the clock is measured again first."""
    answers = iter([refusal("UNAUTHORIZED"), GRANTED])
    account_server.replies["authenticate"] = lambda _request: next(answers)
    resyncs = Resyncs()
    async with running(private(account_server, hearing, resyncs)):
        await hearing.until(("snapshot",))
    assert hearing.times("refused") == 0
    assert resyncs.times == 1
    assert account_server.connections == 1


async def test_the_pause_after_a_refusal_is_the_slow_one(account_server, hearing):
    """Failure 6: one attempt every 30 s."""
    stream = private(account_server, hearing, timings=StreamTimings())._stream
    refused = Unauthorized("no", status=401, code="UNAUTHORIZED")
    assert stream._note_failure(refused) == 30.0
    assert stream._note_failure(Unreachable("no network")) <= 1.0


@pytest.mark.parametrize("code", ["TOO_MANY_REQUESTS", "INTERNAL_SERVER_ERROR"])
async def test_trouble_while_authenticating_is_no_refusal(account_server, hearing, code):
    answers = iter([refusal(code), {"result": {"authenticated": True}}, GRANTED])
    account_server.replies["authenticate"] = lambda _request: next(answers)
    async with running(private(account_server, hearing)):
        await hearing.until(("snapshot",))
    assert hearing.times("refused") == 0
    assert account_server.connections == 3


async def test_secrets_stay_out_of_the_log(account_server, hearing):
    """Failure 36: neither secret nor passphrase is logged, whatever goes wrong."""
    account_server.replies["authenticate"] = lambda _request: refusal("UNAUTHORIZED")
    with capture_logs() as logs:
        async with running(private(account_server, hearing)):
            await hearing.until(("refused", Unauthorized))
    assert "a-secret" not in str(logs)
    assert "a-passphrase" not in str(logs)
