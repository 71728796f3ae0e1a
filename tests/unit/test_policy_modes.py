"""Protection modes: each position's own level, the portfolio's, or whichever comes first.

Positions of one entry are set apart by their margins, so that one price gives each its level.
"""

import math
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from marginguard.domain import margin
from marginguard.domain.decision import Verdict
from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import ActionKind, Side
from marginguard.domain.policy import calls_for_a_look, decide
from marginguard.domain.rules import ProtectionMode
from marginguard.domain.steps import Portfolio
from marginguard.domain.units import Percent, PositionId, Price, Sats
from tests.unit.strategies import (
    NOON,
    a_position,
    a_quote,
    a_rung,
    a_view,
    acted,
    positions,
    prices,
    some_rules,
)

CLOSE, ADD = ActionKind.CLOSE_POSITION, ActionKind.ADD_MARGIN
REDUCE = ActionKind.REDUCE_POSITION
PRICE = Price(92_500.0)
LOSS = 81_082
"""Sats that a long of 1,000 USD entered at 100,000 has lost at PRICE."""

SECOND = timedelta(seconds=1)


def at(level, name):
    """Return a position that stands at about `level` % at PRICE."""
    return a_position(id=PositionId(name), margin=Sats(math.ceil(LOSS * 100 / level)))


def a_winner(name="winner", margin_=1_000_000):
    return a_position(id=PositionId(name), side=Side.SHORT, margin=Sats(margin_))


def rules_for(mode, **changes):
    return some_rules(**{"action": CLOSE, **changes}, mode=mode)


TOTAL = rules_for(ProtectionMode.TOTAL)
BOTH = rules_for(ProtectionMode.BOTH)
UNITARIO = rules_for(ProtectionMode.UNITARIO)


def decided(*held, rules, memory=None, now=NOON, price=PRICE, **view):
    return decide(a_view(*held, price=price, **view), rules, memory or GuardMemory(), now)


def verdicts(*held, rules, **view):
    return {d.position.id: d.verdict for d in decided(*held, rules=rules, **view).items}


# --- what is held against a threshold -------------------------------------------------------


def test_only_its_own_level_counts_in_unitario():
    bad, good = at(90, "bad"), at(20, "good")

    assert verdicts(bad, good, rules=UNITARIO) == {"bad": Verdict.ACT, "good": Verdict.SAFE}


def test_only_the_portfolios_level_counts_in_total():
    """Together 33 %: the good one's margin stands for the bad one, though not on the exchange."""
    bad, good = at(85, "bad"), at(20, "good")

    assert verdicts(bad, good, rules=TOTAL) == {"bad": Verdict.SAFE, "good": Verdict.SAFE}


def test_either_level_counts_in_both():
    bad, good = at(85, "bad"), at(20, "good")
    alike = [at(81, "a"), at(79.5, "b")]

    assert verdicts(bad, good, rules=BOTH) == {"bad": Verdict.ACT, "good": Verdict.SAFE}
    assert verdicts(*alike, rules=BOTH) == {"a": Verdict.ACT, "b": Verdict.SAFE}
    assert decided(alike[1], rules=BOTH).items[0].verdict is Verdict.SAFE


def test_in_both_a_position_below_is_acted_on_where_the_others_do_not_bring_it_below():
    held = [at(81, "a"), at(79.9, "b")]
    rules = rules_for(ProtectionMode.BOTH, action=ADD, rung={"add_margin_amount": Sats(10)})

    decisions = decided(*held, rules=rules)

    assert [d.verdict for d in decisions.items] == [Verdict.ACT, Verdict.ACT]
    assert "the portfolio's level 80.5 % has reached" in decisions.items[1].reason
    assert decisions.items[0].reason.startswith("level 81.0 % has reached")


def test_positions_that_the_guard_does_not_cover_are_not_in_its_portfolio():
    bad, good = at(85, "bad"), at(20, "good")
    rules = replace(TOTAL, selected=frozenset({PositionId("bad")}))

    assert verdicts(bad, good, rules=rules) == {"bad": Verdict.ACT}


