"""The webhook channel: signed JSON to a receiver of the owner's."""

import hashlib
import hmac
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson
from aiohttp.abc import AbstractResolver

from marginguard.domain.errors import Unreachable
from marginguard.notify.channel import Action, Delivered, Delivery, Failed
from marginguard.notify.destination import destination
from marginguard.notify.http import Answer, HttpSender, RefusedDestination
from marginguard.notify.message import Message

TIMESTAMP_HEADER = "X-Marginguard-Timestamp"
SIGNATURE_HEADER = "X-Marginguard-Signature"

_VERIFY_URL = "check the user's webhook_url and its receiver, then try `marginguard notify test`"


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookChannelSettings:
    """How webhooks are sent. Without a `secret` they are not signed.

    `allow_private` lets them reach addresses of private networks; each is given `timeout_s`.
    """

    secret: str | None = field(default=None, repr=False)
    allow_private: bool = False
    timeout_s: float = 5.0


class WebhookChannel:
    """Posts each message's payload to the URL that it is for.

    `now_s` returns the wall clock's seconds since 1970; `ssl_context` and `resolver` replace the
    system's certificates and names.
    """

    name = "webhook"

    def __init__(
        self,
        settings: WebhookChannelSettings,
        *,
        now_s: Callable[[], float] = time.time,
        ssl_context: ssl.SSLContext | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._settings = settings
        self._now_s = now_s
        self._sender = HttpSender(
            timeout_s=settings.timeout_s,
            allow_private=settings.allow_private,
            ssl_context=ssl_context,
            resolver=resolver,
        )

    async def send(self, message: Message) -> Delivery:
        """Post the payload once; anything but a 2xx is a failure."""
        try:
            where = destination(message.to, allow_private=self._settings.allow_private)
        except ValueError as error:
            return Failed(
                reason=f"the webhook address cannot be used: {error}",
                action=Action.VERIFY_WEBHOOK_URL,
                advice="correct the user's webhook_url",
                for_good=True,
            )
        body = orjson.dumps(message.payload)
        try:
            answer = await self._sender.send("POST", where, headers=self._headers(body), body=body)
        except RefusedDestination as error:
            return Failed(
                reason=f"the webhook was not sent: {error}",
                action=Action.VERIFY_WEBHOOK_URL,
                advice="correct the user's webhook_url, or set allow_private = true in"
                " [notifications.webhook] if the receiver is meant to be in your own network",
                for_good=True,
            )
        except Unreachable as error:
            return Failed(reason=str(error), action=Action.VERIFY_WEBHOOK_URL, advice=_VERIFY_URL)
        return Delivered() if answer.accepted else _refused(where.host, answer)

    async def aclose(self) -> None:
        """Close the kept connections."""
        await self._sender.aclose()

    def _headers(self, body: bytes) -> dict[str, str]:
        timestamp = str(int(self._now_s()))
        headers = {"Content-Type": "application/json", TIMESTAMP_HEADER: timestamp}
        if self._settings.secret is not None:
            headers[SIGNATURE_HEADER] = signature(self._settings.secret, timestamp, body)
        return headers


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return what the signature header must hold: `sha256=` and 64 hexadecimal digits.

    The HMAC-SHA256, under the UTF-8 bytes of `secret`, of the timestamp header, a full stop and
    the body as it was sent. A receiver computes it, compares in constant time, and refuses a
    timestamp that is more than some minutes old, so that nothing recorded can be played again.
    """
    signed = timestamp.encode() + b"." + body
    return "sha256=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def _refused(host: str, answer: Answer) -> Failed:
    if answer.passing:
        return Failed(
            reason=f"{host} {answer.in_words}",
            action=Action.VERIFY_WEBHOOK_URL,
            advice=_VERIFY_URL,
            retry_after_s=answer.retry_after_s,
        )
    advice = (
        "set the user's webhook_url to the address that the receiver redirects to"
        if 300 <= answer.status < 400
        else "check the user's webhook_url, and the signature's secret, at the receiver"
    )
    return Failed(
        reason=f"{host} {answer.in_words}",
        action=Action.VERIFY_WEBHOOK_URL,
        advice=advice,
        for_good=True,
    )
