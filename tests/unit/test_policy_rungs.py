"""Which rung acts, which of its steps, and what happens when nothing works: never silence."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain import margin
from marginguard.domain.decision import Verdict
from marginguard.domain.memory import GuardMemory, Lineage
from marginguard.domain.model import ActionKind, MarginMode
from marginguard.domain.policy import calls_for_a_look
from marginguard.domain.units import Percent, PositionId, Sats
from tests.unit.strategies import (
    NOON,
    a_cross_position,
    a_ladder,
    a_pending,
    a_position,
    a_quote,
    a_rung,
    acted,
    at_level,
    decide_one,
    price_at,
    some_rules,
)

CLOSE = ActionKind.CLOSE_POSITION
REDUCE = ActionKind.REDUCE_POSITION
ADD = ActionKind.ADD_MARGIN
WIDEN = ActionKind.INCREASE_LIQUIDATION_DISTANCE
SPENDING = [ADD, WIDEN]

POSITION = a_position()
SECOND = timedelta(seconds=1)
WIDER = {"new_liquidation_distance": Percent(9.0)}
TOP = a_rung(90, CLOSE)
TWO_RUNGS = some_rules(action=ADD, escalation=(TOP,))
CROSS_CUT = some_rules(action=REDUCE, escalation=(TOP,))


def kind_of(decision):
    return None if decision.plan is None else decision.plan.kind


# --- rungs ----------------------------------------------------------------------------------


def test_the_highest_rung_reached_acts():
    for level, threshold, kind in [(82, 80, ADD), (89.9, 80, ADD), (91, 90, CLOSE)]:
        decision, _ = decide_one(at_level(level), TWO_RUNGS)

        assert (decision.threshold, kind_of(decision)) == (threshold, kind)
        assert decision.episode.threshold == threshold


@given(
    st.lists(st.integers(10, 95), min_size=1, max_size=5, unique=True).map(sorted),
    st.floats(0, 130),
)
def test_whatever_the_ladder_the_highest_rung_reached_acts(thresholds, level):
    first, *above = thresholds
    rules = some_rules(
        threshold=float(first),
        action=CLOSE,
        escalation=tuple(a_rung(float(one), CLOSE) for one in above),
    )

    decision, memory = decide_one(at_level(level), rules)

    reached = [one for one in thresholds if decision.level >= one]
    assert decision.threshold == (reached[-1] if reached else first)
    assert (decision.verdict is Verdict.ACT) == bool(reached)
    assert sorted(e.threshold for e in memory.episodes) == reached


def test_a_rung_knows_no_cooldown_of_the_rung_below_it():
    decision, memory = decide_one(at_level(88), TWO_RUNGS)
    memory = acted(memory, decision, at=NOON)

    same, memory = decide_one(at_level(89), TWO_RUNGS, memory, NOON + SECOND)
    above, _ = decide_one(at_level(91), TWO_RUNGS, memory, NOON + SECOND)

    assert same.verdict is Verdict.COOLDOWN
    assert kind_of(above) is CLOSE


def test_back_below_a_rung_the_one_beneath_has_its_own_episode():
    decision, memory = decide_one(at_level(92), TWO_RUNGS)
    memory = acted(memory, decision, at=NOON, refusal="BAD_REQUEST")

    below, memory = decide_one(at_level(88), TWO_RUNGS, memory, NOON + SECOND)
    memory = acted(memory, below, at=NOON + SECOND)
    again, _ = decide_one(at_level(88), TWO_RUNGS, memory, NOON + 2 * SECOND)

    assert (below.threshold, kind_of(below)) == (80, ADD)
    assert again.verdict is Verdict.COOLDOWN


def test_the_cooldown_of_a_rung_outlasts_a_dip_within_the_hysteresis():
    """Failure 23: the level dances around the upper rung."""
    decision, memory = decide_one(at_level(91), TWO_RUNGS)
    memory = acted(memory, decision, at=NOON)
    _, memory = decide_one(at_level(86), TWO_RUNGS, memory, NOON + SECOND)

    decision, _ = decide_one(at_level(91), TWO_RUNGS, memory, NOON + 2 * SECOND)

    assert decision.verdict is Verdict.COOLDOWN


def test_at_the_backstop_the_position_is_closed():
    rules = some_rules(action=ADD, escalation=(a_rung(88, REDUCE),), backstop=Percent(93.0))

    decision, _ = decide_one(at_level(93.1), rules)

    assert (decision.threshold, kind_of(decision)) == (93, CLOSE)


def test_the_cross_position_has_no_backstop():
    rules = some_rules(action=ADD, backstop=Percent(93.0))

    decision, _ = decide_one(at_level(94, position=a_cross_position()), rules)

    assert (decision.threshold, kind_of(decision)) == (80, ADD)


# --- reductions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "again"), [(81, 86), (89, 94), (92, 96), (98, 99), (100, 100), (120, 100)]
)
def test_after_a_reduction_the_rung_waits_for_5_points_more_or_half_of_what_is_left(last, again):
    """The level cannot prove a reduction: the cross position may carry the loss in its entry."""
    rules = some_rules(action=REDUCE)
    cross = a_cross_position()
    decision, memory = decide_one(at_level(last, position=cross), rules)
    memory = acted(memory, replace(decision, level=Percent(float(last))), at=NOON)
    later = NOON + timedelta(hours=3)

    if again > 82:
        short, _ = decide_one(at_level(again - 0.5, position=cross), rules, memory, later)
        assert short.verdict is Verdict.COOLDOWN
        assert f"again at {again:g} %" in short.reason
    beyond, _ = decide_one(at_level(again + 0.5, position=cross), rules, memory, NOON + SECOND)
    assert kind_of(beyond) is REDUCE


def test_a_reduction_does_not_hold_the_rung_above_it():
    cross = a_cross_position()
    decision, memory = decide_one(at_level(88, position=cross), CROSS_CUT)
    memory = acted(memory, decision, at=NOON)

    decision, _ = decide_one(at_level(90.5, position=cross), CROSS_CUT, memory, NOON + SECOND)

    assert (decision.threshold, kind_of(decision)) == (90, CLOSE)


@given(st.floats(0, 200), st.floats(0, 200))
def test_a_reduction_never_holds_a_rung_at_liquidation(last, level):
    cross = a_cross_position()
    rules = some_rules(action=REDUCE)
    _, memory = decide_one(at_level(99, position=cross), rules)
    episode = memory.episodes[0]
    memory = memory.acted(episode.id, kind=REDUCE, at=NOON, level=Percent(last))

    decision, _ = decide_one(at_level(level, position=cross), rules, memory, NOON + SECOND)

    if decision.level >= 100 or (decision.level >= 80 and decision.level >= last + 5):
        assert decision.verdict is Verdict.ACT


# --- fallbacks ------------------------------------------------------------------------------


def test_a_step_that_is_impossible_goes_to_its_fallback_with_the_reason():
    rules = some_rules(action=ADD, fallback=(WIDEN, REDUCE, CLOSE), rung=WIDER)

    decision, _ = decide_one(at_level(82, balance=5), rules)

    assert kind_of(decision) is REDUCE
    assert decision.reason.startswith("level 82.0 % has reached the threshold 80 %; add_margin: ")
    assert "and 5 may be spent: the balance of 5 sats" in decision.reason
    assert decision.reason.endswith("; reduce_position")
    assert decision.reason.count("increase_liquidation_distance: ") == 1


def test_a_step_refused_in_this_run_is_not_tried_again_in_it():
    rules = some_rules(action=ADD, fallback=(REDUCE, CLOSE))

    once = at_level(82, refused={POSITION.id: frozenset({ADD})})
    twice = at_level(82, refused={POSITION.id: frozenset({ADD, REDUCE})})
    thrice = at_level(82, refused={POSITION.id: frozenset({ADD, REDUCE, CLOSE})})
    elsewhere = at_level(82, refused={PositionId("another"): frozenset({ADD})})

    assert kind_of(decide_one(once, rules)[0]) is REDUCE
    assert kind_of(decide_one(twice, rules)[0]) is CLOSE
    assert kind_of(decide_one(elsewhere, rules)[0]) is ADD
    nothing_left, _ = decide_one(thrice, rules)
    assert nothing_left.verdict is Verdict.UNPROTECTED
    assert "close_position: it was refused just now" in nothing_left.reason


def test_even_at_99_a_step_refused_in_this_run_is_not_tried_again_in_it():
    refused = at_level(99, refused={POSITION.id: frozenset({CLOSE})})

    assert decide_one(refused)[0].verdict is Verdict.UNPROTECTED


def test_a_step_refused_in_an_earlier_run_leaves_its_fallback_until_the_cooldown_is_over():
    """Failure 7: another 4xx: no retry; fallback."""
    rules = some_rules(action=ADD, fallback=(REDUCE,))
    decision, memory = decide_one(at_level(82), rules)
    memory = acted(memory, decision, at=NOON, refusal="no such trade")

    soon, _ = decide_one(at_level(82), rules, memory, NOON + rules.cooldown - SECOND)
    later, _ = decide_one(at_level(82), rules, memory, NOON + rules.cooldown)
    worse, _ = decide_one(at_level(87.1), rules, memory, NOON + SECOND)
    at_95, _ = decide_one(at_level(95.1), rules, memory, NOON + SECOND)

    assert kind_of(soon) is REDUCE
    assert "add_margin: no such trade" in soon.reason
    assert [kind_of(one) for one in (later, worse, at_95)] == [ADD, ADD, ADD]


def test_a_refused_close_is_tried_again_after_5_seconds():
    decision, memory = decide_one(at_level(82))
    memory = acted(memory, decision, at=NOON, refusal="busy elsewhere")

    assert decide_one(at_level(82), memory=memory, now=NOON + 4 * SECOND)[0].plan is None
    assert decide_one(at_level(82), memory=memory, now=NOON + 5 * SECOND)[0].plan is not None


# --- what is still under way ----------------------------------------------------------------


@pytest.mark.parametrize("earlier", SPENDING)
@pytest.mark.parametrize("now", SPENDING)
def test_nothing_is_spent_while_earlier_sats_may_still_be_taken(earlier, now):
    """Failure 2: until it is 35 s old its amount counts as spent, and no new one is sent."""
    rules = some_rules(action=now, rung=WIDER)
    pending = a_pending(POSITION, kind=earlier, threshold=70.0)

    waits, _ = decide_one(at_level(82, pending=(pending,)), rules)
    overdue, _ = decide_one(at_level(82, pending=(replace(pending, overdue=True),)), rules)

    assert waits.verdict is Verdict.SETTLING
    assert overdue.verdict is Verdict.UNPROTECTED
    assert pending.reason in overdue.reason


@pytest.mark.parametrize("now", SPENDING)
def test_sats_under_way_for_another_position_bar_nothing(now):
    rules = some_rules(action=now, rung=WIDER)
    pending = a_pending(a_position(id=PositionId("another")), threshold=80.0)

    assert kind_of(decide_one(at_level(82, pending=(pending,)), rules)[0]) is now


@pytest.mark.parametrize("kind", [CLOSE, REDUCE])
def test_a_pending_close_or_reduction_bars_no_spending(kind):
    rules = some_rules(action=ADD)
    pending = a_pending(POSITION, kind=kind, threshold=70.0)

    assert kind_of(decide_one(at_level(82, pending=(pending,)), rules)[0]) is ADD


def test_a_cut_of_the_cross_position_is_not_ordered_twice():
    cross = a_cross_position()
    pending = a_pending(cross, kind=REDUCE, threshold=70.0)
    rules = some_rules(action=REDUCE)

    decision, _ = decide_one(at_level(82, position=cross, pending=(pending,)), rules)
    spending = replace(pending, kind=ADD)
    other, _ = decide_one(at_level(82, position=cross, pending=(spending,)), rules)

    assert decision.verdict is Verdict.SETTLING
    assert kind_of(other) is REDUCE


def test_a_reduction_of_an_isolated_trade_goes_on_from_a_pending_one():
    pending = a_pending(POSITION, kind=REDUCE, repeatable=True)

    decision, _ = decide_one(at_level(82, pending=(pending,)), some_rules(action=REDUCE))

    assert kind_of(decision) is REDUCE


@pytest.mark.parametrize(("trailing", "said"), [(True, True), (False, False)])
def test_a_reduction_says_what_becomes_of_a_trailing_stop(trailing, said):
    stopped = a_position(stop_loss=price_at(POSITION, 95), trailing_stop=trailing)

    decision, _ = decide_one(at_level(82, position=stopped), some_rules(action=REDUCE))

    assert kind_of(decision) is REDUCE
    assert ("trailing stop becomes a fixed one" in decision.reason) is said


@pytest.mark.parametrize("kind", [ADD, WIDEN, REDUCE, CLOSE])
@pytest.mark.parametrize("overdue", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_close_waits_for_nothing_that_another_rung_began(kind, overdue, frozen):
    pending = a_pending(POSITION, kind=kind, threshold=70.0, overdue=overdue, frozen=frozen)

    assert kind_of(decide_one(at_level(82, pending=(pending,)))[0]) is CLOSE


def test_a_fallback_waits_until_the_step_before_it_is_overdue():
    """A rung that was carried out but not proved in time goes on to the next step."""
    rules = some_rules(action=ADD, fallback=(CLOSE,))
    pending = a_pending(POSITION)

    waits, _ = decide_one(at_level(82, pending=(pending,)), rules)
    overdue, _ = decide_one(at_level(82, pending=(replace(pending, overdue=True),)), rules)

    assert waits.verdict is Verdict.SETTLING
    assert pending.reason in waits.reason
    assert kind_of(overdue) is CLOSE


def test_an_unproved_last_step_goes_on_to_the_rungs_above():
    rules = some_rules(action=ADD, escalation=(a_rung(88, WIDEN, **WIDER), TOP))
    pending = a_pending(POSITION, overdue=True, frozen=True)

    decision, _ = decide_one(at_level(82, pending=(pending,)), rules)

    assert (decision.threshold, kind_of(decision)) == (80, CLOSE)
    assert decision.episode.threshold == 80


def test_an_unproved_last_step_goes_on_to_the_backstop():
    rules = some_rules(action=ADD, backstop=Percent(95.0))
    pending = a_pending(POSITION, overdue=True)

    assert kind_of(decide_one(at_level(82, pending=(pending,)), rules)[0]) is CLOSE


def test_a_step_that_is_merely_impossible_does_not_borrow_from_the_rungs_above():
    decision, _ = decide_one(at_level(82, balance=0), TWO_RUNGS)

    assert decision.verdict is Verdict.UNPROTECTED


def test_an_unsettled_close_of_this_rung_is_asked_for_again():
    """Failure 1: closing again does no harm."""
    pending = a_pending(POSITION, kind=CLOSE, repeatable=True)

    assert kind_of(decide_one(at_level(82, pending=(pending,)))[0]) is CLOSE


def test_an_action_that_the_memory_awaits_keeps_the_position_in_mind():
    """A trade that is closed and about to be opened again does not run, and is not forgotten."""
    was = Lineage(
        position_id=POSITION.id, origin=PositionId("first"), original_margin=Sats(7), at=NOON
    )
    memory = replace(GuardMemory(), lineages=(was,))
    other = a_position(id=PositionId("other"))
    much_later = NOON + timedelta(days=3)

    pending = a_pending(POSITION, kind=REDUCE)
    view = at_level(10, position=other, pending=(pending,))
    assert decide_one(view, memory=memory, now=much_later)[1].lineages == (was,)
    view = at_level(10, position=other, in_flight=frozenset({POSITION.id}))
    assert decide_one(view, memory=memory, now=much_later)[1].lineages == (was,)
    view = at_level(10, position=other)
    assert decide_one(view, memory=memory, now=much_later)[1].lineages == ()


# --- never silence --------------------------------------------------------------------------

some_steps = st.lists(
    st.sampled_from([ADD, WIDEN, REDUCE, CLOSE]), min_size=1, max_size=4, unique=True
)


@st.composite
def ladders(draw):
    thresholds = draw(st.lists(st.integers(10, 94), min_size=1, max_size=4, unique=True))
    rungs = [a_rung(float(t), *draw(some_steps), **WIDER) for t in sorted(thresholds)]
    return a_ladder(*rungs, backstop=draw(st.none() | st.just(Percent(95.0))))


@st.composite
def happenings(draw):
    """One look: a level, how long after the last one, what is in the way, and how it ends."""
    kind = draw(st.none() | st.sampled_from([ADD, WIDEN, REDUCE, CLOSE]))
    pending = () if kind is None else ((kind, draw(st.booleans()), draw(st.integers(10, 95))),)
    return (
        draw(st.floats(0, 130)),
        draw(st.timedeltas(timedelta(0), timedelta(seconds=90))),
        pending,
        draw(st.sampled_from([None, 0, 10_000_000])),
        draw(st.sampled_from(["works", "refused", "unknown"])),
    )


@given(ladders(), st.sampled_from(MarginMode), st.lists(happenings(), max_size=15))
def test_at_or_above_the_lowest_rung_a_position_is_never_silently_safe(ladder, mode, looks):
    """Rule 6: one action for a breach, but never silence."""
    position = POSITION if mode is MarginMode.ISOLATED else a_cross_position()
    rules = replace(some_rules(), ladder=ladder)
    memory, now = GuardMemory(), NOON
    for level, pause, pending, balance, fate in looks:
        now += pause
        view = at_level(
            level,
            position=position,
            balance=balance,
            pending=tuple(
                a_pending(position, kind=k, overdue=o, threshold=float(t)) for k, o, t in pending
            ),
        )
        decision, memory = decide_one(view, rules, memory, now)

        assert (decision.verdict is Verdict.SAFE) == (decision.level < ladder.lowest)
        assert (decision.plan is not None) == (decision.verdict is Verdict.ACT)
        assert decision.reason
        if decision.verdict is Verdict.SAFE:
            continue
        assert decision.episode in memory.episodes
        if decision.verdict is Verdict.SETTLING:
            assert any(not overdue for _, overdue, _ in pending)
        if decision.verdict is Verdict.COOLDOWN:
            assert decision.episode.last_action_at is not None
        if decision.plan is not None and fate != "unknown":
            refusal = "refused" if fate == "refused" else None
            memory = acted(memory, decision, at=now, refusal=refusal)


# --- single positions -----------------------------------------------------------------------


def reopened_as(position_id, *, origin="trade-0"):
    lineage = Lineage(
        position_id=PositionId(position_id),
        origin=PositionId(origin),
        original_margin=Sats(9),
        at=NOON,
    )
    return replace(GuardMemory(), lineages=(lineage,))


def test_an_individual_ladder_follows_its_position_through_a_reduction():
    rules = some_rules(individual={PositionId("trade-0"): a_ladder(a_rung(60, CLOSE))})

    assert decide_one(at_level(65), rules)[0].verdict is Verdict.SAFE
    decision, _ = decide_one(at_level(65), rules, reopened_as("trade-1"))
    assert (decision.threshold, kind_of(decision)) == (60, CLOSE)
    assert decision.assessment.trigger_price == margin.trigger_price(POSITION, Percent(60.0))


def test_selection_follows_a_position_through_a_reduction():
    rules = some_rules(action=CLOSE, selected=frozenset({PositionId("trade-0")}))

    assert decide_one(at_level(82), rules, reopened_as("trade-1"))[0].verdict is Verdict.ACT


# --- ticks of the price ---------------------------------------------------------------------


def looks_at(level, rules, memory=None, now=NOON, position=POSITION):
    quote = a_quote(price_at(position, level))
    return calls_for_a_look([position], quote, rules, memory or GuardMemory(), now)


def test_a_price_calls_for_a_look_once_a_rung_is_reached():
    assert not looks_at(79.9, TWO_RUNGS)
    assert looks_at(80.1, TWO_RUNGS)
    assert not looks_at(80.1, some_rules(selected=frozenset({PositionId("another")})))


def test_a_price_calls_for_a_look_again_at_the_next_rung():
    decision, memory = decide_one(at_level(88), TWO_RUNGS)
    memory = acted(memory, decision, at=NOON)

    assert not looks_at(89, TWO_RUNGS, memory, NOON + SECOND)
    assert looks_at(91, TWO_RUNGS, memory, NOON + SECOND)
    assert looks_at(89, TWO_RUNGS, memory, NOON + TWO_RUNGS.cooldown)


def test_a_price_calls_for_no_look_while_every_step_was_refused_a_moment_ago():
    rules = some_rules(action=ADD, fallback=(REDUCE,))
    decision, memory = decide_one(at_level(82), rules)
    one_left = acted(memory, decision, at=NOON, refusal="refused")
    refused = {POSITION.id: frozenset({ADD})}
    decision, memory = decide_one(at_level(82, refused=refused), rules, one_left)
    none_left = acted(memory, decision, at=NOON, refusal="refused")

    assert looks_at(82, rules, one_left, NOON + SECOND)
    assert not looks_at(82, rules, none_left, NOON + SECOND)
    assert looks_at(82, rules, none_left, NOON + rules.cooldown)


def test_no_position_at_all_calls_for_no_look():
    assert not calls_for_a_look([], a_quote(90_000.0), TWO_RUNGS, GuardMemory(), NOON)
