"""What the transport says was sent, over real sockets and a network that misbehaves."""

import asyncio
import gzip
import itertools
import json
import socket

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver

from marginguard.aio import SystemClock
from marginguard.domain.errors import Malformed, Rejected, Transient, Unreachable
from marginguard.domain.outcome import OutcomeKind
from marginguard.lnmarkets.limits import PERIOD_S, Limits, Urgency
from marginguard.lnmarkets.signing import Credentials, Signer
from marginguard.lnmarkets.transport import Key, Transport
from tests.integration.canned_exchange import CLOSE, canned_exchange
from tests.integration.proxy import Fault, fault_proxy, unused_port

CREDENTIALS = Credentials(key="k", secret="s", passphrase="p")
SIGNER = Signer(CREDENTIALS, lambda: 1_700_000_000_000)
# The limits on calls are tested by themselves; here nothing waits for them.
NO_LIMIT = 1e6
PATH = CLOSE.removeprefix("/v3")
PATIENCE_S = 5.0
SHORT_S = 0.4


@pytest.fixture
async def exchange():
    async with canned_exchange() as server:
        server.answer("/v3/time", {"time": "x"})
        server.answer(CLOSE, {"id": "the-id"})
        yield server


@pytest.fixture
async def proxy(exchange):
    async with fault_proxy(exchange.port) as running:
        yield running


def through(proxy, *, timeout_s: float = PATIENCE_S) -> Transport:
    return open_at(f"http://127.0.0.1:{proxy.port}/v3", timeout_s=timeout_s)


def open_at(url: str, *, timeout_s: float = PATIENCE_S, **options) -> Transport:
    return Transport(url, timeout_s=timeout_s, rate_scale=NO_LIMIT, **options)


def a_key(signer: Signer = SIGNER) -> Key:
    return Key(signer=signer, limits=Limits.of_key(rate_scale=NO_LIMIT))


def take_id(body: bytes) -> str:
    try:
        return json.loads(body)["id"]
    except (ValueError, KeyError, TypeError) as error:
        raise Malformed("it holds no id") from error


def raw(body: bytes) -> bytes:
    return body


async def post(transport: Transport, method: str = "POST"):
    return await transport.change(method, PATH, take_id, key=a_key(), body=b'{"id":"the-id"}')


async def test_a_change_that_is_answered_is_done(exchange):
    async with open_at(exchange.url) as transport:
        outcome = await post(transport)
    assert (outcome.kind, outcome.exchange_id) == (OutcomeKind.DONE, "the-id")
    (seen,) = exchange.seen
    assert seen.body == b'{"id":"the-id"}'
    assert seen.headers["Content-Type"] == "application/json"
    assert seen.headers["Accept"] == "application/json"


async def test_the_bytes_on_the_wire_are_those_that_were_signed(exchange):
    signed = []

    class Spy(Signer):
        def headers(self, method, path, data):
            signed.append((method, path, data))
            return super().headers(method, path, data)

    key = a_key(Spy(CREDENTIALS, lambda: 1))
    async with open_at(exchange.url) as transport:
        await transport.read("/time", raw, query="from=2026-01-01T00%3A00%2B01&x=%20", key=key)
        await transport.change("POST", PATH, take_id, key=key, body=b'{"a":1}')
        await transport.change("DELETE", PATH, take_id, key=key, query="id=a%2Fb")
    for (method, path, data), seen in zip(signed, exchange.seen, strict=True):
        assert seen.method == method
        assert seen.path_qs + seen.body.decode() == path + data


async def test_a_read_has_no_body_and_no_content_type(exchange):
    async with open_at(exchange.url) as transport:
        await transport.read("/time", raw)
    (seen,) = exchange.seen
    assert seen.body == b""
    assert "Content-Type" not in seen.headers


async def test_a_refused_connection_means_not_sent():
    """Failure 15: what fails to connect was not sent."""
    async with open_at(f"http://127.0.0.1:{unused_port()}/v3", timeout_s=SHORT_S) as transport:
        outcome = await post(transport)
        assert outcome.kind is OutcomeKind.NOT_SENT
        with pytest.raises(Unreachable):
            await transport.read("/time", raw)


