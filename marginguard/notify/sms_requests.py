"""What SMS providers want to be asked: Twilio's REST API, and requests written as templates."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

import jinja2
import orjson

from marginguard.domain.errors import ConfigError
from marginguard.notify.destination import Destination, destination

_SAMPLE: Final = {"to": "+34600111222", "text": 'A "test" & more,\non two lines', "id": "0"}
_METHODS: Final = {"GET", "POST", "PUT"}


@dataclass(frozen=True, kw_only=True, slots=True)
class SmsRequest:
    """One HTTP request that makes a provider send one SMS."""

    method: str
    destination: Destination
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class TwilioSettings:
    """An account at Twilio. `sender` is its number, or a messaging service (`MG...`)."""

    account_sid: str
    auth_token: str = field(repr=False)
    sender: str
    base_url: str = "https://api.twilio.com"
    timeout_s: float = 10.0


class Twilio:
    """Twilio's REST API; raises `ConfigError` for an address that may not be used."""

    allow_private = False

    def __init__(self, settings: TwilioSettings) -> None:
        self.timeout_s = settings.timeout_s
        self._settings = settings
        login = f"{settings.account_sid}:{settings.auth_token}"
        self._credentials = base64.b64encode(login.encode()).decode()
        path = f"/2010-04-01/Accounts/{settings.account_sid}/Messages.json"
        try:
            self._destination = destination(settings.base_url.rstrip("/") + path)
        except ValueError as error:
            raise ConfigError(f"[notifications.sms] base_url: {error}") from error

    def request(self, *, to: str, text: str, message_id: str) -> SmsRequest:  # noqa: ARG002 - Twilio has no place for an id
        """Return the request for one SMS."""
        sender = self._settings.sender
        key = "MessagingServiceSid" if sender.startswith("MG") else "From"
        return SmsRequest(
            method="POST",
            destination=self._destination,
            headers={
                "Content-Type": "application/x-www-form-urlencoded",
                "Authorization": f"Basic {self._credentials}",
            },
            body=urlencode({"To": to, key: sender, "Body": text}).encode(),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewaySettings:
    """A gateway's request. `url`, the headers' values and `body` are jinja2 templates.

    They may use `to` (the number), `text`, `id` (the notice's, for dropping repeats) and
    `secret`; with `|urlencode` in a URL or a form and `|tojson` in JSON.
    """

    url: str = field(repr=False)
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: str = field(default="", repr=False)
    secret: str | None = field(default=None, repr=False)
    allow_private: bool = False
    timeout_s: float = 10.0


class Gateway:
    """A gateway described by templates.

    Raises `ConfigError`, with one problem for each, where a template has an error or makes a
    request that cannot be sent.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self.timeout_s = settings.timeout_s
        self.allow_private = settings.allow_private
        self._method = settings.method.upper()
        self._secret = settings.secret
        if self._method not in _METHODS:
            raise ConfigError(f"[notifications.sms] method must be one of {sorted(_METHODS)}")
        sources = {"url": settings.url, "body": settings.body}
        sources |= {f"headers.{name}": value for name, value in settings.headers.items()}
        self._templates = _compiled(sources)
        try:
            sample = self._filled(_SAMPLE)
        except ValueError as error:
            raise ConfigError(f"[notifications.sms] {error}") from error
        _check_json(sample)

    def request(self, *, to: str, text: str, message_id: str) -> SmsRequest:
        """Return the request for one SMS; raises `ValueError` if it cannot be sent."""
        return self._filled({"to": to, "text": text, "id": message_id})

    def _filled(self, values: Mapping[str, str]) -> SmsRequest:
        filled = {
            name: _rendered(name, template, {**values, "secret": self._secret})
            for name, template in self._templates.items()
        }
        try:
            where = destination(filled.pop("url").strip(), allow_private=self.allow_private)
        except ValueError as error:
            raise ValueError(f"url: {error}") from error
        body = filled.pop("body").encode()
        headers = {name.removeprefix("headers."): value for name, value in filled.items()}
        for name, value in headers.items():
            if not value.isprintable():
                raise ValueError(f"headers.{name} must be one line; put the text into the body")
        return SmsRequest(method=self._method, destination=where, headers=headers, body=body)


def _compiled(sources: Mapping[str, str]) -> dict[str, jinja2.Template]:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - no HTML; the templates name the filters that escape
    )
    templates = {}
    problems = []
    for name, source in sources.items():
        try:
            templates[name] = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            problems.append(f"[notifications.sms] {name}: line {error.lineno}: {error.message}")
    if problems:
        raise ConfigError(*problems)
    return templates


def _rendered(name: str, template: jinja2.Template, values: Mapping[str, str | None]) -> str:
    try:
        return template.render(values)
    except Exception as error:  # an expression may raise anything
        raise ValueError(f"{name}: {error}; a template may use to, text, id and secret") from error


def _check_json(sample: SmsRequest) -> None:
    """Refuse a JSON body that a quote or a line break in the text would break."""
    content_types = {
        value for name, value in sample.headers.items() if name.lower() == "content-type"
    }
    if not any("json" in value.lower() for value in content_types):
        return
    try:
        orjson.loads(sample.body)
    except orjson.JSONDecodeError as error:
        raise ConfigError(
            "[notifications.sms] body is not JSON once it is filled in; write {{ text|tojson }}"
            " without quotes around it"
        ) from error
