"""The tables of users and of plans, and the plans that they come to."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from email.errors import MessageError
from email.headerregistry import Address
from enum import StrEnum
from typing import Annotated, Final
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field

from marginguard.config.fields import Number, WebhookUrl, Whole, told
from marginguard.config.guards import Action
from marginguard.config.notifications import UserNotifications
from marginguard.config.table import NAME, NAMED, SECRET, Table
from marginguard.domain.model import ActionKind
from marginguard.domain.plans import ALL_ACTIONS, ALL_MODES, BUILT_IN, LIFETIME, PlanLimits
from marginguard.domain.rules import ProtectionMode

OWNER: Final = "owner"
"""The user who owns everything while the configuration names no users."""

_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")
_CHAT = re.compile(r"-?[1-9][0-9]{0,18}|@[A-Za-z][A-Za-z0-9_]{3,31}")


def _email(value: str) -> str:
    try:
        address = Address(addr_spec=value)
    except (MessageError, ValueError, IndexError):
        raise ValueError("not an address") from None
    if not (address.username and address.domain) or any(c.isspace() for c in value):
        raise ValueError("not an address")
    return value


def _chat(value: object) -> object:
    # Telegram's own ids are numbers, and people write them as such.
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _CHAT.fullmatch(text):
        raise ValueError("not a chat")
    return text


def _phone(value: str) -> str:
    if not _PHONE.fullmatch(value):
        raise ValueError("not a number")
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError("not a zone") from None
    return value


class UserSettings(Table):
    """`[[users]]`: who owns accounts, on which plan, and where they are reached."""

    id: Annotated[str, NAME] = Field(description=NAMED)
    plan: str = Field(LIFETIME.name, description="the name of a plan")
    email: Annotated[str, AfterValidator(_email)] | None = Field(
        None, description='an address such as "name@example.com"'
    )
    telegram_chat_id: Annotated[str, BeforeValidator(_chat)] | None = Field(
        None, description='a chat\'s number, or the "@name" of a channel'
    )
    webhook_url: WebhookUrl | None = Field(
        None,
        description=f"an https:// address (http:// on this machine alone), given as {SECRET}",
    )
    phone: Annotated[str, AfterValidator(_phone)] | None = Field(
        None, description='a number with + and country code, such as "+34600111222"'
    )
    timezone: Annotated[str, AfterValidator(_zone)] = Field(
        "UTC", description='the name of a time zone, such as "Europe/Madrid" or "UTC"'
    )
    notifications: UserNotifications = Field(
        default_factory=UserNotifications,
        description="a table, written [users.notifications] below its user",
    )


def _positions(value: object) -> object:
    if value is None:
        raise ValueError("not a number")
    return None if value == "unlimited" else value


def _closing(actions: tuple[ActionKind, ...]) -> tuple[ActionKind, ...]:
    if ActionKind.CLOSE_POSITION not in actions:
        raise told("must have close_position: the last thing to do is never withheld")
    return actions


def _names(values: Sequence[StrEnum]) -> str:
    return ", ".join(value.value for value in values)


class PlanSettings(Table):
    """`[plans.<name>]`: what differs from the built-in plan of that name.

    A plan of another name is like lifetime but for what it gives. `positions` None that is given
    is "unlimited".
    """

    positions: Annotated[
        Annotated[Whole, Field(ge=1, le=100_000)] | None, BeforeValidator(_positions)
    ] = Field(None, description='a whole number, 1 or more, or "unlimited"')
    modes: Annotated[tuple[ProtectionMode, ...], Field(min_length=1)] | None = Field(
        None, description=f"a list of modes ({_names(ALL_MODES)}) with at least one in it"
    )
    actions: Annotated[tuple[Action, ...], AfterValidator(_closing)] | None = Field(
        None, description=f"a list of actions ({_names(ALL_ACTIONS)})"
    )
    lowest_threshold: Annotated[Number, Field(ge=0, lt=100)] | None = Field(
        None, description="a number from 0 to below 100 (percent of the margin used up)"
    )
    priority: Annotated[Whole, Field(ge=1, le=100)] | None = Field(
        None, description="a whole number from 1 to 100, the larger first"
    )


_LIMITS: Final = {
    "positions": "max_positions",
    "modes": "modes",
    "actions": "actions",
    "lowest_threshold": "min_threshold",
    "priority": "priority",
}
"""The keys of a plan, each with what it sets."""


def plans_of(tables: Mapping[str, PlanSettings]) -> dict[str, PlanLimits]:
    """Return every plan there is by its name: the built-in ones, and those of the file."""
    return {**BUILT_IN, **{name: _plan(name, table) for name, table in tables.items()}}


def _plan(name: str, table: PlanSettings) -> PlanLimits:
    given = table.model_fields_set
    changes = {limit: getattr(table, key) for key, limit in _LIMITS.items() if key in given}
    return replace(BUILT_IN.get(name, LIFETIME), name=name, **changes)
