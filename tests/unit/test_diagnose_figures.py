"""Durations in short, errors by how often, and what happened when."""

import math
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from marginguard.diagnose.figures import (
    BARS,
    NONE_BAR,
    common_errors,
    pattern,
    sparkline,
    success_rate,
    timing,
)
from tests.records import NOON

DAY = timedelta(days=1)
SECONDS = st.lists(st.floats(min_value=0, max_value=1e6, allow_nan=False), min_size=1)


def test_no_durations_have_no_figures():
    assert timing([]) is None


@given(SECONDS)
def test_the_average_and_the_percentile_lie_between_the_extremes(seconds):
    taken = timing(seconds)
    assert taken.count == len(seconds)
    assert (taken.fastest_s, taken.slowest_s) == (min(seconds), max(seconds))
    assert taken.fastest_s <= taken.average_s <= taken.slowest_s
    assert taken.p99_s in seconds


@given(SECONDS)
def test_no_more_than_a_hundredth_took_longer_than_the_percentile(seconds):
    longer = sum(one > timing(seconds).p99_s for one in seconds)
    assert longer * 100 <= len(seconds)


def test_the_percentile_leaves_out_the_slowest_of_a_hundred():
    taken = timing([*range(1, 100), 1000.0])
    assert (taken.p99_s, taken.slowest_s) == (99, 1000.0)
    assert timing([1.0, 9.0]).p99_s == 9.0


def test_the_commonest_errors_come_first_and_one_without_words_counts():
    errors = ["b", None, "a", "b", "c", "a", "b"]
    found = common_errors(errors, limit=3)
    assert [(one.error, one.count) for one in found] == [
        ("b", 3),
        ("a", 2),
        ("c", 1),
    ]
    assert common_errors([None])[0].count == 1


@given(
    st.lists(
        st.tuples(
            st.timedeltas(timedelta(hours=-2), timedelta(hours=26)),
            st.sampled_from([True, False, None]),
        )
    ),
    st.integers(1, 48),
)
def test_each_success_and_failure_is_in_one_slice_of_the_time(events, slices):
    parts = pattern(
        ((NOON + at, ended) for at, ended in events), since=NOON, until=NOON + DAY, slices=slices
    )
    assert len(parts) == slices
    assert sum(part.succeeded for part in parts) == sum(ended is True for _, ended in events)
    assert sum(part.failed for part in parts) == sum(ended is False for _, ended in events)
    assert parts[0].start == NOON


def test_what_happened_stands_in_its_own_hour():
    events = [(NOON + timedelta(hours=5, minutes=59), True), (NOON + timedelta(hours=6), False)]
    parts = pattern(events, since=NOON, until=NOON + DAY, slices=24)
    assert [(i, p.succeeded, p.failed) for i, p in enumerate(parts) if p.succeeded + p.failed] == [
        (5, 1, 0),
        (6, 0, 1),
    ]
    assert parts[6].start == NOON + timedelta(hours=6)


@given(st.lists(st.integers(0, 10**9)))
def test_a_sparkline_has_a_character_for_each_count_and_shows_which_is_higher(counts):
    line = sparkline(counts)
    heights = [-1 if bar == NONE_BAR else BARS.index(bar) for bar in line]
    assert len(heights) == len(counts)
    for count, height in zip(counts, heights, strict=True):
        assert (height == -1) == (count == 0)
    assert [height for _, height in sorted(zip(counts, heights, strict=True))] == sorted(heights)
    if any(counts):
        assert heights[counts.index(max(counts))] == len(BARS) - 1


def test_the_share_of_nothing_is_unknown():
    assert success_rate(0, 0) is None
    assert math.isclose(success_rate(2, 1), 2 / 3)
