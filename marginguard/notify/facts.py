"""The figures of a notice as labelled lines, in the order in which a person wants them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from marginguard.domain.notice import Notice, NoticeKind
from marginguard.notify import wording

Data = Mapping[str, str | int | float | bool | None]

_NEXT_STEPS: Final[Mapping[NoticeKind, str]] = {
    NoticeKind.ACTION_DONE: "Nothing now: the guard goes on.",
    NoticeKind.GUARD_ARMED: "Nothing: the guard works again.",
    NoticeKind.GUARD_DEGRADED: "Look at your positions on the exchange until it sees again;"
    " `marginguard status` and the log say more.",
    NoticeKind.GUARD_DISARMED: "Put the cause right, then see `marginguard status`; until then"
    " watch your positions on the exchange yourself.",
}
"""For the kinds whose text does not say it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One line: what it is, and its value in words."""

    label: str
    value: str


def facts_of(notice: Notice) -> tuple[Fact, ...]:
    """Return what the notice knows, a line each; what it does not know is left out."""
    lines = (
        ("Guard", notice.guard_id),
        ("Account", notice.account_id),
        ("Position", _position(notice)),
        ("Margin level", _level(notice.data)),
        ("Price", _price(notice.data)),
        ("Liquidation price", _liquidation_price(notice.data)),
        ("Action", _action(notice.data)),
        ("Proof", _text(notice.data, "proof")),
        ("Error", _text(notice.data, "error")),
        ("Still at risk", _at_risk(notice.data)),
        ("Profit or loss", _sats(notice.data, "pl_sats")),
        ("Balance left", _sats(notice.data, "balance_sats")),
        ("Happened", _repeated(notice.data)),
    )
    return tuple(Fact(label=label, value=value) for label, value in lines if value)


def next_step_of(notice: Notice) -> str | None:
    """Return what to do: the notice's `advice`, else what its kind calls for."""
    return _text(notice.data, "advice") or _NEXT_STEPS.get(notice.kind)


def _position(notice: Notice) -> str | None:
    if notice.position_id is None:
        return None
    quantity = _number(notice.data, "quantity_usd")
    words = (
        _text(notice.data, "side"),
        None if quantity is None else f"{quantity:,.0f} USD",
    )
    details = " ".join(word for word in words if word)
    return f"{notice.position_id} ({details})" if details else notice.position_id


def _level(data: Data) -> str | None:
    level = _number(data, "level")
    if level is None:
        return None
    words = wording.margin_level(level)
    if (after := _number(data, "level_after")) is not None:
        words += f", now {wording.margin_level(after)}"
    if (threshold := _number(data, "threshold")) is not None:
        words += f" (threshold {wording.percent(threshold)})"
    if risk := _text(data, "risk"):
        words += f", risk {risk}"
    return words


def _price(data: Data) -> str | None:
    price = _number(data, "price")
    return None if price is None else wording.usd(price)


def _liquidation_price(data: Data) -> str | None:
    now = _number(data, "liquidation_price")
    before = _number(data, "liquidation_price_before")
    after = _number(data, "liquidation_price_after")
    after = now if after is None else after
    if before is not None and after is not None and before != after:
        return f"{wording.usd(after)}, before {wording.usd(before)}"
    known = before if after is None else after
    return None if known is None else wording.usd(known)


def _action(data: Data) -> str | None:
    if (action := _text(data, "action")) is None:
        return None
    words = [action.replace("_", " ")]
    # An action that spends nothing has an amount of 0.
    if _number(data, "amount_sats") and (amount := _sats(data, "amount_sats")):
        words.append(amount)
    if cut := _number(data, "quantity_cut_usd"):
        words.append(f"{cut:,.0f} USD less")
    if (stop_loss := _number(data, "stop_loss")) is not None:
        words.append(f"stop-loss at {wording.usd(stop_loss)}")
    status = "dry run, nothing was sent" if data.get("dry_run") else _text(data, "status")
    return ", ".join(words) + (f" ({status})" if status else "")


def _at_risk(data: Data) -> str | None:
    if _number(data, "at_risk_sats") == 0:
        return "nothing of this position"
    amount = _sats(data, "at_risk_sats")
    distance = _number(data, "liquidation_distance")
    parts = (
        amount and f"{amount} of margin",
        None if distance is None else f"liquidation is {wording.percent(distance)} away",
    )
    return ", ".join(part for part in parts if part) or None


def _repeated(data: Data) -> str | None:
    count = _number(data, "count")
    return f"{count:.0f} times" if count is not None and count > 1 else None


def _sats(data: Data, key: str) -> str | None:
    amount = _number(data, key)
    return None if amount is None else wording.sats(int(amount), _number(data, "price"))


def _number(data: Data, key: str) -> float | None:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _text(data: Data, key: str) -> str | None:
    value = data.get(key)
    return str(value) if value is not None and value != "" else None
