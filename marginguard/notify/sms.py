"""The SMS channel: Twilio, or any gateway that one HTTP request describes."""

import re
from typing import Final, Protocol

import orjson

from marginguard.domain.errors import Unreachable
from marginguard.notify.channel import Action, Delivered, Delivery, Failed
from marginguard.notify.http import Answer, HttpSender, RefusedDestination
from marginguard.notify.message import Message
from marginguard.notify.sms_requests import Gateway, SmsRequest, Twilio
from marginguard.notify.wording import shortened

LONGEST_TEXT: Final = 480
"""Three SMS of GSM letters: more costs more and says little."""

_NUMBER: Final = re.compile(r"\+[1-9][0-9]{6,14}")  # E.164
_TWILIO_NUMBER_CODES: Final = {21211, 21214, 21217, 21265, 21408, 21610, 21612, 21614}
"""Twilio's error codes that are about the number (https://www.twilio.com/docs/api/errors)."""

_VERIFY: Final = "check the settings in [notifications.sms] against those of your SMS provider"


class _Provider(Protocol):
    timeout_s: float
    allow_private: bool

    def request(self, *, to: str, text: str, message_id: str) -> SmsRequest: ...


class SmsChannel:
    """Sends each message's text to the phone number that it is for, through one provider."""

    name = "sms"

    def __init__(self, provider: Twilio | Gateway) -> None:
        self._provider: _Provider = provider
        self._sender = HttpSender(
            timeout_s=provider.timeout_s, allow_private=provider.allow_private
        )

    async def send(self, message: Message) -> Delivery:
        """Ask the provider once to send the text, cut to three SMS."""
        if not is_phone_number(message.to):
            return Failed(
                reason=f"{message.to!r} is not a phone number like +34600111222",
                action=Action.VERIFY_PHONE_NUMBER,
                advice="set the user's phone to the number with + and country code, no spaces",
                for_good=True,
            )
        text = shortened(message.full_text, LONGEST_TEXT)
        try:
            request = self._provider.request(to=message.to, text=text, message_id=str(message.id))
            answer = await self._sender.send(
                request.method,
                request.destination,
                headers=request.headers,
                body=request.body,
            )
        except (RefusedDestination, ValueError) as error:
            return _wrong_settings(f"the SMS was not sent: {error}")
        except Unreachable as error:
            return Failed(reason=str(error), action=Action.VERIFY_SMS_CONFIG, advice=_VERIFY)
        return Delivered() if answer.accepted else _refused(request.destination.host, answer)

    async def aclose(self) -> None:
        """Close the kept connections."""
        await self._sender.aclose()


def is_phone_number(text: str) -> bool:
    """Return whether `text` is a number with + and country code, without spaces (E.164)."""
    return _NUMBER.fullmatch(text) is not None


def _refused(host: str, answer: Answer) -> Failed:
    code = _twilio_code(answer.body)
    reason = f"{host} {answer.in_words}" + ("" if code is None else f" (error code {code})")
    if answer.passing:
        return Failed(
            reason=reason,
            action=Action.WAIT if answer.status == 429 else Action.VERIFY_SMS_CONFIG,
            advice=_VERIFY,
            retry_after_s=answer.retry_after_s,
        )
    if code in _TWILIO_NUMBER_CODES:
        return Failed(
            reason=reason,
            action=Action.VERIFY_PHONE_NUMBER,
            advice="check the user's phone, and that your SMS account may send to it; see"
            f" https://www.twilio.com/docs/api/errors/{code}",
            for_good=True,
        )
    return _wrong_settings(reason)


def _wrong_settings(reason: str) -> Failed:
    return Failed(reason=reason, action=Action.VERIFY_SMS_CONFIG, advice=_VERIFY, for_good=True)


def _twilio_code(body: bytes) -> int | None:
    """Return the number under `code` of a JSON object, as Twilio answers; else None."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    code = answer.get("code") if isinstance(answer, dict) else None
    return code if isinstance(code, int) else None
