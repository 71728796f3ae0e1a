"""A rise of the risk is told once for each level, and again only after a fall that counts."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain.margin import risk_level
from marginguard.domain.model import RiskLevel
from marginguard.domain.rising import risen

BOUNDS = {"low": 70, "medium": 80, "high": 90, "critical": 95}
LEVELS = st.lists(st.floats(0, 120), min_size=1, max_size=40)
ORDER = list(RiskLevel)


def told(*levels):
    """Return what is told of a position that has these margin levels one after another."""
    mark, said = None, []
    for level in levels:
        mark, has_risen = risen(mark, level)
        said.append(risk_level(level).value if has_risen else None)
    return said


def test_each_level_is_told_once_on_the_way_up():
    assert told(0, 70, 75, 80, 90, 95, 99) == [
        None,
        "low",
        None,
        "medium",
        "high",
        "critical",
        None,
    ]


def test_a_fall_is_not_told():
    assert told(0, 96, 92, 85, 75, 10)[2:] == [None] * 4


def test_a_jump_over_several_levels_is_told_as_the_highest_alone():
    assert told(0, 96) == [None, "critical"]


@pytest.mark.parametrize(("level", "said"), [(79.9, None), (80, "medium"), (96, "critical")])
def test_the_first_sight_is_news_from_medium_on(level, said):
    assert told(level) == [said]


def test_a_level_that_wobbles_around_a_bound_is_told_once():
    assert told(0, 70, 69, 71, 65, 70) == [None, "low", None, None, None, None]


@pytest.mark.parametrize(("risk", "bound"), BOUNDS.items())
def test_a_level_is_told_again_once_it_was_five_points_below_its_bound(risk, bound):
    assert told(0, bound, bound - 5, bound)[3] is None
    assert told(0, bound, bound - 5.1, bound)[3] == risk


@given(LEVELS)
def test_nothing_is_told_twice_without_a_fall_between(levels):
    said = told(*levels)
    for risk, bound in BOUNDS.items():
        times = [i for i, one in enumerate(said) if one == risk]
        for first, second in pairwise(times):
            assert min(levels[first:second]) < bound - 5


@given(LEVELS)
def test_no_rise_is_missed(levels):
    """Whoever is at a level above safe was told of it, or of a higher one not left since."""
    said = told(0, *levels)[1:]
    for at, level in enumerate(levels):
        risk = risk_level(level)
        if risk is RiskLevel.SAFE:
            continue
        heard = [
            since
            for since, one in enumerate(said[: at + 1])
            if one is not None and ORDER.index(RiskLevel(one)) >= ORDER.index(risk)
        ]
        assert heard
        assert min(levels[heard[-1] : at + 1]) >= BOUNDS[risk.value] - 5
