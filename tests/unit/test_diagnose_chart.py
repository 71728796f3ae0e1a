"""The chart of a margin level: in characters, as SVG and as PNG."""

import xml.etree.ElementTree as ET
from datetime import timedelta
from io import BytesIO

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from marginguard.diagnose.chart import GAP, chart
from marginguard.diagnose.chart_files import HEIGHT, WIDTH, png, svg
from marginguard.diagnose.chart_text import FAILED, LEVEL, WORKED, draw
from marginguard.domain.history import LevelSample
from marginguard.domain.model import ActionKind
from marginguard.domain.records import ActionStatus
from tests.records import NOON, a_stop_loss, an_action, settled

SVG = "{http://www.w3.org/2000/svg}"


def samples(*levels, every=timedelta(minutes=1)):
    return [
        LevelSample(
            position_id="trade-1",
            guard_id="guard-1",
            seen_at=NOON + index * every,
            price=93_000.5,
            margin=100_000,
            pl=-1,
            level=level,
        )
        for index, level in enumerate(levels)
    ]


def an_end(status=ActionStatus.DONE, **changes):
    return settled(an_action(intended_at=NOON + timedelta(minutes=1), **changes), status=status)


LEVELS = st.lists(st.floats(0, 400, allow_nan=False), min_size=1, max_size=50)


@given(LEVELS, st.integers(1, 200), st.integers(2, 40))
def test_any_levels_fit_into_any_terminal(levels, width, height):
    drawn = draw(chart("t", samples(*levels), [], thresholds=(60.0,)), width=width, height=height)
    lines = drawn.splitlines()
    assert len(lines) == height + 2
    assert max(map(len, lines)) <= max(width, 16)
    assert LEVEL in drawn


@given(LEVELS)
def test_any_levels_make_a_picture_within_its_frame(levels):
    root = ET.fromstring(svg(chart("t", samples(*levels), [an_end()])))
    for line in root.iter(f"{SVG}polyline"):
        for place in line.get("points").split():
            x, y = map(float, place.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


def test_the_highest_level_is_drawn_highest():
    lines = draw(chart("t", samples(0, 0, 100, 0, 0), []), width=40, height=11).splitlines()
    assert lines[0].startswith(" 100 |")
    assert lines[0].count(LEVEL) == 1
    assert lines[10].count(LEVEL) >= 2


def test_a_short_peak_is_not_lost_among_many_samples_of_a_column():
    levels = [5.0] * 100
    levels[53] = 100.0
    assert LEVEL in draw(chart("t", samples(*levels), []), width=16, height=11).splitlines()[0]


def test_time_in_which_nobody_looked_is_left_empty():
    one, two = samples(50.0, 50.0, every=GAP), samples(50.0, 50.0, every=GAP + timedelta(seconds=1))
    assert len(chart("t", one, []).lines) == 1
    apart = chart("t", two, [])
    assert [len(piece) for piece in apart.lines] == [1, 1]
    assert draw(apart, width=60).count(LEVEL) == 2


def test_thresholds_come_from_the_configuration_and_from_what_was_done():
    found = chart("t", samples(1, 2, 3), [an_end(threshold=80.0)], thresholds=(95.0, 80.0))
    assert found.thresholds == [80.0, 95.0]
    drawn = draw(found, width=40)
    assert "  80 |-" in drawn
    assert "  95 |-" in drawn


def test_actions_are_marked_by_whether_they_worked():
    worked = chart("t", samples(1, 2, 3), [an_end()])
    assert WORKED in draw(worked, width=40)
    assert worked.marks[0].text == "add 25,000 sats: done"
    refused = chart("t", samples(1, 2, 3), [an_end(ActionStatus.REJECTED)])
    assert FAILED in draw(refused, width=40)
    assert WORKED not in draw(refused, width=40)


def test_stop_losses_and_what_lies_outside_are_not_marked():
    early = an_action(intended_at=NOON - timedelta(hours=1))
    moved = a_stop_loss(intended_at=NOON + timedelta(minutes=1))
    assert chart("t", samples(1, 2, 3), [early, moved]).marks == []


def test_an_action_after_the_last_sample_is_still_drawn():
    closing = an_end(kind=ActionKind.CLOSE_POSITION)
    found = chart("t", samples(15.3), [closing])
    assert (found.start, found.end) == (NOON, closing.intended_at)
    assert draw(found, width=40).count(WORKED) == 1


def test_words_from_outside_do_not_break_the_picture():
    closing = an_end(kind=ActionKind.CLOSE_POSITION)
    root = ET.fromstring(svg(chart("<a> & 'b'", samples(1, 2, 3), [closing])))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "<a> & 'b'" in texts
    assert "close position: done" in texts
    assert "threshold 80 %" in texts


def test_the_png_is_a_picture_of_the_same_size_with_the_line_in_it():
    image = Image.open(BytesIO(png(chart("t", samples(10, 90, 10), [an_end()]))))
    assert image.size == (WIDTH, HEIGHT)
    colours = {colour for _, colour in image.getcolors(maxcolors=100_000)}
    assert {(0x1F, 0x5F, 0xBF), (0x2E, 0x7D, 0x32), (0xC6, 0x28, 0x28)} <= colours


def test_a_single_sample_is_drawn():
    only = chart("t", samples(40.0), [])
    assert draw(only, width=40).count(LEVEL) == 1
    assert png(only).startswith(b"\x89PNG")


def test_the_times_span_the_chart():
    ticks = chart("t", samples(*range(31)), []).ticks(4)
    assert [text for _, text in ticks] == ["12:00", "12:10", "12:20", "12:30"]
    assert (ticks[0][0], ticks[-1][0]) == (0, 1)
    days = chart("t", samples(1, 2, every=timedelta(days=2)), [])
    assert days.ticks(2)[1][1] == "03-16 12:00"
