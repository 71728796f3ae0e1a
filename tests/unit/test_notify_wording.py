"""Numbers, times and lines of text as people read them."""

from datetime import UTC, datetime

import pytest

from marginguard.domain.errors import ConfigError
from marginguard.notify import wording


def test_a_time_is_written_in_the_readers_zone():
    at = datetime(2026, 3, 14, 12, 0, 5, tzinfo=UTC)

    assert wording.local_time(at, wording.zone("Europe/Madrid")) == "2026-03-14 13:00:05 CET"
    assert wording.local_time(at, wording.zone("UTC")) == "2026-03-14 12:00:05 UTC"


@pytest.mark.parametrize("name", ["Europe/Madird", "", "../etc/passwd", "/etc/passwd", "Europe"])
def test_a_zone_that_does_not_exist_is_refused_with_an_example(name):
    with pytest.raises(ConfigError, match="Europe/Madrid"):
        wording.zone(name)


def test_sats_are_told_in_usd_too_where_the_price_is_known():
    assert wording.sats(7_000, 61_000.5) == "7,000 sats (4.27 USD)"
    assert wording.sats(-7_000) == "-7,000 sats"


@pytest.mark.parametrize(
    ("value", "words"),
    [(81.5, "81.5 %"), (81.51, "81.6 %"), (80.0, "80.0 %"), (0.1 + 0.2, "0.3 %")],
)
def test_a_margin_level_is_never_told_lower_than_it_is(value, words):
    assert wording.margin_level(value) == words


def test_one_line_has_no_line_breaks_or_control_characters():
    assert wording.one_line("a\r\nb\x00\tc\x1b[31m  d") == "a b c [31m d"


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("😀😀", 4, "😀😀"), ("😀😀", 3, "😀…")],
)
def test_text_is_cut_between_characters(text, limit, expected):
    assert wording.shortened(text, limit) == expected
