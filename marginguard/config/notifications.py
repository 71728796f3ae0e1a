"""The tables of the channels, and what users and guards wish to be told."""

import re
from collections.abc import Iterator, Mapping
from datetime import time, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationInfo,
    model_validator,
)

from marginguard.config.fields import (
    DURATION,
    Duration,
    Secret,
    Surroundings,
    WebhookUrl,
    Whole,
    told,
)
from marginguard.config.table import SECRET, Table
from marginguard.domain.notice import Event

ChannelName = Literal["telegram", "email", "webhook", "sms"]
CHANNELS: Final[tuple[ChannelName, ...]] = ("telegram", "email", "webhook", "sms")

_CHANNELS = f"a list of channels ({', '.join(CHANNELS)})"
_EVENTS = ", ".join(event.value for event in Event if event is not Event.TEST)
_HTTPS = f"an https:// address (http:// on this machine alone), given as {SECRET}"
_SWITCH = "true or false"
_TOKEN = re.compile(r"[0-9]+:[A-Za-z0-9_-]+")
_QUIET = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")


class QuietHours(NamedTuple):
    """From when until when, by the user's clock; past midnight where `end` is not later."""

    start: time
    end: time


def _quiet_hours(value: object) -> object:
    if isinstance(value, QuietHours):
        return value
    found = _QUIET.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("not quiet hours")
    start_hour, start_minute, end_hour, end_minute = map(int, found.groups())
    quiet = QuietHours(time(start_hour, start_minute), time(end_hour, end_minute))
    if quiet.start == quiet.end:
        raise told("begins and ends at the same time: leave it out, or give a span")
    return quiet


def _once(values: tuple[ChannelName, ...]) -> tuple[ChannelName, ...]:
    if len(set(values)) < len(values):
        raise told("names a channel twice")
    return values


def _asked_for(event: Event) -> Event:
    if event is Event.TEST:
        raise ValueError("not an event to ask for")
    return event


def _none_for_all(value: object) -> object:
    if value is None:
        raise ValueError("not a list")
    return None if value == "all" else value


AskedEvent = Annotated[Event, AfterValidator(_asked_for)]
_Events = Annotated[frozenset[AskedEvent] | None, BeforeValidator(_none_for_all)]
_Timeout = Annotated[Duration, Field(le=timedelta(seconds=25))]
_TIMEOUT = f"{DURATION.rsplit(' and ', 1)[0]} and at most 25s"


def _directory(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str) and isinstance(info.context, Surroundings):
        return info.context.locate(value)
    return value


class EmailSettings(Table):
    """`[notifications.email]`: the mail server; without `host` no mail is sent.

    `port` None is the customary one for `security`.
    """

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:_-]+$")] | None = Field(
        None, description="the name or address of a mail server"
    )
    port: Annotated[Whole, Field(ge=1, le=65_535)] | None = Field(
        None, description="a whole number from 1 to 65535"
    )
    sender: str | None = Field(None, description='an address such as "name@example.com"')
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description='"starttls", "tls" or "none" (on this machine alone)'
    )
    username: str | None = Field(None, description="the name to log in with")
    password: Secret | None = Field(None, description=SECRET)
    timeout: _Timeout = Field(timedelta(seconds=15), description=_TIMEOUT)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.host is not None and self.sender is None:
            raise told("give sender, the address that mail comes from")
        if (self.username is None) != (self.password is None):
            raise told("give username and password together, or neither")
        return self


def _chat_id(value: object) -> object:
    # A name or a number in quotes is no id: who may command must not be a guess.
    if isinstance(value, bool) or not isinstance(value, int) or value == 0:
        raise ValueError("not a chat's id")
    return value


def _bot_token(token: SecretStr) -> SecretStr:
    if not _TOKEN.fullmatch(token.get_secret_value()):
        raise told("is no bot's token: @BotFather in Telegram gives you one, like 123456789:ABC...")
    return token


_ChatId = Annotated[int, BeforeValidator(_chat_id), Field(ge=-(10**15), le=10**15)]


