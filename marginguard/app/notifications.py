"""What the configuration means to the telling: pure translations."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

from marginguard.config import Config, UserSettings
from marginguard.config.notifications import NotificationsSettings, SmsSettings
from marginguard.domain.errors import ConfigError
from marginguard.notify.channel import Channel
from marginguard.notify.destination import destination
from marginguard.notify.email import EmailChannel, EmailSettings, Security
from marginguard.notify.preferences import Preferences, QuietHours
from marginguard.notify.rendering import check_templates
from marginguard.notify.routing import Narrowing, Person, Routing
from marginguard.notify.sms import SmsChannel
from marginguard.notify.sms_requests import Gateway, GatewaySettings, Twilio, TwilioSettings
from marginguard.notify.webhook_channel import WebhookChannel, WebhookChannelSettings
from marginguard.notify.wording import zone

_T = TypeVar("_T")

_PORTS = {"starttls": 587, "tls": 465, "none": 25}


def channels_of(settings: NotificationsSettings) -> tuple[Channel, ...]:
    """Return the channels that are set up; webhooks need no setting up.

    Raises `ConfigError` for settings that no channel can work with.
    """
    channels = (build(settings) for build in _BUILDERS.values())
    return tuple(channel for channel in channels if channel is not None)


def changed_channels(
    old: NotificationsSettings, new: NotificationsSettings
) -> dict[str, Channel | None]:
    """Return what replaces each channel whose table has changed; None: it is not set up now.

    Raises `ConfigError` as `channels_of` does.
    """
    return {
        name: build(new)
        for name, build in _BUILDERS.items()
        if getattr(old, name) != getattr(new, name)
    }


def setup_problems(config: Config) -> list[str]:
    """Return a line for each fault of channels, addresses and templates.

    They stand beyond what the file's own reading finds.
    """
    settings = config.notifications
    problems: list[str] = []
    for build in _BUILDERS.values():
        problems += _problems_of(build, settings)
    problems += _problems_of(check_templates, settings.templates)
    return [f"{config.path}: {problem}" for problem in [*problems, *_webhook_problems(config)]]


def _problems_of(work: Callable[[_T], object], value: _T) -> tuple[str, ...]:
    try:
        work(value)
    except ConfigError as error:
        return error.problems
    return ()


def _webhook_problems(config: Config) -> Iterator[str]:
    allow_private = config.notifications.webhook.allow_private
    urls = {"[notifications.webhook] url": config.notifications.webhook.url}
    urls |= {f'webhook_url of user "{user.id}"': user.webhook_url for user in config.users}
    for where, url in urls.items():
        if url is None:
            continue
        try:
            destination(url.get_secret_value(), allow_private=allow_private)
        except ValueError as error:
            yield f"{where}: {error} in [notifications.webhook]"


def _telegram(settings: NotificationsSettings) -> Channel | None:
    telegram = settings.telegram
    if telegram.token is None:
        return None
    # Its library takes a second and 18 MB to load.
    from marginguard.notify.telegram import TelegramChannel, TelegramSettings  # noqa: PLC0415

    return TelegramChannel(
        TelegramSettings(
            token=telegram.token.get_secret_value(),
            base_url=telegram.base_url,
            timeout_s=telegram.timeout.total_seconds(),
        )
    )


def _email(settings: NotificationsSettings) -> Channel | None:
    email = settings.email
    if email.host is None or email.sender is None:
        return None
    return EmailChannel(
        EmailSettings(
            host=email.host,
            port=email.port or _PORTS[email.security],
            sender=email.sender,
            security=Security(email.security),
            username=email.username,
            password=email.password.get_secret_value() if email.password else None,
            timeout_s=email.timeout.total_seconds(),
        )
    )


def _webhook(settings: NotificationsSettings) -> Channel:
    webhook = settings.webhook
    return WebhookChannel(
        WebhookChannelSettings(
            secret=webhook.secret.get_secret_value() if webhook.secret else None,
            allow_private=webhook.allow_private,
            timeout_s=webhook.timeout.total_seconds(),
        )
    )


def _sms(settings: NotificationsSettings) -> Channel | None:
    return None if settings.sms.provider is None else SmsChannel(_sms_provider(settings.sms))


_BUILDERS: Final[Mapping[str, Callable[[NotificationsSettings], Channel | None]]] = {
    "telegram": _telegram,
    "email": _email,
    "webhook": _webhook,
    "sms": _sms,
}
"""How the channel of each table is made."""


def _sms_provider(sms: SmsSettings) -> Twilio | Gateway:
    timeout_s = sms.timeout.total_seconds()
    # The table's own check has seen that what each provider needs is there.
    if sms.provider == "twilio":
        return Twilio(
            TwilioSettings(
                account_sid=sms.account_sid or "",
                auth_token=sms.auth_token.get_secret_value() if sms.auth_token else "",
                sender=sms.sender or "",
                timeout_s=timeout_s,
            )
        )
    return Gateway(
        GatewaySettings(
            url=sms.url.get_secret_value() if sms.url else "",
            method=sms.method,
            headers=sms.headers,
            body=sms.body,
            secret=sms.secret.get_secret_value() if sms.secret else None,
            allow_private=sms.allow_private,
            timeout_s=timeout_s,
        )
    )


def set_up(settings: NotificationsSettings) -> frozenset[str]:
    """Return the names of the channels that `channels_of` makes."""
    given = {
        "telegram": settings.telegram.token,
        "email": settings.email.host,
        "sms": settings.sms.provider,
    }
    return frozenset({"webhook", *(name for name, key in given.items() if key is not None)})


def routing_of(config: Config) -> Routing:
    """Return who is told where, over the channels that are set up."""
    narrowed = {
        guard.id: Narrowing(
            channels=None if wishes.channels is None else frozenset(wishes.channels),
            events=wishes.events,
        )
        for guard in config.guards
        if (wishes := guard.notifications) is not None
    }
    return Routing(
        [_person(user, config.notifications) for user in config.users],
        usable=set_up(config.notifications),
        owners={account_id: user.id for account_id, user in config.owners.items()},
        narrowed=narrowed,
    )


def _person(user: UserSettings, settings: NotificationsSettings) -> Person:
    url = user.webhook_url or settings.webhook.url
    addresses = {
        "email": user.email,
        "telegram": user.telegram_chat_id,
        "webhook": None if url is None else url.get_secret_value(),
        "sms": user.phone,
    }
    wishes = user.notifications
    quiet = wishes.quiet_hours
    return Person(
        user_id=user.id,
        addresses={channel: to for channel, to in addresses.items() if to is not None},
        timezone=user.timezone,
        preferences=Preferences(
            channels=wishes.channels,
            events={
                channel: events for channel, events in wishes.events.items() if events is not None
            },
            quiet_hours=None
            if quiet is None
            else QuietHours(start=quiet.start, end=quiet.end, timezone=zone(user.timezone)),
            max_per_hour=wishes.max_per_hour,
            max_per_day=wishes.max_per_day,
        ),
    )
