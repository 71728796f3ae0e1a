"""Which positions a guard looks after when its plan allows fewer than there are."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain.coverage import covered_by
from marginguard.domain.memory import GuardMemory, open_episode
from marginguard.domain.model import ActionKind
from marginguard.domain.units import GuardId, Percent, PositionId, Sats
from tests.unit.strategies import NOON, a_position, some_rules

MILD = a_position(id=PositionId("mild"), margin=Sats(300_000))
WORSE = a_position(id=PositionId("worse"), margin=Sats(100_000))
WORST = a_position(id=PositionId("worst"), margin=Sats(90_000))
PRICE = 93_000.0


def ids(positions):
    return [one.id for one in positions]


def test_without_a_limit_every_selected_position_is_covered():
    rules = some_rules(selected=frozenset({"mild", "worst"}))

    assert ids(covered_by(rules, GuardMemory(), (MILD, WORSE, WORST), PRICE)) == ["mild", "worst"]


def test_the_riskiest_within_the_plan_are_covered_in_the_order_given():
    rules = some_rules(max_positions=2)

    assert ids(covered_by(rules, GuardMemory(), (MILD, WORST, WORSE), PRICE)) == ["worst", "worse"]


def test_a_position_whose_breach_is_being_answered_stays_covered():
    episode = open_episode(GuardId("guard-1"), MILD.id, Percent(80.0), NOON)
    memory = GuardMemory(episodes=(episode,)).acted(
        episode.id, kind=ActionKind.ADD_MARGIN, at=NOON, level=Percent(81.0)
    )

    assert ids(covered_by(some_rules(max_positions=1), memory, (MILD, WORST), PRICE)) == ["mild"]


@given(st.integers(1, 6), st.lists(st.integers(50_000, 900_000), max_size=6))
def test_no_more_are_covered_than_the_plan_allows_and_none_is_left_out_below_it(limit, margins):
    held = [
        replace(MILD, id=PositionId(str(i)), margin=Sats(margin))
        for i, margin in enumerate(margins)
    ]

    found = covered_by(some_rules(max_positions=limit), GuardMemory(), held, PRICE)

    assert len(found) == min(limit, len(held))