# --- on which positions the portfolio acts --------------------------------------------------


def test_the_portfolio_acts_on_the_worst_first_and_on_no_more_than_it_takes():
    held = [at(88, "b"), at(70, "c"), at(89, "a")]

    decisions = decided(*held, rules=TOTAL)

    assert [(d.position.id, d.verdict) for d in decisions.items] == [
        ("a", Verdict.ACT),
        ("b", Verdict.SAFE),
        ("c", Verdict.SAFE),
    ]
    spared = decisions.items[1]
    assert "the portfolio's level 81.4 % has reached the threshold 80 %" in spared.reason
    assert "acting on the others brings it below" in spared.reason


def test_what_could_not_be_done_for_the_worst_is_made_up_for_by_the_next():
    held = [at(89, "a"), at(88, "b"), at(70, "c")]
    rules = rules_for(ProtectionMode.TOTAL, action=ADD)
    refused = {PositionId("a"): frozenset({ADD})}

    found = verdicts(*held, rules=rules, refused=refused)

    assert found == {"a": Verdict.UNPROTECTED, "b": Verdict.ACT, "c": Verdict.SAFE}


def test_a_winner_is_left_alone():
    loser, winner = at(99, "loser"), a_winner(margin_=100)

    found = decided(loser, a_position(id=PositionId("even"), entry_price=PRICE), rules=TOTAL)
    assert [d.verdict for d in found.items] == [Verdict.ALERT, Verdict.SAFE]

    slight = replace(winner, entry_price=Price(92_501.0))
    breached = decided(loser, slight, rules=TOTAL, refused={loser.id: frozenset({CLOSE})})
    assert [d.verdict for d in breached.items] == [Verdict.UNPROTECTED, Verdict.SAFE]
    assert breached.items[1].reason.endswith("; this position loses nothing")
    assert "the portfolio's level 98.9 % has reached" in breached.items[1].reason


@given(
    st.lists(positions(), min_size=1, max_size=6, unique_by=lambda one: one.id),
    prices,
    st.sampled_from([ProtectionMode.TOTAL, ProtectionMode.BOTH]),
    st.integers(5, 95),
)
def test_the_portfolio_never_acts_on_more_than_it_takes_nor_on_less(held, price, mode, threshold):
    rules = rules_for(mode, threshold=float(threshold))

    decisions = decided(*held, rules=rules, price=price)

    left = {one.id: one for one in held}
    for decision in decisions.items:
        own = decision.assessment.level
        together = margin.portfolio_level(left.values(), price)
        alone = mode is ProtectionMode.BOTH and own >= threshold
        needed = own > 0 and (together >= threshold or alone)
        assert (decision.verdict is Verdict.ACT) == needed
        if needed:
            del left[decision.position.id]
    assert margin.portfolio_level(left.values(), price) < threshold or not any(
        margin.margin_level(one, price) > 0 for one in left.values()
    )


@given(st.lists(positions(), max_size=5), prices)
def test_in_unitario_the_others_change_nothing(held, price):
    together = decided(*held, rules=UNITARIO, price=price)

    for decision in together.items:
        (alone,) = decided(decision.position, rules=UNITARIO, price=price).items
        assert alone == decision


# --- a position in danger of its own --------------------------------------------------------


def test_in_total_a_position_at_90_of_its_own_is_alerted():
    at_90, below = at(90.1, "at 90"), at(89.9, "below")
    stout = at(10, "stout")

    decisions = decided(at_90, below, stout, rules=TOTAL)

    assert [d.verdict for d in decisions.items] == [Verdict.ALERT, Verdict.SAFE, Verdict.SAFE]
    reason = decisions.items[0].reason
    assert reason.startswith("its own level is 90.1 % and the portfolio's level ")
    assert reason.endswith("is below the threshold 80 %: what the others earn does not save it")


