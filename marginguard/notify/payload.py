"""What a webhook's receiver gets: JSON with every field present, null where it says nothing."""

from typing import Any, Final

from marginguard.domain.notice import Notice

PAYLOAD_VERSION: Final = "2"
"""Changes when the meaning of a field does; fields may be added within a version."""

_POSITION_FIGURES: Final = (
    "side",
    "quantity_usd",
    "level",
    "threshold",
    "price",
    "liquidation_price",
    "liquidation_price_before",
    "liquidation_price_after",
    "at_risk_sats",
)


def payload_of(notice: Notice, user_id: str) -> dict[str, Any]:
    """Return the payload; `id` is the same at every attempt, `timestamp` when it happened.

    `details` holds the text, the severity and every figure of the notice.
    """
    return {
        "id": str(notice.id),
        "timestamp": notice.at.isoformat(),
        "type": notice.kind.value,
        "version": PAYLOAD_VERSION,
        "data": {
            "execution_id": None if notice.execution_id is None else str(notice.execution_id),
            "user_id": user_id,
            "guard_id": notice.guard_id,
            "status": notice.data.get("status"),
            "details": {
                **notice.data,
                "text": notice.text,
                "severity": notice.severity.value,
            },
            "positions": [] if notice.position_id is None else [_position(notice)],
            "account": None if notice.account_id is None else _account(notice),
        },
    }


def _position(notice: Notice) -> dict[str, Any]:
    figures = {key: notice.data.get(key) for key in _POSITION_FIGURES}
    return {"id": notice.position_id, **figures}


def _account(notice: Notice) -> dict[str, Any]:
    return {"id": notice.account_id, "balance_sats": notice.data.get("balance_sats")}