class TelegramSettings(Table):
    """`[notifications.telegram]`: the bot; without `token` it writes to nobody.

    With `commands` it obeys those chats of `command_chats`, and nobody else.
    """

    token: Annotated[Secret, AfterValidator(_bot_token)] | None = Field(
        None, description=f"the bot's token, given as {SECRET}"
    )
    base_url: str = Field(
        "https://api.telegram.org", description="the https:// address of the Bot API"
    )
    timeout: _Timeout = Field(timedelta(seconds=10), description=_TIMEOUT)
    commands: bool = Field(default=False, description=_SWITCH)
    command_chats: tuple[_ChatId, ...] = Field(
        (), description="a list of chat ids, which are whole numbers (a group's begins with -)"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.commands and self.token is None:
            raise told("commands = true needs token too: the bot that is written to")
        if self.commands and not self.command_chats:
            raise told(
                "commands = true needs command_chats too, a list of the ids of the chats that may"
                " command, such as the number of your telegram_chat_id: [123456789]"
            )
        return self


class WebhookSettings(Table):
    """`[notifications.webhook]`: how webhooks are sent.

    `url` is for every user who gives no `webhook_url`; without either nobody is told by webhook.
    """

    url: WebhookUrl | None = Field(None, description=_HTTPS)
    secret: Secret | None = Field(None, description=f"what signs the webhooks, given as {SECRET}")
    allow_private: bool = Field(default=False, description=_SWITCH)
    timeout: _Timeout = Field(timedelta(seconds=5), description=_TIMEOUT)


class SmsSettings(Table):
    """`[notifications.sms]`: Twilio, or a gateway that one request describes; or none."""

    provider: Literal["twilio", "gateway"] | None = Field(None, description='"twilio" or "gateway"')
    account_sid: str | None = Field(None, description="Twilio's account SID")
    auth_token: Secret | None = Field(None, description=f"Twilio's auth token, given as {SECRET}")
    sender: str | None = Field(None, description="your Twilio number, or a messaging service")
    url: Secret | None = Field(None, description=f"the gateway's address, given as {SECRET}")
    method: str = Field("POST", description="an HTTP method such as POST or GET")
    headers: Mapping[str, str] = Field(
        default_factory=dict, description="a table of the request's headers"
    )
    body: str = Field("", description="the template of the request's body")
    secret: Secret | None = Field(
        None, description=f"what the templates call secret, given as {SECRET}"
    )
    allow_private: bool = Field(default=False, description=_SWITCH)
    timeout: _Timeout = Field(timedelta(seconds=10), description=_TIMEOUT)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {"twilio": ("account_sid", "auth_token", "sender"), "gateway": ("url",)}
        names = needed.get(self.provider or "", ())
        if missing := [name for name in names if getattr(self, name) is None]:
            raise told(f'provider "{self.provider}" needs {", ".join(missing)} too')
        return self


class NotificationsSettings(Table):
    """`[notifications]`: how users are told, and by which templates."""

    templates: Annotated[Path, BeforeValidator(_directory)] | None = Field(
        None, description="the path of a directory of templates"
    )
    email: EmailSettings = Field(
        EmailSettings(), description="a table, written [notifications.email]"
    )
    telegram: TelegramSettings = Field(
        TelegramSettings(), description="a table, written [notifications.telegram]"
    )
    webhook: WebhookSettings = Field(
        WebhookSettings(), description="a table, written [notifications.webhook]"
    )
    sms: SmsSettings = Field(SmsSettings(), description="a table, written [notifications.sms]")

    def secrets(self) -> Iterator[SecretStr]:
        """Yield what must never be printed, but the addresses of webhooks."""
        secrets = (
            self.email.password,
            self.telegram.token,
            self.webhook.secret,
            self.sms.auth_token,
            self.sms.secret,
        )
        yield from (secret for secret in secrets if secret is not None)


def _sms_as_reserve() -> Mapping[ChannelName, frozenset[Event] | None]:
    return {"sms": frozenset()}


class UserNotifications(Table):
    """`[users.notifications]`: on which channels, of what, and when not.

    `channels` is also the order in which they stand in for one another. `events` says of what a
    channel tells at once (None: of everything); one with an empty list tells when another fails.
    """

    channels: Annotated[tuple[ChannelName, ...], AfterValidator(_once)] = Field(
        CHANNELS, description=_CHANNELS
    )
    events: Mapping[ChannelName, _Events] = Field(
        default_factory=_sms_as_reserve,
        description=f'a table: for a channel "all" or a list of events ({_EVENTS})',
    )
    quiet_hours: Annotated[QuietHours, BeforeValidator(_quiet_hours)] | None = Field(
        None, description='a span by the user\'s clock, such as "22:00-07:00"'
    )
    max_per_hour: Annotated[Whole, Field(ge=1, le=10_000)] | None = Field(
        None, description="a whole number from 1 to 10000"
    )
    max_per_day: Annotated[Whole, Field(ge=1, le=100_000)] | None = Field(
        None, description="a whole number from 1 to 100000"
    )


class GuardNotifications(Table):
    """`[guards.notifications]`: what of its user's wishes a guard's notices make use of."""

    channels: Annotated[tuple[ChannelName, ...], AfterValidator(_once)] | None = Field(
        None, description=_CHANNELS
    )
    events: frozenset[AskedEvent] | None = Field(None, description=f"a list of events ({_EVENTS})")