class BrokenResolver(AbstractResolver):
    """Finds no name; with `hang`, does not even say so."""

    def __init__(self, *, hang: bool) -> None:
        self._hang = hang

    async def resolve(self, host, port=0, family=socket.AF_INET):
        if self._hang:
            await asyncio.Event().wait()
        raise OSError(None, "no such name")

    async def close(self):
        pass


@pytest.mark.parametrize("hang", [False, True])
async def test_a_name_that_is_not_found_means_not_sent(monkeypatch, hang):
    """Failure 15: DNS, failing at once or by a time-out that is told from one after sending."""
    monkeypatch.setattr(
        aiohttp.connector, "DefaultResolver", lambda loop: BrokenResolver(hang=hang)
    )
    async with open_at("http://exchange.invalid/v3", timeout_s=SHORT_S) as transport:
        outcome = await post(transport)
        with pytest.raises(Unreachable):
            await transport.read("/time", raw)
    assert outcome.kind is OutcomeKind.NOT_SENT
    assert "before it was sent" in outcome.detail


async def test_a_tls_failure_means_not_sent(exchange):
    """Failure 15: a server that does not speak TLS got no request."""
    async with open_at(f"https://127.0.0.1:{exchange.port}/v3", timeout_s=PATIENCE_S) as secure:
        outcome = await post(secure)
    assert outcome.kind is OutcomeKind.NOT_SENT
    assert exchange.seen == []


async def test_waiting_in_vain_for_a_pooled_connection_means_not_sent(exchange, monkeypatch):
    real = aiohttp.TCPConnector
    monkeypatch.setattr(aiohttp, "TCPConnector", lambda **options: real(limit=1, **options))
    arrived, leave = asyncio.Event(), asyncio.Event()

    async def hold(_request: web.Request) -> web.Response:
        arrived.set()
        await leave.wait()
        return web.json_response({})

    exchange.handlers["/v3/slow"] = hold
    async with open_at(exchange.url, timeout_s=1.0) as transport, asyncio.TaskGroup() as tasks:
        holder = tasks.create_task(transport.read("/slow", raw))
        await arrived.wait()
        outcome = await post(transport)
        leave.set()
        await holder
    assert outcome.kind is OutcomeKind.NOT_SENT
    assert exchange.calls(CLOSE) == []


async def test_a_timeout_after_sending_is_ambiguous(proxy, exchange):
    """Failures 1 and 2: silence after sending proves nothing."""
    proxy.fault = Fault.SILENT
    async with through(proxy, timeout_s=SHORT_S) as transport:
        outcome = await post(transport)
        assert outcome.kind is OutcomeKind.AMBIGUOUS
        assert "after it was sent" in outcome.detail
        with pytest.raises(Unreachable):
            await transport.read("/time", raw)
    assert proxy.requests_read == 2
    assert exchange.seen == []


async def test_a_reset_after_the_request_is_ambiguous(proxy, exchange):
    proxy.fault = Fault.RESET_AFTER
    async with through(proxy) as transport:
        outcome = await post(transport)
    assert outcome.kind is OutcomeKind.AMBIGUOUS
    assert exchange.seen == []


async def test_a_reset_before_the_request_is_never_taken_for_done(proxy, exchange):
    """Whether the headers had left by then is a race; that it was not done is not told either."""
    proxy.fault = Fault.RESET_BEFORE
    async with through(proxy) as transport:
        outcome = await post(transport)
        with pytest.raises(Unreachable):
            await transport.read("/time", raw)
    assert outcome.kind in {OutcomeKind.NOT_SENT, OutcomeKind.AMBIGUOUS}
    assert exchange.seen == []


async def test_a_lost_answer_is_ambiguous_though_the_call_was_carried_out(proxy, exchange):
    """Failure 1: the close went through and nobody said so."""
    proxy.fault = Fault.SWALLOW
    async with through(proxy) as transport:
        outcome = await post(transport)
    assert outcome.kind is OutcomeKind.AMBIGUOUS
    assert len(exchange.seen) == 1