def test_a_position_in_danger_that_the_portfolio_spares_is_alerted():
    held = [at(99, "worst"), at(92, "spared"), at(65, "mild")]

    found = verdicts(*held, rules=TOTAL)

    assert found == {"worst": Verdict.ACT, "spared": Verdict.ALERT, "mild": Verdict.SAFE}


@pytest.mark.parametrize("mode", [ProtectionMode.UNITARIO, ProtectionMode.BOTH])
def test_elsewhere_a_position_at_90_is_below_a_threshold_above_it(mode):
    rules = rules_for(mode, threshold=93.0)

    assert verdicts(at(91, "one"), at(10, "two"), rules=rules) == {
        "one": Verdict.SAFE,
        "two": Verdict.SAFE,
    }


def test_in_total_a_position_beyond_its_own_backstop_is_closed():
    """The exchange takes no stop-loss beyond the market, so that it is run at once."""
    rules = rules_for(ProtectionMode.TOTAL, action=ADD, backstop=Percent(95.0))

    decisions = decided(at(96, "beyond"), at(10, "stout"), rules=rules)

    (beyond, stout) = decisions.items
    assert (beyond.verdict, beyond.plan.kind, beyond.threshold) == (Verdict.ACT, CLOSE, 95)
    assert beyond.reason.startswith("level 96.0 % has reached the threshold 95 %")
    assert stout.verdict is Verdict.SAFE
    assert calls_for_a_look(
        [at(96, "beyond"), at(10, "stout")], a_quote(PRICE), rules, GuardMemory(), NOON
    )


@pytest.mark.parametrize("mode", [ProtectionMode.TOTAL, ProtectionMode.BOTH])
def test_the_portfolios_level_closes_nothing_at_a_backstop(mode):
    """The backstop is about the one trade: where its stop-loss on the exchange would stand."""
    held = [at(97, "bad"), at(94.5, "other")]
    rules = rules_for(mode, action=ADD, backstop=Percent(95.0))
    refused = {PositionId("bad"): frozenset({CLOSE, ADD})}

    _, other = decided(*held, rules=rules, refused=refused).items

    assert (other.threshold, other.plan.kind) == (80, ADD)


# --- remedies -------------------------------------------------------------------------------


def test_in_total_a_remedy_is_of_the_positions_own_level():
    held = [at(95, "worst"), at(70, "mild")]
    rules = rules_for(ProtectionMode.TOTAL, action=ADD)

    worst, mild = decided(*held, rules=rules).items

    assert worst.plan.amount == LOSS * 2 - worst.position.margin
    assert worst.level == pytest.approx(80.6, abs=0.1)
    assert mild.verdict is Verdict.SAFE


# --- breaches of the portfolio --------------------------------------------------------------


def test_a_position_that_turns_to_profit_for_a_moment_does_not_end_the_breach_of_a_portfolio():
    """Failure 23: else it would be acted on anew each time that its price dances around entry."""
    swings = a_position(id=PositionId("swings"), entry_price=Price(92_501.0), margin=Sats(90))
    bad = at(88, "bad")
    rules = rules_for(ProtectionMode.TOTAL, action=ADD, rung={"add_margin_amount": Sats(1)})
    loses, gains = PRICE, Price(92_501.5)
    first = decided(bad, swings, rules=rules, price=loses)
    memory = first.memory
    for decision in first.items:
        assert decision.verdict is Verdict.ACT
        memory = acted(memory, decision, at=NOON)

    memory = decided(bad, swings, rules=rules, memory=memory, price=gains).memory
    after = decided(bad, swings, rules=rules, memory=memory, now=NOON + SECOND, price=loses)

    held_back = next(d for d in after.items if d.position.id == "swings")
    assert held_back.verdict is Verdict.COOLDOWN


