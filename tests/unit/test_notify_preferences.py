"""Limits and quiet hours: until when a message waits."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from marginguard.domain.notice import Event
from marginguard.notify.preferences import Preferences, QuietHours

MADRID = ZoneInfo("Europe/Madrid")
NIGHT = QuietHours(start=time(22), end=time(7), timezone=MADRID)
NAP = QuietHours(start=time(14), end=time(16), timezone=MADRID)


def madrid(*moment):
    return datetime(*moment, tzinfo=MADRID).astimezone(UTC)


@pytest.mark.parametrize(
    ("quiet", "now", "end"),
    [
        (NIGHT, madrid(2026, 3, 14, 21, 59), None),
        (NIGHT, madrid(2026, 3, 14, 22, 0), madrid(2026, 3, 15, 7, 0)),
        (NIGHT, madrid(2026, 3, 15, 3, 0), madrid(2026, 3, 15, 7, 0)),
        (NIGHT, madrid(2026, 3, 15, 7, 0), None),
        (NAP, madrid(2026, 3, 14, 13, 59), None),
        (NAP, madrid(2026, 3, 14, 14, 0), madrid(2026, 3, 14, 16, 0)),
        (NAP, madrid(2026, 3, 14, 16, 0), None),
    ],
)
def test_quiet_hours_are_by_the_users_clock_and_may_pass_midnight(quiet, now, end):
    assert quiet.end_after(now) == end


def test_quiet_hours_end_at_the_users_wall_clock_when_the_clocks_change():
    # In the night of 29 March 2026 Madrid goes from CET (+1) to CEST (+2).
    late = datetime(2026, 3, 28, 23, 0, tzinfo=UTC)
    assert NIGHT.end_after(late) == datetime(2026, 3, 29, 5, 0, tzinfo=UTC)
    # In the night of 25 October it goes back: one hour more of quiet.
    late = datetime(2026, 10, 24, 23, 0, tzinfo=UTC)
    assert NIGHT.end_after(late) == datetime(2026, 10, 25, 6, 0, tzinfo=UTC)


def test_quiet_hours_within_the_hour_that_does_not_exist_hold_nothing_for_ever():
    gap = QuietHours(start=time(2, 0), end=time(2, 30), timezone=MADRID)
    now = datetime(2026, 3, 29, 1, 15, tzinfo=UTC)
    end = gap.end_after(now)
    assert end is None or now < end < now + timedelta(hours=1)


def test_without_wishes_nothing_waits():
    now = madrid(2026, 3, 14, 3, 0)
    assert Preferences().held_until(now, [now] * 1000) is None


@pytest.mark.parametrize(
    ("ages_min", "wait_min"),
    [([], None), ([10], None), ([50, 10], 10), ([61, 10], None), ([59, 58, 10], 2)],
)
def test_the_hourly_limit_counts_any_sixty_minutes(ages_min, wait_min):
    now = madrid(2026, 3, 14, 12, 0)
    delivered = [now - timedelta(minutes=age) for age in ages_min]
    wait = None if wait_min is None else now + timedelta(minutes=wait_min)
    assert Preferences(max_per_hour=2).held_until(now, delivered) == wait


def test_the_daily_limit_counts_any_day():
    now = madrid(2026, 3, 14, 12, 0)
    delivered = [now - timedelta(hours=age) for age in (23, 5)]
    wishes = Preferences(max_per_hour=10, max_per_day=2)
    assert wishes.held_until(now, delivered) == now + timedelta(hours=1)


def test_what_a_limit_lets_go_within_quiet_hours_waits_for_their_end():
    now = madrid(2026, 3, 14, 21, 50)
    wishes = Preferences(max_per_hour=1, quiet_hours=NIGHT)
    held = wishes.held_until(now, [now - timedelta(minutes=30)])
    assert held == madrid(2026, 3, 15, 7, 0)


def test_a_channel_that_is_not_spoken_of_is_wanted_for_everything():
    wishes = Preferences(events={"sms": frozenset({Event.THRESHOLD_ALERT})})
    assert wishes.wants(Event.DAEMON, "email")
    assert wishes.wants(Event.THRESHOLD_ALERT, "sms")
    assert not wishes.wants(Event.DAEMON, "sms")
