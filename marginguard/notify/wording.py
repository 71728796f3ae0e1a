"""Numbers, times and lines of text as people read them."""

import math
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from marginguard.domain.errors import ConfigError
from marginguard.domain.units import SATS_PER_BTC

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
    encoded = text.encode("utf-16-le", errors="replace")
    if len(encoded) <= 2 * limit:
        return text
    return encoded[: 2 * (limit - 1)].decode("utf-16-le", errors="ignore") + _ELLIPSIS


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