def test_a_trade_that_a_reduction_opened_again_is_not_reduced_again_for_the_same_breach():
    """It has next to no loss of its own, and the portfolio is still breached by another one."""
    rules = rules_for(ProtectionMode.TOTAL, action=REDUCE)
    stuck, cut = at(99, "stuck"), at(90, "cut")
    refused = {stuck.id: frozenset({REDUCE})}
    first = decided(stuck, cut, rules=rules, refused=refused)
    decision = first.items[1]
    assert decision.plan.kind is REDUCE
    memory = acted(first.memory, decision, at=NOON)
    memory = memory.followed(cut.id, PositionId("reopened"), margin=cut.margin, at=NOON)
    reopened = a_position(
        id=PositionId("reopened"), entry_price=Price(92_501.0), margin=Sats(9_000)
    )

    again = decided(
        stuck, reopened, rules=rules, memory=memory, refused=refused, now=NOON + 90 * SECOND
    )

    assert again.items[1].position is reopened
    assert again.items[1].level >= 80
    assert again.items[1].verdict is Verdict.COOLDOWN


def test_the_episodes_of_a_portfolio_end_when_it_is_well_below():
    pair = [at(85, "a"), at(78, "b")]
    memory = decided(*pair, rules=TOTAL).memory
    assert {e.position_id for e in memory.episodes} == {"a", "b"}

    richer = [replace(one, margin=Sats(one.margin + 5_000)) for one in pair]
    assert len(decided(*richer, rules=TOTAL, memory=memory).memory.episodes) == 2
    richer = [replace(one, margin=Sats(one.margin + 9_000)) for one in pair]
    assert decided(*richer, rules=TOTAL, memory=memory).memory.episodes == ()


# --- never silence --------------------------------------------------------------------------


@given(
    st.lists(positions(), min_size=1, max_size=5, unique_by=lambda one: one.id),
    prices,
    st.sampled_from(ProtectionMode),
    st.sampled_from([CLOSE, ADD, REDUCE]),
    st.integers(5, 80),
)
def test_a_breached_portfolio_is_safe_only_where_acting_on_others_is_enough(
    held, price, mode, kind, threshold
):
    rules = rules_for(
        mode, threshold=float(threshold), action=kind, escalation=(a_rung(90, CLOSE),)
    )

    decisions = decided(*held, rules=rules, price=price)

    planned = Portfolio(held, price)
    for one in decisions.items:
        if one.plan is not None:
            planned.expect(one.position, one.plan)
    for one in decisions.items:
        if one.level < threshold:
            assert one.verdict in {Verdict.SAFE, Verdict.ALERT}
        elif one.verdict is Verdict.SAFE:
            assert mode is not ProtectionMode.UNITARIO
            assert planned.level < one.threshold
        if mode is ProtectionMode.TOTAL and one.assessment.level >= 90:
            assert one.verdict is not Verdict.SAFE


@given(st.lists(positions(), min_size=1, max_size=4, unique_by=lambda p: p.id), prices)
def test_a_price_calls_for_a_look_exactly_where_deciding_anew_would_find_a_breach(held, price):
    for mode in ProtectionMode:
        rules = rules_for(mode, backstop=Percent(95.0))
        found = decided(*held, rules=rules, price=price)
        breached = bool(found.memory.episodes)

        assert calls_for_a_look(held, a_quote(price), rules, GuardMemory(), NOON) == breached


@given(positions(), prices)
def test_a_portfolio_of_one_is_that_one(position, price):
    assume(margin.margin_level(position, price) > 0)

    (alone,) = decided(position, rules=UNITARIO, price=price).items
    (total,) = decided(position, rules=TOTAL, price=price).items

    assert (total.level, total.plan) == (alone.level, alone.plan)


def test_a_trade_that_is_reduced_counts_no_more_than_one_that_is_closed():
    """Opened again it has no loss, so that the portfolio is relieved of it."""
    rules = rules_for(ProtectionMode.TOTAL, action=REDUCE)

    found = decided(at(88, "worst"), at(75, "mild"), rules=rules)

    assert [d.verdict for d in found.items] == [Verdict.ACT, Verdict.SAFE]
    assert found.items[0].plan.reopening is not None
