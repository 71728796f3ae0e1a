"""The times that the exchange's lists are paged by."""

from datetime import datetime, timedelta

_MILLISECOND = timedelta(milliseconds=1)


class Stamps:
    """Times to the millisecond, each later than the one before.

    A list is paged by the time of its entries, so that no two of them may share it.
    """

    def __init__(self) -> None:
        self._last: datetime | None = None

    def take(self, now: datetime) -> datetime:
        """Return `now` to the millisecond, or the next one that has not been taken."""
        at = now.replace(microsecond=now.microsecond // 1000 * 1000)
        if self._last is not None:
            at = max(at, self._last + _MILLISECOND)
        self._last = at
        return at
