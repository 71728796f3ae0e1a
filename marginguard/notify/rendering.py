"""From a notice to the message that one person gets on one channel."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from marginguard.domain.notice import Notice, NoticeKind, Severity
from marginguard.domain.units import AccountId, GuardId, PositionId
from marginguard.notify.facts import facts_of, next_step_of
from marginguard.notify.message import Message
from marginguard.notify.payload import payload_of
from marginguard.notify.template_files import Templates, check_template_files
from marginguard.notify.wording import local_time, one_line, zone

_TEXT_PARTS: Final = {"sms": "short"}
"""Which template a channel's text is written with; the others have `text`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipient:
    """Who is told, and where: `to` is the address, chat id, URL or number on the channel.

    `timezone` is the name of the zone in which times are written, such as `Europe/Madrid`.
    """

    user_id: str
    to: str
    timezone: str = "UTC"


class Renderer:
    """Writes messages, with the templates in `directory` in front of ours where there is one."""

    def __init__(self, directory: Path | None = None) -> None:
        self._templates = Templates(directory)

    def message(self, notice: Notice, channel: str, recipient: Recipient) -> Message:
        """Return the message of `notice` for `recipient` on the channel of this name.

        Raises `ConfigError` if the recipient's time zone does not exist.
        """
        values = _values(notice, recipient)

        def fill(part: str) -> str:
            return self._templates.fill(part, notice.kind, values)

        return Message(
            id=notice.id,
            kind=notice.kind,
            severity=notice.severity,
            user_id=recipient.user_id,
            to=recipient.to,
            subject=one_line(fill("subject")),
            text=fill(_TEXT_PARTS.get(channel, "text")),
            html=fill("html") if channel == "email" else None,
            payload=payload_of(notice, recipient.user_id) if channel == "webhook" else None,
            meant_at=notice.at,
            late_note=f"Late: this was meant for {values['when']}.",
        )


def check_templates(directory: Path | None) -> None:
    """Raise `ConfigError`, one problem with file and line each, for templates with an error.

    Every template is filled in for each kind of notice that it serves, once with every figure
    and once with none, so that a figure which is not always there is found here.
    """
    samples = {
        kind: tuple(_values(notice, _SAMPLE_RECIPIENT) for notice in _sample_notices(kind))
        for kind in NoticeKind
    }
    check_template_files(directory, samples)


def _values(notice: Notice, recipient: Recipient) -> Mapping[str, Any]:
    """Return what a template may use."""
    timezone = zone(recipient.timezone)
    return {
        "id": str(notice.id),
        "kind": notice.kind.value,
        "severity": notice.severity.value,
        "headline": notice.kind.value.replace("_", " ").capitalize(),
        "text": notice.text,
        "facts": facts_of(notice),
        "next_step": next_step_of(notice),
        "at": notice.at.astimezone(timezone),
        "when": local_time(notice.at, timezone),
        "user_id": recipient.user_id,
        "guard_id": notice.guard_id,
        "account_id": notice.account_id,
        "position_id": notice.position_id,
        "execution_id": None if notice.execution_id is None else str(notice.execution_id),
        "data": dict(notice.data),
    }


_SAMPLE_RECIPIENT: Final = Recipient(user_id="owner", to="owner@example.com")


def _sample_notices(kind: NoticeKind) -> tuple[Notice, Notice]:
    bare = Notice(
        id=uuid.UUID(int=0),
        kind=kind,
        severity=Severity.INFO,
        text="This is a sample.",
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    full = Notice(
        id=uuid.UUID(int=1),
        kind=kind,
        severity=Severity.CRITICAL,
        text="This is a sample.",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        guard_id=GuardId("guard"),
        account_id=AccountId("account"),
        position_id=PositionId("position"),
        execution_id=uuid.UUID(int=2),
        data=SAMPLE_DATA,
    )
    return bare, full


SAMPLE_DATA: Final[Mapping[str, str | int | float | bool | None]] = {
    "action": "add_margin",
    "status": "done",
    "amount_sats": 7_000,
    "quantity_cut_usd": 0,
    "stop_loss": None,
    "side": "long",
    "quantity_usd": 1_000,
    "level": 81.5,
    "level_after": 50.0,
    "threshold": 80.0,
    "risk": "medium",
    "price": 61_000.5,
    "liquidation_price": 58_000.0,
    "liquidation_price_before": 60_000.0,
    "liquidation_price_after": 58_000.0,
    "liquidation_distance": 4.9,
    "at_risk_sats": 41_000,
    "balance_sats": 250_000,
    "free_sats": 200_000,
    "allowed_sats": 3_000,
    "limit": "max_per_day",
    "trigger_price": 61_500.0,
    "ending": "stop_loss",
    "pl_sats": -52_632,
    "closed_at": "2026-01-01T00:00:00+00:00",
    "offset_s": 6.1,
    "code": "PRICE_UNKNOWN",
    "error_type": "NETWORK_ERROR",
    "attempts": 4,
    "proof": "the margin is 48,000 sats",
    "error": None,
    "advice": "Look at the position.",
    "dry_run": False,
    "count": 1,
}
"""Every figure that a notice may have, for trying templates."""
