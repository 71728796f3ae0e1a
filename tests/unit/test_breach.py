"""How a position stands against its ladder, and how long a breach lasts."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain import margin
from marginguard.domain.breach import (
    Standing,
    covers,
    episodes_of,
    held_back,
    levels_of,
    standings_of,
    still_holds,
)
from marginguard.domain.memory import GuardMemory, Setback, open_episode
from marginguard.domain.model import ActionKind
from marginguard.domain.rules import ProtectionMode
from marginguard.domain.units import GuardId, Percent, PositionId, Sats
from tests.unit.strategies import (
    NOON,
    a_ladder,
    a_quote,
    a_rung,
    positions,
    prices,
    some_rules,
)

ADD, CLOSE = ActionKind.ADD_MARGIN, ActionKind.CLOSE_POSITION
ONE = PositionId("one")
LADDER = a_ladder(a_rung(80, ADD), a_rung(90, ADD), backstop=Percent(95.0))
RULES = replace(some_rules(), ladder=LADDER)
COOLDOWN = RULES.cooldown
SECOND = timedelta(seconds=1)


def standing(level, *, own=None, lasting=None):
    return Standing(
        level=Percent(level),
        own=Percent(level if own is None else own),
        lasting=Percent(level if lasting is None else lasting),
    )


def thresholds(rungs):
    return [rung.threshold for rung in rungs]


@pytest.mark.parametrize(
    ("level", "own", "reached"),
    [
        (79.9, 79.9, []),
        (80, 80, [80]),
        (94.9, 94.9, [80, 90]),
        (95, 95, [80, 90, 95]),
        (97, 60, [80, 90]),
        (40, 96, [95]),
        (40, 94, []),
    ],
)
def test_the_rungs_are_held_against_the_level_and_the_backstop_against_its_own(level, own, reached):
    assert thresholds(standing(level, own=own).reached(LADDER)) == reached


@given(
    st.lists(positions(), min_size=1, max_size=5, unique_by=lambda p: p.id),
    prices,
    st.sampled_from(ProtectionMode),
)
def test_what_is_held_against_the_rungs_by_mode(held, price, mode):
    rules = some_rules(mode=mode)
    together = margin.portfolio_level(held, price)

    standings = standings_of(held, a_quote(price), rules)

    for position in held:
        own = margin.margin_level(position, price)
        expected = {
            ProtectionMode.UNITARIO: own,
            ProtectionMode.TOTAL: together,
            ProtectionMode.BOTH: max(own, together),
        }[mode]
        found = standings[position.id]
        assert (found.own, found.lasting) == (own, expected)
        assert found.level == (expected if own > 0 else 0)
    assert levels_of(held, a_quote(price), rules) == {
        id_: one.level for id_, one in standings.items()
    }


def test_an_episode_opens_at_every_rung_reached_and_ends_with_its_own_hysteresis():
    def after(memory, **how):
        kept = episodes_of({ONE: standing(**how)}, RULES, memory, NOON)
        return replace(GuardMemory(), episodes=tuple(kept.values()))

    memory = after(GuardMemory(), level=96)
    assert sorted(e.threshold for e in memory.episodes) == [80, 90, 95]
    memory = after(memory, level=85)
    assert sorted(e.threshold for e in memory.episodes) == [80, 90]
    memory = after(memory, level=84.9)
    assert [e.threshold for e in memory.episodes] == [80]
    assert after(memory, level=0, lasting=75).episodes == memory.episodes
    assert after(memory, level=0, lasting=0).episodes == ()
    assert after(memory, level=99, own=0, lasting=99).episodes[0] == memory.episodes[0]


def test_an_episode_of_a_position_that_was_not_looked_at_goes_on():
    episode = open_episode(GuardId("guard-1"), ONE, Percent(80.0), NOON)
    memory = replace(GuardMemory(), episodes=(episode,))

    assert episodes_of({}, RULES, memory, NOON) == {(ONE, 80.0): episode}


def test_a_rung_that_is_no_longer_configured_has_no_episode():
    episode = open_episode(GuardId("guard-1"), ONE, Percent(70.0), NOON)
    memory = replace(GuardMemory(), episodes=(episode,))

    assert (ONE, 70.0) not in episodes_of({ONE: standing(99)}, RULES, memory, NOON)


def test_a_guard_covers_what_it_selects_and_what_came_of_it():
    rules = some_rules(selected=frozenset({ONE}))
    memory = GuardMemory().followed(ONE, PositionId("two"), margin=Sats(9), at=NOON)

    assert covers(rules, memory, ONE)
    assert covers(rules, memory, PositionId("two"))
    assert not covers(rules, memory, PositionId("three"))
    assert covers(some_rules(), GuardMemory(), PositionId("three"))


def an_episode(kind, level):
    episode = open_episode(GuardId("guard-1"), ONE, Percent(80.0), NOON)
    return replace(
        episode, last_action_at=NOON, last_action_level=Percent(level), last_action_kind=kind
    )


@given(st.floats(80, 130), st.floats(80, 130), st.integers(-90, 90))
def test_a_cooldown_holds_within_its_time_below_95_and_5_points(last, level, seconds):
    held = held_back(an_episode(ADD, last), Percent(level), COOLDOWN, NOON + seconds * SECOND)

    holds = abs(seconds) < 60 and level < 95 and level < last + 5
    assert (held is not None) == holds


def test_what_was_not_acted_on_is_not_held_back():
    episode = open_episode(GuardId("guard-1"), ONE, Percent(80.0), NOON)

    assert held_back(episode, Percent(80.0), COOLDOWN, NOON) is None


@given(st.sampled_from([ADD, CLOSE]), st.floats(80, 99), st.floats(80, 99), st.integers(-90, 90))
def test_a_refusal_holds_for_the_cooldown_and_of_a_close_for_5_seconds(kind, at, level, seconds):
    setback = Setback(kind=kind, at=NOON, level=Percent(at), reason="refused")

    holds = still_holds(setback, Percent(level), RULES, NOON + seconds * SECOND)

    wait = 5 if kind is CLOSE else 60
    assert holds == (abs(seconds) < wait and level < 95 and level < at + 5)


def test_a_cooldown_shorter_than_5_seconds_counts_for_a_refused_close_too():
    rules = replace(RULES, cooldown=2 * SECOND)
    setback = Setback(kind=CLOSE, at=NOON, level=Percent(80.0), reason="refused")

    assert still_holds(setback, Percent(80.0), rules, NOON + SECOND)
    assert not still_holds(setback, Percent(80.0), rules, NOON + 2 * SECOND)


def test_no_position_at_all_stands_nowhere():
    for mode in ProtectionMode:
        assert standings_of([], a_quote(90_000.0), some_rules(mode=mode)) == {}
