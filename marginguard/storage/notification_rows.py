"""Notifications as JSON: rows of their table, and read back exactly as they were."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any
from uuid import UUID

from pydantic import ConfigDict, TypeAdapter, ValidationError

from marginguard.domain.errors import Malformed
from marginguard.domain.notice import EVENT_OF
from marginguard.domain.notification import Notification

_EXACT = ConfigDict(strict=True, extra="forbid", ser_json_inf_nan="constants")
# A dataclass takes a configuration from what it is in alone.
_ROWS: TypeAdapter[tuple[Notification]] = TypeAdapter(tuple[Notification], config=_EXACT)


def row_of(notification: Notification) -> dict[str, Any]:
    """Return the row of `notifications`: what it is, and what it is looked up by."""
    notice = notification.notice
    return {
        **{field.name: getattr(notification, field.name) for field in fields(notification)},
        "event": EVENT_OF[notice.kind],
        "kind": notice.kind,
        "severity": notice.severity,
        "guard_id": notice.guard_id,
        "account_id": notice.account_id,
        "position_id": notice.position_id,
        "execution_id": notice.execution_id,
        "action_id": _uuid(notice.data.get("action_id")),
    }


def encode(notification: Notification) -> bytes:
    """Return the notification as JSON without a line break."""
    return _ROWS.dump_json((notification,))[1:-1]


def decode(line: bytes) -> Notification:
    """Return the notification that `encode` or the table's query made; raises `Malformed`."""
    try:
        return _ROWS.validate_json(b"[" + line + b"]")[0]
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"][1:])
        raise Malformed(f"not a notification: {where}: {fault['msg']}") from error


def newest(notifications: Iterable[Notification]) -> list[Notification]:
    """Return one notification for each key: that of the highest revision."""
    found: dict[object, Notification] = {}
    for notification in notifications:
        known = found.get(notification.key)
        if known is None or known.revision < notification.revision:
            found[notification.key] = notification
    return list(found.values())


def _uuid(value: object) -> str | None:
    try:
        return str(UUID(value)) if isinstance(value, str) else None
    except ValueError:
        return None
