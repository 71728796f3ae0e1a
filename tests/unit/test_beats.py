"""The grid of beats, and how guards are spread over it."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from marginguard.engine.beats import next_beat_s, phase_s

intervals_s = st.floats(min_value=0.1, max_value=86_400)


@given(st.text(min_size=1), intervals_s)
def test_a_phase_lies_within_the_interval(guard_id, interval_s):
    assert 0 <= phase_s(guard_id, interval_s) < interval_s


def test_a_phase_is_the_same_after_a_restart():
    """Python's own hash is salted anew in every process: this one must never change."""
    assert round(phase_s("guard-1", 30.0), 3) == 20.754
    assert round(phase_s("guard-2", 30.0), 3) == 9.074


def test_guards_are_spread_over_the_interval():
    tenths = Counter(int(phase_s(f"guard-{number}", 10.0)) for number in range(1000))
    assert set(tenths) == set(range(10))
    assert all(70 <= guards <= 130 for guards in tenths.values())


@given(
    st.floats(min_value=0, max_value=1e7),
    intervals_s,
    st.floats(min_value=0, max_value=1e7),
)
def test_the_next_beat_is_the_first_one_after_now(origin_s, interval_s, later_s):
    after_s = origin_s + later_s
    beat_s = next_beat_s(after_s, origin_s=origin_s, interval_s=interval_s)
    assert after_s < beat_s <= after_s + interval_s * (1 + 1e-6)


@given(st.floats(min_value=0, max_value=1e6), intervals_s)
def test_beats_follow_one_another_without_drift_and_none_comes_twice(origin_s, interval_s):
    beat_s = origin_s
    for number in range(1, 200):
        beat_s = next_beat_s(beat_s, origin_s=origin_s, interval_s=interval_s)
        assert beat_s == origin_s + number * interval_s


def test_the_grid_reaches_back_before_its_origin():
    assert next_beat_s(-1.0, origin_s=20.0, interval_s=30.0) == 20.0
    assert next_beat_s(-11.0, origin_s=20.0, interval_s=30.0) == -10.0
