"""What a user wants to be told of, where, how often, and when not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from marginguard.domain.notice import Event

CHANNELS: Final = ("telegram", "email", "webhook", "sms")
"""Every channel there is, in the order in which they are tried unless the user says otherwise."""

_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuietHours:
    """Every day from `start` to `end` (past midnight where `end` is not later) in a time zone."""

    start: time
    end: time
    timezone: ZoneInfo

    def end_after(self, now: datetime) -> datetime | None:
        """Return when the quiet hours in which `now` lies are over; None if it is in none."""
        local = now.astimezone(self.timezone)
        for day in (local.date() - _DAY, local.date()):
            end_day = day if self.start < self.end else day + _DAY
            # As instants: on the day on which the clocks change, wall-clock times mislead.
            start = datetime.combine(day, self.start, self.timezone).astimezone(UTC)
            end = datetime.combine(end_day, self.end, self.timezone).astimezone(UTC)
            if start <= now < end:
                return end
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Preferences:
    """A user's wishes. Critical notices pass over all of them but the order of the channels.

    `channels` are those that may be used at all, the first choice first. `events` says what a
    channel is used for at once; a channel that is not in it is used for everything, and one with
    none only when another fails. The limits are for each channel on its own.
    """

    channels: Sequence[str] = CHANNELS
    events: Mapping[str, frozenset[Event]] = field(default_factory=dict)
    quiet_hours: QuietHours | None = None
    max_per_hour: int | None = None
    max_per_day: int | None = None

    def wants(self, event: Event, channel: str) -> bool:
        """Return whether the channel is used for such an event at once."""
        events = self.events.get(channel)
        return events is None or event in events

    def held_until(self, now: datetime, delivered: Sequence[datetime]) -> datetime | None:
        """Return until when a message that is not critical waits; None: it may go now.

        `delivered` are the times of what the channel brought the user, the oldest first.
        """
        free_at = max(
            now,
            _free_at(now, delivered, self.max_per_hour, _HOUR),
            _free_at(now, delivered, self.max_per_day, _DAY),
        )
        if self.quiet_hours is not None and (end := self.quiet_hours.end_after(free_at)):
            free_at = end
        return free_at if free_at > now else None


def _free_at(
    now: datetime, delivered: Sequence[datetime], limit: int | None, span: timedelta
) -> datetime:
    """Return when one more would not be more than `limit` within `span`."""
    if limit is None or len(delivered) < limit:
        return now
    return delivered[-limit] + span
