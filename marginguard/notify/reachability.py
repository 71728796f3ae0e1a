"""Whether anything reaches a user at all: all channels failed is a state of its own."""

from collections.abc import Callable, Collection

import structlog

from marginguard.domain.notification import Notification
from marginguard.notify.notice_log import context_of


class Reachability:
    """Knows the users whom a critical notice reached on no channel, and tells when that changes."""

    def __init__(self, on_change: Callable[[frozenset[str]], None]) -> None:
        self._on_change = on_change
        self._log = structlog.get_logger()
        self.unreachable: frozenset[str] = frozenset()

    def lost(self, row: Notification, tried: Collection[str]) -> None:
        """Note that the last of a user's channels failed a critical notice."""
        if row.user_id in self.unreachable:
            return
        self._log.critical(
            "notify.all_channels_failed",
            tried=sorted(tried),
            reason=row.last_error,
            advice=f"{row.advice}; guarding goes on, and this log holds every notice",
            **context_of(row),
        )
        self._change(self.unreachable | {row.user_id})

    def reached(self, user_id: str) -> None:
        """Note that something arrived."""
        if user_id in self.unreachable:
            self._log.info("notify.reachable_again", user=user_id)
            self._change(self.unreachable - {user_id})

    def _change(self, users: frozenset[str]) -> None:
        self.unreachable = users
        self._on_change(users)