async def test_half_an_answer_is_ambiguous(proxy, exchange):
    proxy.fault = Fault.CUT
    async with through(proxy) as transport:
        outcome = await post(transport)
        with pytest.raises(Unreachable):
            await transport.read("/time", raw)
    assert outcome.kind is OutcomeKind.AMBIGUOUS


async def test_an_answer_that_drips_past_the_time_out_is_ambiguous_and_sent_once(proxy, exchange):
    """Every byte comes in time, and the answer as a whole does not."""
    proxy.fault = Fault.DRIP
    async with through(proxy, timeout_s=1.0) as transport:
        outcome = await post(transport)
        with pytest.raises(Unreachable):
            await transport.read("/time", raw)
    assert outcome.kind is OutcomeKind.AMBIGUOUS
    assert len([seen for seen in exchange.seen if seen.method == "POST"]) == 1


async def test_a_call_that_the_network_delivers_late_was_ambiguous(proxy, exchange):
    """Failure 2: a request may arrive after its connection is gone."""
    proxy.fault = Fault.LATE
    async with through(proxy) as transport:
        outcome = await post(transport)
        assert outcome.kind is OutcomeKind.AMBIGUOUS
        assert exchange.seen == []
        proxy.release()
        await proxy.delivered.wait()
    assert len(exchange.seen) == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.SWALLOW])
async def test_a_change_is_never_sent_twice_on_a_fresh_connection(proxy, exchange, method, fault):
    """Rule 2: aiohttp would resend PUT and DELETE by itself."""
    proxy.fault = fault
    async with through(proxy) as transport:
        outcome = await post(transport, method)
    assert outcome.kind is OutcomeKind.AMBIGUOUS
    assert proxy.requests_read == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_a_change_is_never_sent_twice_on_a_kept_connection(proxy, exchange, method):
    async with through(proxy) as transport:
        await transport.read("/time", raw)
        proxy.fault = Fault.SWALLOW
        outcome = await post(transport, method)
    assert outcome.kind is OutcomeKind.AMBIGUOUS
    assert len(exchange.calls(CLOSE)) == 1


async def test_a_change_uses_the_connection_that_the_reads_have_opened(proxy, exchange):
    async with through(proxy) as transport:
        await transport.read("/time", raw)
        await post(transport)
    assert proxy.connections == 1


async def test_a_cancelled_change_raises_the_cancellation(proxy):
    proxy.fault = Fault.SILENT
    async with through(proxy) as transport:
        task = asyncio.create_task(post(transport))
        await proxy.read_one.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(exchange, status):
    elsewhere = f"http://127.0.0.1:{exchange.port}/v3/elsewhere"
    exchange.answer(CLOSE, status=status, Location=elsewhere)
    exchange.answer("/v3/time", status=status, Location=elsewhere)
    exchange.answer("/v3/elsewhere", {"id": "the-id"})
    async with open_at(exchange.url) as transport:
        outcome = await post(transport)
        with pytest.raises(Malformed):
            await transport.read("/time", raw)
    assert outcome.kind is OutcomeKind.AMBIGUOUS
    assert exchange.calls("/v3/elsewhere") == []


@pytest.mark.parametrize("packed", [False, True])
async def test_an_endless_answer_is_cut_off(exchange, packed):
    body = b'{"id":"' + b"a" * 100_000 + b'"}'
    encoding = {"Content_Encoding": "gzip"} if packed else {}
    sent = gzip.compress(body) if packed else body
    exchange.answer(CLOSE, sent, **encoding)
    exchange.answer("/v3/time", sent, **encoding)
    async with open_at(exchange.url, max_answer_bytes=50_000) as transport:
        with pytest.raises(Malformed, match="longer than"):
            await transport.read("/time", raw)
        outcome = await post(transport)
    assert outcome.kind is OutcomeKind.AMBIGUOUS


