"""Numbers, times and lines of text as people read them."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from marginguard.domain.errors import ConfigError
from marginguard.domain.units import SATS_PER_BTC

LONGEST_TELEGRAM_TEXT: Final = 4096
"""How many UTF-16 units Telegram takes in one message (Bot API, sendMessage)."""

_LONGEST_LINE: Final = 200
_ELLIPSIS: Final = "…"


def one_line(text: str, limit: int = _LONGEST_LINE) -> str:
    """Return `text` as one line of printable characters, at most `limit` of them."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shortened(line, limit)


def shortened(text: str, limit: int) -> str:
    """Return `text` cut to `limit` UTF-16 units, which is how phones and Telegram count.

    What was cut off is marked by an ellipsis.
    """
    if _units(text) <= limit:
        return text
    encoded = text.encode("utf-16-le", errors="replace")
    return encoded[: 2 * (limit - 1)].decode("utf-16-le", errors="ignore") + _ELLIPSIS


def fitted(lines: Sequence[str], limit: int) -> str:
    """Return as many of the lines as `limit` UTF-16 units hold, and how many more there are."""
    text = "\n".join(lines).strip()
    kept = list(lines)
    while kept and _units(text) > limit:
        kept.pop()
        text = "\n".join([*kept, f"{_ELLIPSIS} and {len(lines) - len(kept)} more lines"])
    return text


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", errors="replace")) // 2


def zone(name: str) -> ZoneInfo:
    """Return the time zone of this name; raises `ConfigError` if there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(
            f'there is no time zone "{name}"; give a name such as "Europe/Madrid" or "UTC"'
        ) from error


def local_time(at: datetime, timezone: ZoneInfo) -> str:
    """Return a moment as the people of a zone write it: `2026-03-14 13:00:05 CET`."""
    return f"{at.astimezone(timezone):%Y-%m-%d %H:%M:%S %Z}"


def usd(amount: float) -> str:
    """Return an amount or a price in USD: `61,000.50 USD`."""
    return f"{amount:,.2f} USD"


def sats(amount: int, price: float | None = None) -> str:
    """Return an amount in sats, and in USD where a price of one BTC in USD is known."""
    words = f"{amount:,} sats"
    return words if price is None else f"{words} ({usd(amount / SATS_PER_BTC * price)})"


def percent(value: float) -> str:
    """Return a percentage with one digit: `81.5 %`."""
    return f"{value:.1f} %"


def margin_level(value: float) -> str:
    """Return a margin level with one digit, never lower than it is: `81.5 %`."""
    return percent(math.ceil(round(value * 10, 6)) / 10)
