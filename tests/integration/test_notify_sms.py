"""SMS against look-alikes of Twilio and of a gateway."""

import asyncio
import base64
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from marginguard.notify.channel import Action, Delivered, Failed
from marginguard.notify.sms import SmsChannel
from marginguard.notify.sms_requests import Gateway, GatewaySettings, Twilio, TwilioSettings
from tests.notices import a_message

NUMBER = "+34600111222"
SECRET = "s3cr3t-sms-token"


class Provider:
    """Keeps what comes, and answers as scripted."""

    def __init__(self):
        self.requests = []
        self.answer = (201, "{}", {})
        self.release = asyncio.Event()
        self.app = web.Application()
        self.app.router.add_route("*", "/{tail:.*}", self._receive)

    async def _receive(self, request):
        self.requests.append(
            SimpleNamespace(
                method=request.method,
                path=request.path,
                query=dict(request.query),
                headers=request.headers,
                form=dict(await request.post()),
                json=await request.json() if request.content_type.endswith("json") else None,
            )
        )
        if self.answer == "hang":
            await self.release.wait()
            return web.Response()
        status, body, headers = self.answer
        return web.Response(status=status, text=body, headers=headers)


@pytest.fixture
async def provider():
    provider = Provider()
    async with TestServer(provider.app) as server:
        provider.url = str(server.make_url("")).rstrip("/")
        yield provider
        provider.release.set()


async def sent(through, message=None):
    channel = SmsChannel(through)
    try:
        return await channel.send(message or a_message(to=NUMBER))
    finally:
        await channel.aclose()


def twilio(url, **settings):
    return Twilio(
        TwilioSettings(
            **{
                "account_sid": "AC1",
                "auth_token": SECRET,
                "sender": "+15550001",
                "base_url": url,
                **settings,
            }
        )
    )


async def test_twilio_is_asked_as_its_api_says(provider):
    assert await sent(twilio(provider.url)) == Delivered()

    (request,) = provider.requests
    assert request.method == "POST"
    assert request.path == "/2010-04-01/Accounts/AC1/Messages.json"
    assert request.form == {"To": NUMBER, "From": "+15550001", "Body": a_message().text}
    credentials = base64.b64encode(f"AC1:{SECRET}".encode()).decode()
    assert request.headers["Authorization"] == f"Basic {credentials}"


async def test_a_messaging_service_of_twilios_stands_for_the_sender(provider):
    await sent(twilio(provider.url, sender="MG123"))

    assert provider.requests[0].form["MessagingServiceSid"] == "MG123"
    assert "From" not in provider.requests[0].form


async def test_a_long_text_is_cut_to_three_sms(provider):
    await sent(twilio(provider.url), a_message(to=NUMBER, text="x" * 1000))

    assert provider.requests[0].form["Body"] == "x" * 479 + "…"


async def test_a_late_sms_says_first_when_it_was_meant(provider):
    await sent(twilio(provider.url), a_message(to=NUMBER, late=True, late_note="Late: noon."))

    assert provider.requests[0].form["Body"].startswith("Late: noon.\n\nMargin")


@pytest.mark.parametrize(
    ("status", "code", "action"),
    [
        (400, 21211, Action.VERIFY_PHONE_NUMBER),
        (400, 21610, Action.VERIFY_PHONE_NUMBER),
        (400, 21606, Action.VERIFY_SMS_CONFIG),
        (401, 20003, Action.VERIFY_SMS_CONFIG),
    ],
)
async def test_twilios_refusal_is_final_and_says_what_to_check(provider, status, code, action):
    provider.answer = (status, f'{{"code": {code}, "message": "no"}}', {})

    delivery = await sent(twilio(provider.url))

    assert isinstance(delivery, Failed)
    assert delivery.for_good
    assert delivery.action is action
    assert str(code) in delivery.reason
    assert SECRET not in repr(delivery)


@pytest.mark.parametrize("body", ["", "<html>", "[]", '{"code": "x"}', "null"])
async def test_a_refusal_without_a_code_is_told_by_its_status(provider, body):
    provider.answer = (400, body, {})

    delivery = await sent(twilio(provider.url))

    assert isinstance(delivery, Failed)
    assert delivery.reason == "127.0.0.1 answered 400"


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_provider_is_tried_again_when_it_says(provider, status):
    provider.answer = (status, "", {"Retry-After": "9"})

    delivery = await sent(twilio(provider.url))

    assert isinstance(delivery, Failed)
    assert not delivery.for_good
    assert delivery.retry_after_s == 9.0


async def test_a_provider_that_hangs_costs_no_more_than_the_time_limit(provider):
    provider.answer = "hang"

    async with asyncio.timeout(5):
        delivery = await sent(twilio(provider.url, timeout_s=0.1))

    assert isinstance(delivery, Failed)
    assert not delivery.for_good


async def test_a_provider_that_is_not_there_is_tried_again():
    delivery = await sent(twilio(f"http://127.0.0.1:{unused_port()}"))

    assert isinstance(delivery, Failed)
    assert not delivery.for_good


@pytest.mark.parametrize("number", ["600111222", "+34 600 111 222", "+0123456789", "+34x", ""])
async def test_what_is_no_number_is_refused_without_a_request(provider, number):
    delivery = await sent(twilio(provider.url), a_message(to=number))

    assert isinstance(delivery, Failed)
    assert delivery.for_good
    assert delivery.action is Action.VERIFY_PHONE_NUMBER
    assert provider.requests == []


TEXT = 'Margin "added" & kept,\n50 % <now>'


async def test_a_gateway_gets_its_json(provider):
    gateway = Gateway(
        GatewaySettings(
            url=f"{provider.url}/send",
            headers={"Content-Type": "application/json", "Authorization": "Bearer {{ secret }}"},
            body='{"to": {{ to|tojson }}, "text": {{ text|tojson }}, "id": {{ id|tojson }}}',
            secret=SECRET,
        )
    )

    assert await sent(gateway, a_message(to=NUMBER, text=TEXT)) == Delivered()

    (request,) = provider.requests
    assert request.method == "POST"
    assert request.headers["Authorization"] == f"Bearer {SECRET}"
    assert request.json == {"to": NUMBER, "text": TEXT, "id": str(a_message().id)}


async def test_a_gateway_gets_its_query(provider):
    gateway = Gateway(
        GatewaySettings(
            method="get",
            url=provider.url + "/send?to={{ to|urlencode }}&text={{ text|urlencode }}",
        )
    )

    assert await sent(gateway, a_message(to=NUMBER, text=TEXT)) == Delivered()

    (request,) = provider.requests
    assert request.method == "GET"
    assert request.query == {"to": NUMBER, "text": TEXT}


async def test_a_gateways_refusal_is_final(provider):
    provider.answer = (403, "", {})

    delivery = await sent(Gateway(GatewaySettings(url=f"{provider.url}/send/{SECRET}")))

    assert isinstance(delivery, Failed)
    assert delivery.for_good
    assert delivery.action is Action.VERIFY_SMS_CONFIG
    assert SECRET not in repr(delivery)
