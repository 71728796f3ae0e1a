"""The notifications that are on their way, in memory: what is due, and what has changed."""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from marginguard.domain.notice import Notice
from marginguard.domain.notification import Notification, NotificationKey
from marginguard.notify.channel import Delivered, Delivery
from marginguard.notify.outbox_rules import (
    OutboxSettings,
    alert_of,
    delivered,
    failed,
    given_up,
    held,
    may_take_more,
    repeated,
    wait_s,
)
from marginguard.notify.ways import Ways
from marginguard.ports import Clock

_REMEMBERED: Final = 1_000
"""How many settled notifications are known by key, so that an old reading does not revive one."""

_LONGEST_HOLD_S: Final = 86_400.0
"""No stored time holds a notification longer than this: the clock may have been wrong then."""


@dataclass(kw_only=True, slots=True)
class Entry:
    """A notification with what is not stored: `due_s` is monotonic; `kept`: it is stored."""

    row: Notification
    due_s: float
    kept: bool = False
    sending: bool = False


class Outbox:
    """Holds every notice that is still pending for a user somewhere, with all its channels.

    The bound is on those that are not critical: too many, and the oldest is given up.
    """

    def __init__(self, *, settings: OutboxSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._families: dict[tuple[UUID, str], dict[str, Entry]] = {}
        self._alerts: dict[tuple[str, str, tuple[str | None, ...] | None], Entry] = {}
        self._changed: dict[NotificationKey, Notification] = {}
        self._settled: OrderedDict[NotificationKey, int] = OrderedDict()
        self.ways = Ways()
        self._delivered: defaultdict[tuple[str, str], deque[datetime]] = defaultdict(deque)

    def fold(
        self, notice: Notice, user_id: str, channel: str, render: Callable[[Notice], Notification]
    ) -> bool:
        """Let the notice take the place of one that it repeats; returns whether there is one."""
        entry = self._alerts.get((user_id, channel, alert_of(notice)))
        if entry is None or entry.sending or not may_take_more(entry.row):
            return False
        row = entry.row
        entry.row = replace(
            render(repeated(row, notice)),
            created_at=row.created_at,
            next_attempt_at=row.next_attempt_at,
            revision=row.revision + 1,
        )
        self._note(entry.row)
        return True

    def add(self, row: Notification) -> Notification | None:
        """Take in a new notification; returns what had to be given up for it, if anything."""
        self._place(row, kept=False)
        self._note(row)
        if len(self._families) <= self._settings.capacity:
            return None
        waiting = [
            entry.row
            for entry in self._entries()
            if entry.row.pending and not entry.row.critical and not entry.sending
        ]
        if len(waiting) <= self._settings.capacity:
            return None
        oldest = min(waiting, key=lambda waiting_row: waiting_row.created_at)
        victim = given_up(
            oldest, f"{self._settings.capacity} others were waiting", now=self._clock.now()
        )
        self._put(victim)
        return victim

    def admit(self, rows: Sequence[Notification]) -> int:
        """Take in what was stored, unless it is known; return how many of it are pending."""
        admitted = 0
        families = {(row.id, row.user_id) for row in rows if row.pending and self._is_news(row)}
        for row in rows:
            family = (row.id, row.user_id)
            if family not in families:
                continue
            # What is settled is taken in, too: it says where not to turn to.
            if self._is_news(row) if row.pending else row.channel not in self._known(*family):
                self._place(row, kept=True)
                admitted += row.pending
        return admitted

    def hold(self, row: Notification, until: datetime) -> None:
        """Put off a notification that was to be sent."""
        self._put(held(row, until))

    def settle(self, row: Notification, delivery: Delivery) -> Notification:
        """Note how an attempt to send ended; return what has become of the notification."""
        user_id, channel, now = row.user_id, row.channel, self._clock.now()
        if isinstance(delivery, Delivered):
            done = delivered(row, now=now)
            self.ways.reached(user_id, channel)
            self._delivered[user_id, channel].append(now)
            self._put(done)
            self._hurry(user_id, channel)
            return done
        next_in_s = 0.0
        if not delivery.for_good:
            failures = self.ways.failed(user_id, channel)
            next_in_s = wait_s(delivery, failures, self._settings)
            self.ways.close(user_id, channel, self._clock.monotonic() + next_in_s)
        done = failed(row, delivery, now=now, next_in_s=next_in_s, settings=self._settings)
        self._put(done)
        return done

    def note_told(self, row: Notification) -> None:
        """Record what needs no sending."""
        self._note(delivered(row, now=self._clock.now()))

    def take_due(self, channel: str) -> Notification | None:
        """Return what to send next on the channel, marked as being sent; None: nothing is due.

        Critical ones go first, then those that failed less often, then the older ones.
        """
        now_s = self._clock.monotonic()
        due = [entry for entry in self._sendable(channel) if self._from_s(entry) <= now_s]
        if not due:
            return None
        entry = min(due, key=lambda e: (not e.row.critical, e.row.attempts, e.row.created_at))
        entry.sending = True
        return entry.row

    def next_due_in_s(self, channel: str) -> float | None:
        """Return in how many seconds something is due on the channel; None: not by itself."""
        times = [self._from_s(entry) for entry in self._sendable(channel)]
        return max(0.0, min(times) - self._clock.monotonic()) if times else None

    def family(self, notice_id: UUID, user_id: str) -> list[Notification]:
        """Return the notice's notifications of one user, on every channel tried so far."""
        return [entry.row for entry in self._known(notice_id, user_id).values()]

    def take_changed(self) -> list[Notification]:
        """Return what has changed since the last call, to be saved."""
        changed, self._changed = list(self._changed.values()), {}
        return changed

    def mark_kept(self, rows: Sequence[Notification]) -> None:
        """Note that the rows are saved: they may be sent, or forgotten where all is over."""
        for row in rows:
            entry = self._known(row.id, row.user_id).get(row.channel)
            if entry is not None:
                entry.kept = True
                self._forget_if_over(row.id, row.user_id)

    @property
    def has_changes(self) -> bool:
        """Whether something is to be saved."""
        return bool(self._changed)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being sent or could be sent now."""
        now_s = self._clock.monotonic()
        return not any(
            entry.row.pending and (entry.sending or self._from_s(entry) <= now_s)
            for entry in self._entries()
        )

    @property
    def pending(self) -> list[Notification]:
        """What is still to be delivered."""
        return [entry.row for entry in self._entries() if entry.row.pending]

    @property
    def waiting(self) -> list[Notification]:
        """What is still to be delivered and is not being sent at this moment."""
        return [entry.row for entry in self._entries() if entry.row.pending and not entry.sending]

    def try_again(self, channel: str) -> None:
        """Let go what waits because the channel has failed: it is another one now."""
        self.ways.reopen(channel)
        now_s = self._clock.monotonic()
        for entry in self._sendable(channel):
            if entry.row.attempts > 0:
                entry.due_s = now_s

    def delivered_to(self, user_id: str, channel: str) -> Sequence[datetime]:
        """Return when the channel brought the user something within the last day."""
        times = self._delivered[user_id, channel]
        while times and times[0] <= self._clock.now() - timedelta(days=1):
            times.popleft()
        return tuple(times)

    def count_delivered(self, earlier: Sequence[tuple[str, str, datetime]]) -> None:
        """Count for the limits what an earlier life delivered: user, channel and time of each."""
        for user_id, channel, at in earlier:
            times = self._delivered[user_id, channel]
            if at not in times:
                times.append(at)
        for times in self._delivered.values():
            ordered = sorted(times)
            times.clear()
            times.extend(ordered)

    def _known(self, notice_id: UUID, user_id: str) -> dict[str, Entry]:
        return self._families.get((notice_id, user_id), {})

    def _entries(self) -> Iterator[Entry]:
        for family in self._families.values():
            yield from family.values()

    def _sendable(self, channel: str) -> list[Entry]:
        return [
            family[channel]
            for family in self._families.values()
            if channel in family
            and (entry := family[channel]).row.pending
            and entry.kept
            and not entry.sending
        ]

    def _put(self, row: Notification) -> None:
        entry = self._known(row.id, row.user_id)[row.channel]
        entry.row = row
        entry.due_s = self._due_s(row)
        entry.sending = False
        self._note(row)

    def _hurry(self, user_id: str, channel: str) -> None:
        """Let go what waited because the way had failed."""
        now_s = self._clock.monotonic()
        for entry in self._sendable(channel):
            if entry.row.user_id == user_id and entry.row.attempts > 0:
                entry.due_s = now_s

    def _from_s(self, entry: Entry) -> float:
        """Return when the entry may be sent: it is due, and its way is not closed."""
        way_s = self.ways.closed_until_s(entry.row.user_id, entry.row.channel)
        return max(entry.due_s, way_s)

    def _place(self, row: Notification, *, kept: bool) -> None:
        family = self._families.setdefault((row.id, row.user_id), {})
        entry = Entry(row=row, due_s=self._due_s(row), kept=kept)
        family[row.channel] = entry
        if (alert := alert_of(row.notice)) is not None:
            self._alerts[row.user_id, row.channel, alert] = entry

    def _due_s(self, row: Notification) -> float:
        wait_s = (row.next_attempt_at - self._clock.now()).total_seconds()
        return self._clock.monotonic() + min(max(0.0, wait_s), _LONGEST_HOLD_S)

    def _is_news(self, row: Notification) -> bool:
        known = self._known(row.id, row.user_id).get(row.channel)
        revision = self._settled.get(row.key, -1) if known is None else known.row.revision
        return row.revision > revision

    def _note(self, row: Notification) -> None:
        self._changed[row.key] = row
        if not row.pending:
            self._settled[row.key] = row.revision
            self._settled.move_to_end(row.key)
            while len(self._settled) > _REMEMBERED:
                self._settled.popitem(last=False)

    def _forget_if_over(self, notice_id: UUID, user_id: str) -> None:
        family = self._families[notice_id, user_id]
        if any(entry.row.pending for entry in family.values()):
            return
        del self._families[notice_id, user_id]
        for entry in family.values():
            place = (user_id, entry.row.channel, alert_of(entry.row.notice))
            if self._alerts.get(place) is entry:
                del self._alerts[place]
