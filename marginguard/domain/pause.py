"""A guard's pause: until when it only alerts, and who wanted it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

LONGEST_PAUSE: Final = timedelta(hours=24)
"""A guard that is paused comes back by itself: nobody forgets it for longer than that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """Until when a guard only alerts, and who wanted it."""

    until: datetime
    by: str

    def left(self, now: datetime) -> timedelta:
        """Return how long it lasts yet; nothing once it is over.

        What seems to last longer than any pause may was made by a clock that has been set back
        since: it is over, for not to guard would be worse.
        """
        left = self.until - now
        return left if timedelta(0) < left <= LONGEST_PAUSE else timedelta(0)

    def __str__(self) -> str:
        """Say it in words that go on a sentence about the guard."""
        return f"paused until {self.until:%Y-%m-%d %H:%M:%S} UTC by {self.by}"
