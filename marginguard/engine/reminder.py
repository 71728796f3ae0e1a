"""When to say again what was said before."""

from collections.abc import Hashable


class Reminder:
    """Lets a fact through when it is new or changed, and again after `repeat_s` seconds."""

    def __init__(self, *, repeat_s: float) -> None:
        self._repeat_s = repeat_s
        self._said: dict[Hashable, tuple[Hashable, float]] = {}

    def due(self, subject: Hashable, fact: Hashable, now_s: float) -> bool:
        """Return whether `fact` about `subject` should be said now, and note that it is."""
        known = self._said.get(subject)
        if known is not None and known[0] == fact and now_s - known[1] < self._repeat_s:
            return False
        self._said[subject] = (fact, now_s)
        return True

    def forget(self, subject: Hashable) -> None:
        """Let the next fact about `subject` be new."""
        self._said.pop(subject, None)
