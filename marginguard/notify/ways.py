"""How each user is reached by each channel at the moment: open, or closed for a while."""

from dataclasses import dataclass
from typing import Final

from marginguard.domain.notification import FAILING_AFTER


@dataclass(kw_only=True, slots=True)
class _Way:
    failures: int = 0
    closed_until_s: float = 0.0


_OPEN: Final = _Way()


class Ways:
    """Counts failures in a row, so that one message at a time tries a way that fails.

    The others wait meanwhile, and what repeats them is coalesced. Times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._ways: dict[tuple[str, str], _Way] = {}

    def failed(self, user_id: str, channel: str) -> int:
        """Count a failure; return how many there were in a row."""
        way = self._ways.setdefault((user_id, channel), _Way())
        way.failures += 1
        return way.failures

    def close(self, user_id: str, channel: str, until_s: float) -> None:
        """Let nothing through before `until_s`."""
        way = self._ways.setdefault((user_id, channel), _Way())
        way.closed_until_s = max(way.closed_until_s, until_s)

    def reached(self, user_id: str, channel: str) -> None:
        """Open the way: something has arrived."""
        self._ways.pop((user_id, channel), None)

    def reopen(self, channel: str) -> None:
        """Open a channel's ways to everybody: it is another one now."""
        self._ways = {place: way for place, way in self._ways.items() if place[1] != channel}

    def closed_until_s(self, user_id: str, channel: str) -> float:
        """Return when the way may be tried again."""
        return self._ways.get((user_id, channel), _OPEN).closed_until_s

    def is_shut(self, user_id: str, channel: str) -> bool:
        """Return whether the way has failed again and again."""
        return self._ways.get((user_id, channel), _OPEN).failures >= FAILING_AFTER