async def test_an_answer_in_many_pieces_is_put_together(exchange):
    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in (b'{"time"', b": ", b'"x"}'):
            await response.write(piece)
            await asyncio.sleep(0)
        return response

    exchange.handlers["/v3/time"] = trickle
    async with open_at(exchange.url) as transport:
        assert await transport.read("/time", raw) == b'{"time": "x"}'


async def test_what_is_no_http_is_unreachable_and_ambiguous():
    async def babble(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, open_at(f"http://127.0.0.1:{port}/v3", timeout_s=PATIENCE_S) as transport:
        with pytest.raises(Unreachable):
            await transport.read("/time", raw)
        outcome = await post(transport)
    assert outcome.kind is OutcomeKind.AMBIGUOUS


async def test_the_wish_to_wait_is_read_from_the_header(exchange):
    """Failure 5: `Retry-After`."""
    exchange.answer("/v3/time", {"code": "TOO_MANY_REQUESTS"}, status=429, Retry_After="3")
    exchange.answer(CLOSE, {"code": "TOO_MANY_REQUESTS"}, status=429, Retry_After="3")
    async with open_at(exchange.url) as transport:
        with pytest.raises(Transient) as caught:
            await transport.read("/time", raw)
        outcome = await post(transport)
    assert caught.value.retry_after_s == 3.0
    assert (outcome.kind, outcome.retry_after_s) == (OutcomeKind.BUSY, 3.0)


async def test_a_refusal_of_a_read_is_raised(exchange):
    exchange.answer("/v3/time", {"code": "NOT_FOUND", "message": "no"}, status=404)
    async with open_at(exchange.url) as transport:
        with pytest.raises(Rejected, match="NOT_FOUND"):
            await transport.read("/time", raw)


async def test_a_read_is_resent_on_a_fresh_connection_when_the_kept_one_was_dropped(exchange):
    """Reads change nothing, so aiohttp's own resend is welcome."""
    dropped = False

    async def drop_once(request: web.Request) -> web.Response:
        nonlocal dropped
        if not dropped:
            dropped = True
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({})

    exchange.handlers["/v3/fragile"] = drop_once
    async with open_at(exchange.url) as transport:
        await transport.read("/time", raw)
        assert await transport.read("/fragile", raw) == b"{}"


async def test_a_change_whose_turn_comes_too_late_is_not_sent(exchange):
    """Failure 5: a wait for the exchange's limit counts inside the call's time-out."""
    key = Key(signer=SIGNER, limits=Limits.of_key())
    key.limits.pause(30.0)
    async with open_at(exchange.url) as transport:
        outcome = await transport.change("POST", PATH, take_id, key=key, body=b"{}")
    assert outcome.kind is OutcomeKind.NOT_SENT
    assert "before it was sent" in outcome.detail
    assert outcome.retry_after_s == pytest.approx(30.0, abs=1.0)
    assert exchange.seen == []


async def test_a_read_whose_turn_comes_too_late_fails_at_once(exchange):
    key = Key(signer=SIGNER, limits=Limits.of_key())
    key.limits.pause(30.0)
    async with open_at(exchange.url) as transport:
        with pytest.raises(Transient, match="limit on calls") as caught:
            await transport.read("/time", raw, key=key)
    assert caught.value.retry_after_s is not None
    assert exchange.seen == []


async def test_a_call_is_signed_after_it_has_waited_for_its_turn(exchange):
    """A signature is good for 30 s from its time, whatever the call waited before."""
    order = []

    class Spy(Signer):
        def headers(self, method, path, data):
            order.append("signed")
            return super().headers(method, path, data)

    class Watched(Limits):
        async def take(self, patience_s, urgency):
            await super().take(patience_s, urgency)
            order.append(urgency)

    key = Key(signer=Spy(CREDENTIALS, lambda: 1), limits=Watched.of_key())
    async with open_at(exchange.url) as transport:
        await transport.change("POST", PATH, take_id, key=key, body=b"{}")
        await transport.read("/time", raw, key=key)
    assert order == [Urgency.PROTECT, "signed", Urgency.LOOK, "signed"]


async def test_nothing_is_signed_after_the_machine_was_suspended_in_the_wait_for_a_turn(exchange):
    """Failure 26: the loop's timers stand still with the machine, and notice nothing."""

    class Suspended(SystemClock):
        for_s = 0.0

        def monotonic(self):
            return super().monotonic() + self.for_s

    class Slow(Limits):
        async def take(self, patience_s, urgency):
            await super().take(patience_s, urgency)
            clock.for_s += 120.0

    clock = Suspended()
    key = Key(signer=SIGNER, limits=Slow.of_key(rate_scale=NO_LIMIT))
    async with open_at(exchange.url, clock=clock) as transport:
        outcome = await transport.change("POST", PATH, take_id, key=key, body=b"{}")
        with pytest.raises(Transient, match="could not be sent"):
            await transport.read("/time", raw, key=key)
    assert outcome.kind is OutcomeKind.NOT_SENT
    assert exchange.seen == []


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_429_holds_back_all_calls_of_the_key_and_of_no_other(exchange, method):
    """Failure 5: `Retry-After` for the whole key."""
    busy = Key(signer=SIGNER, limits=Limits.of_key())
    exchange.answer(CLOSE, {"code": "TOO_MANY_REQUESTS"}, status=429, Retry_After="20")
    exchange.answer("/v3/time", {"code": "TOO_MANY_REQUESTS"}, status=429, Retry_After="20")
    async with open_at(exchange.url) as transport:
        if method == "GET":
            with pytest.raises(Transient):
                await transport.read("/time", raw, key=busy)
        else:
            await transport.change("POST", PATH, take_id, key=busy, body=b"{}")
        sent = len(exchange.seen)
        with pytest.raises(Transient, match="limit on calls"):
            await transport.read("/time", raw, key=busy)
        outcome = await transport.change("POST", PATH, take_id, key=busy, body=b"{}")
        assert outcome.kind is OutcomeKind.NOT_SENT
        assert len(exchange.seen) == sent
        await transport.change("POST", PATH, take_id, key=a_key(), body=b"{}")
        with pytest.raises(Transient, match="TOO_MANY_REQUESTS"):
            await transport.read("/time", raw)
    assert len(exchange.seen) == sent + 2


async def test_unsigned_calls_from_an_address_are_spaced(exchange):
    """The exchange's time and the first price at start must not meet its limit."""
    arrived = []

    async def note(_request: web.Request) -> web.Response:
        arrived.append(asyncio.get_running_loop().time())
        return web.json_response({})

    exchange.handlers["/v3/time"] = note
    async with Transport(exchange.url, timeout_s=PATIENCE_S, rate_scale=10) as transport:
        await asyncio.gather(*(transport.read("/time", raw) for _ in range(3)))
    gaps = [after - before for before, after in itertools.pairwise(arrived)]
    assert all(gap > PERIOD_S / 10 / 2 for gap in gaps)


async def test_an_answer_tells_how_long_it_took_without_the_wait_for_its_turn(exchange):
    clock = asyncio.get_running_loop().time
    async with Transport(exchange.url, timeout_s=PATIENCE_S, rate_scale=2) as transport:
        await transport.fetch("/time")
        asked_s = clock()
        answer = await transport.fetch("/time")
        elapsed_s = clock() - asked_s
    assert 0 < answer.took_s < elapsed_s - PERIOD_S / 2 / 2


async def test_every_call_is_told_with_its_end_and_its_time(exchange, proxy):
    told = []
    proxy.fault = Fault.RESET_AFTER
    for url in (exchange.url, f"http://127.0.0.1:{proxy.port}/v3"):
        async with open_at(url, on_call=lambda *call: told.append(call)) as transport:
            await post(transport)
    assert [call for call, _, _ in told] == [f"POST {PATH}"] * 2
    assert [result for _, result, _ in told] == ["200", "no answer"]
    assert all(0 <= took_s < PATIENCE_S for _, _, took_s in told)
