"""The webhook channel against a receiver that checks signatures, and against its abuse."""

import asyncio
import contextlib
import hashlib
import hmac
import socket
import ssl
from types import SimpleNamespace

import orjson
import pytest
import trustme
from aiohttp import web
from aiohttp.abc import AbstractResolver
from aiohttp.test_utils import TestServer, unused_port

from marginguard.notify.channel import Action, Delivered, Failed
from marginguard.notify.webhook_channel import WebhookChannel, WebhookChannelSettings
from tests.notices import a_message

SECRET = "s3cr3t-signing-key"
URL_TOKEN = "s3cr3t-url-token"


class Receiver:
    """Keeps what comes, and answers as scripted; 401 where the signature is wrong."""

    def __init__(self):
        self.requests = []
        self.status = 204
        self.headers = {}
        self.release = asyncio.Event()
        self.app = web.Application()
        self.app.router.add_route("*", "/{tail:.*}", self._receive)

    async def _receive(self, request):
        body = await request.read()
        self.requests.append(SimpleNamespace(path=request.path, headers=request.headers, body=body))
        if self.status == "hang":
            await self.release.wait()
            return web.Response()
        if self.status == "endless":
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"thank you")
            await self.release.wait()
            return response
        if not self._is_genuine(request.headers, body):
            return web.Response(status=401)
        return web.Response(status=self.status, headers=self.headers)

    @staticmethod
    def _is_genuine(headers, body):
        timestamp = headers["X-Marginguard-Timestamp"].encode()
        mac = hmac.new(SECRET.encode(), timestamp + b"." + body, hashlib.sha256)
        signature = headers.get("X-Marginguard-Signature", "")
        return hmac.compare_digest("sha256=" + mac.hexdigest(), signature)


class Names(AbstractResolver):
    """Resolves every name to the addresses of the next entry; the last one stays."""

    def __init__(self, *answers):
        self.answers = list(answers)

    async def resolve(self, host, port=0, family=socket.AF_INET):
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in addresses
        ]

    async def close(self):
        pass


@pytest.fixture
async def receiver():
    receiver = Receiver()
    async with TestServer(receiver.app) as server:
        receiver.url = str(server.make_url(f"/hook?token={URL_TOKEN}"))
        yield receiver
        receiver.release.set()


