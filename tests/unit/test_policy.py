"""What a guard decides: episodes, cooldown, worst first, budgets, and never silence."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain import margin
from marginguard.domain.breach import CLOSE_AGAIN_AFTER
from marginguard.domain.decision import Verdict
from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import ActionKind, Side
from marginguard.domain.policy import decide
from marginguard.domain.steps import Plan
from marginguard.domain.units import Percent, PositionId, Sats
from tests.unit.strategies import (
    NOON,
    a_cross_position,
    a_position,
    a_view,
    acted,
    at_level,
    decide_one,
    positions,
    prices,
    some_rules,
)

CLOSE = some_rules(action=ActionKind.CLOSE_POSITION)
ADD = some_rules(action=ActionKind.ADD_MARGIN)
POSITION = a_position()
COOLDOWN = CLOSE.cooldown
SECOND = timedelta(seconds=1)


def after_acting(level, *, rules=CLOSE, refusal=None):
    """Return the memory of a guard that acted at NOON, at `level`."""
    decision, memory = decide_one(at_level(level), rules)
    assert decision.verdict is Verdict.ACT
    return acted(memory, decision, at=NOON, refusal=refusal)


# --- episodes -------------------------------------------------------------------------------


def test_below_the_threshold_nothing_is_done():
    decision, memory = decide_one(at_level(79.9))

    assert decision.verdict is Verdict.SAFE
    assert decision.plan is None
    assert decision.episode is None
    assert memory.episodes == ()


def test_a_healthy_position_is_left_alone():
    decision, _ = decide_one(a_view(POSITION, price=120_000.0))

    assert decision.verdict is Verdict.SAFE
    assert decision.reason == "level 0.0 % is below the threshold 80 %"


@given(positions(), st.integers(1, 99))
def test_at_its_trigger_price_a_position_is_acted_on(position, threshold):
    rules = some_rules(threshold=float(threshold), action=ActionKind.CLOSE_POSITION)
    trigger = margin.trigger_price(position, rules.ladder.lowest)
    if trigger is None:
        return

    decision, _ = decide_one(a_view(position, price=trigger), rules)

    assert decision.verdict is Verdict.ACT
    assert decision.plan == Plan(kind=ActionKind.CLOSE_POSITION, amount=Sats(0))
    assert decision.threshold == threshold
    assert decision.assessment.trigger_price == trigger


def test_an_episode_opens_at_the_threshold_and_stays_until_well_below_it():
    """Failure 23: the price dances around the threshold."""
    decision, memory = decide_one(at_level(80.5))
    opened = decision.episode
    assert opened.opened_at == NOON

    for level in (79, 75.5, 82, 76):
        decision, memory = decide_one(at_level(level), memory=memory, now=NOON + SECOND)
        assert decision.episode == opened

    decision, memory = decide_one(at_level(74.9), memory=memory, now=NOON + SECOND)
    assert decision.episode is None
    assert memory.episodes == ()

    decision, memory = decide_one(at_level(80.5), memory=memory, now=NOON + 2 * SECOND)
    assert decision.episode.id != opened.id


def test_within_an_episode_a_level_below_the_threshold_is_safe():
    _, memory = decide_one(at_level(81))

    decision, _ = decide_one(at_level(78), memory=memory)

    assert decision.verdict is Verdict.SAFE


@pytest.mark.parametrize("threshold", [1.0, 5.0])
def test_a_threshold_within_the_hysteresis_ends_its_episode_at_level_0(threshold):
    rules = some_rules(threshold=threshold, action=ActionKind.CLOSE_POSITION)
    _, memory = decide_one(at_level(6), rules)
    assert memory.episodes

    _, memory = decide_one(at_level(0.5), rules, memory)
    assert memory.episodes
    _, memory = decide_one(a_view(POSITION, price=POSITION.entry_price), rules, memory)
    assert memory.episodes == ()


def test_the_hysteresis_is_the_guards_own():
    rules = some_rules(action=ActionKind.CLOSE_POSITION, hysteresis=Percent(10.0))
    _, memory = decide_one(at_level(81), rules)

    assert decide_one(at_level(70.5), rules, memory)[1].episodes
    assert not decide_one(at_level(69.5), rules, memory)[1].episodes


def test_the_episode_of_a_position_that_no_longer_runs_ends():
    """Failure 11: the position was closed by the user meanwhile."""
    memory = after_acting(85)

    decisions = decide(a_view(price=90_000.0), CLOSE, memory, NOON)

    assert decisions.items == ()
    assert decisions.memory.episodes == ()


# --- cooldown -------------------------------------------------------------------------------


def test_after_an_action_the_cooldown_holds_the_next_one_back():
    memory = after_acting(82)

    during, memory = decide_one(at_level(83), memory=memory, now=NOON + COOLDOWN - SECOND)
    over, _ = decide_one(at_level(83), memory=memory, now=NOON + COOLDOWN)

    assert during.verdict is Verdict.COOLDOWN
    assert during.plan is None
    assert over.verdict is Verdict.ACT


def test_the_cooldown_ends_early_at_95():
    memory = after_acting(94)

    before, _ = decide_one(at_level(94.9), memory=memory, now=NOON + SECOND)
    price = margin.trigger_price(POSITION, Percent(95.0))
    at_95, _ = decide_one(a_view(POSITION, price=price), memory=memory, now=NOON + SECOND)

    assert at_95.assessment.level == 95
    assert before.verdict is Verdict.COOLDOWN
    assert at_95.verdict is Verdict.ACT


def test_the_cooldown_ends_early_5_points_above_the_last_actions_level():
    memory = after_acting(82)
    last = memory.episodes[0].last_action_level

    before, _ = decide_one(at_level(86.9), memory=memory, now=NOON + SECOND)
    above, _ = decide_one(at_level(last + 5), memory=memory, now=NOON + SECOND)

    assert before.verdict is Verdict.COOLDOWN
    assert above.verdict is Verdict.ACT


def test_a_breach_not_yet_acted_on_knows_no_cooldown():
    _, memory = decide_one(at_level(82))

    assert decide_one(at_level(82), memory=memory, now=NOON + SECOND)[0].verdict is Verdict.ACT


@pytest.mark.parametrize("back", [timedelta(minutes=2), timedelta(days=1)])
def test_a_wall_clock_set_back_does_not_lengthen_the_cooldown(back):
    """Failure 8: the wall clock jumps."""
    memory = after_acting(82)

    decision, _ = decide_one(at_level(82), memory=memory, now=NOON - back)

    assert decision.verdict is Verdict.ACT


def test_a_wall_clock_nudged_back_does_not_end_the_cooldown():
    memory = after_acting(82)

    decision, _ = decide_one(at_level(82), memory=memory, now=NOON - SECOND)

    assert decision.verdict is Verdict.COOLDOWN


def test_after_a_refusal_the_position_is_unprotected_until_the_next_try():
    """Failure 7: refused, and not tried again at once; it is never silent."""
    memory = after_acting(82, refusal="the exchange refused: BAD_REQUEST")

    during, memory = decide_one(at_level(82), memory=memory, now=NOON + SECOND)
    over, _ = decide_one(at_level(82), memory=memory, now=NOON + COOLDOWN)

    assert during.verdict is Verdict.UNPROTECTED
    assert "BAD_REQUEST" in during.reason
    assert over.verdict is Verdict.ACT


@given(
    steps=st.lists(
        st.tuples(
            st.one_of(st.floats(0, 120), st.floats(74, 100)),
            st.timedeltas(timedelta(seconds=1), timedelta(seconds=70)),
            st.booleans(),
        ),
        max_size=30,
    ),
    rules=st.sampled_from([CLOSE, ADD]),
)
def test_no_sequence_of_levels_makes_a_rung_act_twice_within_its_cooldown_nor_silent(steps, rules):
    """Failure 23, and rule 6: one action for a breach, but never silence.

    Within an episode two actions are at least a cooldown apart unless the level is 95 or more,
    or 5 points above that at the first. A level at the threshold is never called safe.
    """
    memory, now, last = GuardMemory(), NOON, None
    for level, pause, refused in steps:
        now += pause
        decision, memory = decide_one(at_level(level), rules, memory, now)
        reached = decision.assessment.level
        assert (decision.verdict is Verdict.SAFE) == (reached < rules.ladder.lowest)
        assert (decision.plan is not None) == (decision.verdict is Verdict.ACT)
        if decision.verdict is not Verdict.SAFE:
            assert decision.episode is not None
        if decision.verdict is not Verdict.ACT:
            continue
        if last is not None and last[0] == decision.episode.id:
            _, when, level_then, was_refused = last
            again = CLOSE_AGAIN_AFTER if was_refused and rules is CLOSE else rules.cooldown
            assert now - when >= again or reached >= 95 or reached >= level_then + 5
        last = (decision.episode.id, now, reached, refused)
        memory = acted(memory, decision, at=now, refusal="refused" if refused else None)


# --- which positions, in which order --------------------------------------------------------


def test_the_worst_position_comes_first():
    """Failure 22: worst first."""
    mild = a_position(id=PositionId("a"), margin=Sats(300_000))
    worst = a_position(id=PositionId("b"), margin=Sats(90_000))
    middle = a_position(id=PositionId("c"), margin=Sats(100_000))

    decisions = decide(a_view(mild, worst, middle, price=92_200.0), CLOSE, GuardMemory(), NOON)

    assert [decision.position.id for decision in decisions.items] == ["b", "c", "a"]
    assert [decision.verdict for decision in decisions.items] == [
        Verdict.ACT,
        Verdict.ACT,
        Verdict.SAFE,
    ]


def test_equal_levels_are_ordered_by_id():
    pair = (a_position(id=PositionId("b")), a_position(id=PositionId("a")))

    decisions = decide(a_view(*pair, price=92_000.0), CLOSE, GuardMemory(), NOON)

    assert [decision.position.id for decision in decisions.items] == ["a", "b"]


def test_only_selected_positions_are_decided_on():
    rules = some_rules(selected=frozenset({PositionId("b")}))
    view = a_view(a_position(id=PositionId("a")), a_position(id=PositionId("b")), price=92_000.0)

    decisions = decide(view, rules, GuardMemory(), NOON)

    assert [decision.position.id for decision in decisions.items] == ["b"]


@given(st.lists(positions(), max_size=5), prices)
def test_every_covered_position_gets_exactly_one_decision(held, price):
    decisions = decide(a_view(*held, price=price), CLOSE, GuardMemory(), NOON)

    assert sorted(d.position.id for d in decisions.items) == sorted(p.id for p in held)
    levels = [decision.assessment.level for decision in decisions.items]
    assert levels == sorted(levels, reverse=True)


def test_a_short_that_cannot_be_liquidated_is_safe_until_its_level_says_otherwise():
    short = a_position(side=Side.SHORT, margin=Sats(1_000_000))

    assert decide_one(a_view(short, price=300_000.0))[0].verdict is Verdict.SAFE
    assert decide_one(a_view(short, price=510_000.0))[0].verdict is Verdict.ACT


def test_a_position_without_a_buffer_is_acted_on_even_in_profit():
    eaten = a_cross_position(margin=Sats(1_000))

    decision, _ = decide_one(a_view(eaten, price=110_000.0), ADD)

    assert decision.verdict is Verdict.ACT
    assert decision.plan.amount == 501


# --- adding margin --------------------------------------------------------------------------


def test_margin_is_added_to_reach_the_target_level():
    rules = some_rules(rung={"target_margin_level": Percent(40.0)})

    decision, memory = decide_one(a_view(POSITION, price=92_500.0), rules)

    assert decision.plan == Plan(kind=ActionKind.ADD_MARGIN, amount=Sats(102_705))
    assert decision.reason == "level 81.1 % has reached the threshold 80 %"
    assert memory.spends == ()


def test_a_fixed_amount_takes_the_place_of_the_target():
    rules = some_rules(rung={"add_margin_amount": Sats(7_000)})

    decision, _ = decide_one(a_view(POSITION, price=92_500.0), rules)

    assert decision.plan == Plan(kind=ActionKind.ADD_MARGIN, amount=Sats(7_000))


@pytest.mark.parametrize("rung", [{}, {"add_margin_amount": Sats(7_000)}])
def test_an_addition_is_capped_at_leverage_1(rung):
    """Failure 13: leverage would fall below 1 on an isolated trade: cap."""
    nearly_full = a_position(margin=Sats(998_000))

    decision, _ = decide_one(at_level(90, position=nearly_full), some_rules(rung=rung))

    assert decision.plan == Plan(kind=ActionKind.ADD_MARGIN, amount=Sats(2_000), capped=True)


def test_at_leverage_1_no_margin_can_be_added_and_that_is_said():
    full = a_position(margin=Sats(1_000_000))

    decision, _ = decide_one(at_level(90, position=full), ADD)

    assert decision.verdict is Verdict.UNPROTECTED
    assert "leverage would fall below 1" in decision.reason


def test_a_target_above_the_level_is_named_as_the_reason_to_do_nothing():
    rules = some_rules(threshold=40.0, rung={"target_margin_level": Percent(50.0)})

    decision, _ = decide_one(at_level(45), rules)

    assert decision.verdict is Verdict.UNPROTECTED
    assert "target_margin_level 50 %" in decision.reason


@given(positions(min_buffer=-1_000), prices, st.integers(1, 99), st.integers(1, 99))
def test_a_planned_addition_brings_the_level_to_the_target(position, price, threshold, target):
    rules = some_rules(
        threshold=float(threshold), rung={"target_margin_level": Percent(float(target))}
    )

    decision, _ = decide_one(a_view(position, price=price, balance=10**15), rules)

    if decision.verdict is Verdict.ACT and not decision.plan.capped:
        after = a_position(
            mode=position.mode,
            side=position.side,
            quantity=position.quantity,
            entry_price=position.entry_price,
            margin=Sats(position.margin + decision.plan.amount),
            maintenance_margin=position.maintenance_margin,
        )
        assert margin.margin_level(after, price) <= target


# --- the day, and words ---------------------------------------------------------------------


def test_the_first_look_takes_the_days_opening_balance():
    _, memory = decide_one(at_level(10, balance=5_000))
    _, memory = decide_one(at_level(10, balance=9), memory=memory, now=NOON + SECOND)

    assert memory.opening.balance == 5_000
    assert memory.opening.day == NOON.date()


def test_a_level_is_never_shown_on_the_wrong_side_of_the_threshold():
    just_below = some_rules(threshold=81.09, action=ActionKind.CLOSE_POSITION)
    reached = some_rules(threshold=81.05, action=ActionKind.CLOSE_POSITION)
    view = a_view(POSITION, price=92_500.0)

    reason = decide_one(view, just_below)[0].reason
    assert reason == "level 81.082 % is below the threshold 81.09 %"
    assert "level 81.1 % has reached the threshold 81.05 %" in decide_one(view, reached)[0].reason