@pytest.fixture
def tls():
    """A receiver's certificate for hook.example.com, and who trusts it."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("hook.example.com").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return SimpleNamespace(server=server, client=client)


@contextlib.asynccontextmanager
async def serving(receiver, tls):
    """Serve the receiver over TLS; yields the port."""
    server = TestServer(receiver.app, scheme="https")
    await server.start_server(ssl=tls.server)
    try:
        yield server.port
    finally:
        await server.close()


async def sent(
    url, message=None, *, now_s=lambda: 1_773_489_605.9, ssl_context=None, resolver=None, **settings
):
    channel = WebhookChannel(
        WebhookChannelSettings(**{"secret": SECRET, **settings}),
        now_s=now_s,
        ssl_context=ssl_context,
        resolver=resolver,
    )
    try:
        return await channel.send(message or a_message(to=url))
    finally:
        await channel.aclose()


# --- delivery -------------------------------------------------------------------------------


async def test_the_payload_arrives_signed(receiver):
    assert await sent(receiver.url) == Delivered()

    (request,) = receiver.requests
    assert orjson.loads(request.body) == a_message().payload
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["X-Marginguard-Timestamp"] == "1773489605"


async def test_another_secret_does_not_pass_for_genuine(receiver):
    delivery = await sent(receiver.url, secret="another")

    assert isinstance(delivery, Failed)
    assert delivery.for_good
    assert "answered 401" in delivery.reason


async def test_the_signature_covers_the_timestamp(receiver):
    await sent(receiver.url, now_s=lambda: 1.0)
    await sent(receiver.url, now_s=lambda: 2.0)

    first, second = (request.headers["X-Marginguard-Signature"] for request in receiver.requests)
    assert first != second


async def test_without_a_secret_there_is_no_signature(receiver):
    await sent(receiver.url, secret=None)

    assert "X-Marginguard-Signature" not in receiver.requests[0].headers


async def test_a_certificate_that_is_not_trusted_is_not_sent_to(tls):
    receiver = Receiver()
    async with serving(receiver, tls) as port:
        delivery = await sent(
            f"https://hook.example.com:{port}/hook",
            resolver=Names(["127.0.0.1"]),
            allow_private=True,
        )

    assert isinstance(delivery, Failed)
    assert "certificate of hook.example.com is not trusted" in delivery.reason
    assert receiver.requests == []


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(receiver, status):
    receiver.status = status
    receiver.headers = {"Location": "/elsewhere"}

    delivery = await sent(receiver.url)

    assert isinstance(delivery, Failed)
    assert delivery.for_good
    assert "redirect" in delivery.reason
    assert [request.path for request in receiver.requests] == ["/hook"]


@pytest.mark.parametrize(
    ("status", "for_good"),
    [(400, True), (404, True), (410, True), (408, False), (429, False), (500, False), (503, False)],
)
async def test_a_busy_receiver_is_tried_again_and_a_refusal_is_final(receiver, status, for_good):
    receiver.status = status

    delivery = await sent(receiver.url)

    assert isinstance(delivery, Failed)
    assert delivery.for_good is for_good
    assert delivery.reason == f"127.0.0.1 answered {status}"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("120", 120.0), ("0", 0.0), ("soon", None), ("-5", None), ("nan", None), ("inf", None)],
)
async def test_the_receivers_retry_after_is_handed_on(receiver, header, seconds):
    receiver.status = 429
    receiver.headers = {"Retry-After": header}

    delivery = await sent(receiver.url)

    assert isinstance(delivery, Failed)
    assert delivery.retry_after_s == seconds


# --- the network ----------------------------------------------------------------------------


async def test_a_receiver_that_hangs_costs_no_more_than_the_time_limit(receiver):
    receiver.status = "hang"

    async with asyncio.timeout(5):
        delivery = await sent(receiver.url, timeout_s=0.1)

    assert isinstance(delivery, Failed)
    assert not delivery.for_good
    assert delivery.reason == "127.0.0.1 gave no answer within 0.1 s"


async def test_a_2xx_is_a_delivery_even_if_its_body_never_ends(receiver):
    receiver.status = "endless"

    async with asyncio.timeout(5):
        assert await sent(receiver.url, timeout_s=2.0) == Delivered()


async def test_a_receiver_that_is_not_there_is_tried_again():
    delivery = await sent(f"http://127.0.0.1:{unused_port()}/{URL_TOKEN}")

    assert isinstance(delivery, Failed)
    assert not delivery.for_good
    assert "cannot connect to 127.0.0.1" in delivery.reason


@pytest.mark.parametrize("status", [204, 301, 404, 500, "hang"])
async def test_the_url_and_the_secret_are_never_shown(receiver, status):
    """Failure 36: a URL may hold a token."""
    receiver.status = status

    delivery = await sent(receiver.url, timeout_s=0.5)

    assert URL_TOKEN not in repr(delivery)
    assert SECRET not in repr(delivery)
    assert SECRET not in repr(WebhookChannelSettings(secret=SECRET))


# --- where it may go ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",
        "https://10.0.0.5/hook",
        "https://192.168.1.1/hook",
        "https://169.254.169.254/latest/meta-data",
        "https://[fd00::1]/hook",
        "https://[::ffff:10.0.0.5]/hook",
        "ftp://example.com/hook",
        "example.com/hook",
        "",
    ],
)
async def test_an_address_that_may_not_be_used_is_refused_for_good(url):
    delivery = await sent(url)

    assert isinstance(delivery, Failed)
    assert delivery.for_good
    assert delivery.action is Action.VERIFY_WEBHOOK_URL


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fe80::1", "::ffff:127.0.0.1"]
)
async def test_a_name_that_leads_to_a_private_address_is_refused(address):
    delivery = await sent("https://hook.example.com/hook", resolver=Names([address]))

    assert isinstance(delivery, Failed)
    assert delivery.for_good
    assert address in delivery.reason
    assert "allow_private = true" in delivery.advice


async def test_a_name_that_changes_its_address_gains_nothing(tls):
    """Of a name's addresses only public ones are connected to, at every connection anew."""
    receiver = Receiver()
    names = Names(["10.9.8.7", "127.0.0.1"], ["127.0.0.1"])
    async with serving(receiver, tls) as port:
        url = f"https://hook.example.com:{port}/hook"
        deliveries = [await sent(url, ssl_context=tls.client, resolver=names) for _ in range(2)]

    assert all(isinstance(delivery, Failed) and delivery.for_good for delivery in deliveries)
    assert receiver.requests == []


async def test_a_private_address_is_reached_over_https_with_leave(tls):
    receiver = Receiver()
    async with serving(receiver, tls) as port:
        delivery = await sent(
            f"https://hook.example.com:{port}/hook",
            ssl_context=tls.client,
            resolver=Names(["127.0.0.1"]),
            allow_private=True,
        )

    assert delivery == Delivered()
    assert receiver.requests[0].path == "/hook"
