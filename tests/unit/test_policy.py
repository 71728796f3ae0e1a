"""What a guard decides: episodes, cooldown, worst first, budgets, and never silence."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain import margin
from marginguard.domain.breach import CLOSE_AGAIN_AFTER
from marginguard.domain.budget import Budget
from marginguard.domain.decision import Verdict
from marginguard.domain.memory import GuardMemory, Setback, Spend
from marginguard.domain.model import ActionKind, Side
from marginguard.domain.policy import decide
from marginguard.domain.steps import Plan
from marginguard.domain.units import Percent, PositionId, Sats
from tests.unit.strategies import (
    NOON,
    a_cross_position,
    a_pending,
    a_position,
    a_view,
    positions,
    price_at,
    prices,
    some_rules,
)

CLOSE = some_rules(action=ActionKind.CLOSE_POSITION)
ADD = some_rules(action=ActionKind.ADD_MARGIN)
POSITION = a_position()
COOLDOWN = CLOSE.cooldown
SECOND = timedelta(seconds=1)


def at_level(level, *, position=POSITION, **changes):
    return a_view(position, price=price_at(position, level), **changes)


def decide_one(view, rules=CLOSE, memory=None, now=NOON):
    """Decide about the only position of `view`; return the decision and the new memory."""
    decisions = decide(view, rules, memory or GuardMemory(), now)
    (decision,) = decisions.items
    return decision, decisions.memory


def after_acting(level, *, rules=CLOSE, refusal=None):
    """Return the memory of a guard that acted at NOON, at `level`."""
    decision, memory = decide_one(at_level(level), rules)
    assert decision.verdict is Verdict.ACT
    return acted(memory, decision, at=NOON, refusal=refusal)


def acted(memory, decision, *, at, refusal=None):
    """Return the memory after the step decided on worked, or was refused."""
    kind, level = decision.plan.kind, decision.level
    if refusal is None:
        return memory.acted(decision.episode.id, kind=kind, at=at, level=level)
    setback = Setback(kind=kind, at=at, level=level, reason=refusal)
    return memory.refused(decision.episode.id, setback)


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


# --- what stops spending, but never closing -------------------------------------------------

OBSTACLES = [
    pytest.param({"balance": None}, Verdict.UNPROTECTED, "balance is not known", id="balance"),
    pytest.param({"confirmed": False}, Verdict.UNPROTECTED, "price jumped", id="price"),
    pytest.param(
        {"spending_barred": "the journal is full"}, Verdict.UNPROTECTED, "journal", id="journal"
    ),
    pytest.param(
        {
            "pending": (
                a_pending(POSITION, reason="action 7 cannot be told", frozen=True, overdue=True),
            )
        },
        Verdict.UNPROTECTED,
        "action 7 cannot be told",
        id="frozen",
    ),
    pytest.param(
        {"pending": (a_pending(POSITION),)},
        Verdict.SETTLING,
        "action 8 is not settled",
        id="unsettled",
    ),
]


@pytest.mark.parametrize(("obstacle", "verdict", "reason"), OBSTACLES)
def test_nothing_is_spent_in_doubt_and_the_doubt_is_named(obstacle, verdict, reason):
    """Failures 2, 20 and 30: unknown means no spending."""
    decision, _ = decide_one(at_level(97, **obstacle), ADD)

    assert decision.verdict is verdict
    assert decision.plan is None
    assert reason in decision.reason
    assert decision.reason.startswith("level 97.0 % has reached the threshold 80 %; ")


@pytest.mark.parametrize(("obstacle", "verdict", "reason"), OBSTACLES)
def test_closing_goes_on_in_doubt(obstacle, verdict, reason):
    """Failures 20 and 30: closing may go on where spending may not."""
    pending = tuple(replace(p, threshold=Percent(70.0)) for p in obstacle.get("pending", ()))

    decision, _ = decide_one(at_level(97, **{**obstacle, "pending": pending}), CLOSE)

    assert decision.verdict is Verdict.ACT


def test_a_doubt_about_one_position_does_not_hold_another_back():
    one, other = a_position(id=PositionId("one")), a_position(id=PositionId("other"))
    view = a_view(one, other, price=92_000.0, pending=(a_pending(one, frozen=True, overdue=True),))

    verdicts = {d.position.id: d.verdict for d in decide(view, ADD, GuardMemory(), NOON).items}

    assert verdicts == {"one": Verdict.UNPROTECTED, "other": Verdict.ACT}


@pytest.mark.parametrize("rules", [CLOSE, ADD], ids=["close", "add"])
@pytest.mark.parametrize("level", [82, 99])
def test_a_position_is_left_alone_while_an_action_on_it_is_under_way(rules, level):
    view = at_level(level, in_flight=frozenset({POSITION.id}))

    decision, memory = decide_one(view, rules)

    assert decision.verdict is Verdict.SETTLING
    assert decision.plan is None
    assert "under way" in decision.reason
    assert memory.episodes == (decision.episode,)


def test_a_frozen_position_stays_unprotected_even_while_settling():
    frozen = a_pending(POSITION, frozen=True, overdue=True)
    view = at_level(85, pending=(frozen, a_pending(POSITION, threshold=70.0)))

    assert decide_one(view, ADD)[0].verdict is Verdict.UNPROTECTED


@pytest.mark.parametrize("rules", [CLOSE, ADD], ids=["close", "add"])
def test_with_auto_execution_off_a_breach_is_alerted_and_nothing_done(rules):
    rules = replace(rules, auto_execution=False)

    decision, memory = decide_one(at_level(97), rules)

    assert decision.verdict is Verdict.ALERT
    assert decision.plan is None
    assert "auto_execution is off" in decision.reason
    assert memory.episodes == (decision.episode,)


# --- budgets --------------------------------------------------------------------------------

NEEDED = 62_164
"""Sats that bring POSITION from 92,500 to level 50: ceil(81,082 * 2) - 100,000."""


def with_budget(**limits):
    generous = {"max_per_position": Sats(10**12), "max_per_day": Sats(10**12)}
    return some_rules(budget=Budget(**{**generous, **limits}))


@pytest.mark.parametrize(
    ("limit", "named"),
    [
        ("max_per_action", "max_per_action"),
        ("max_per_position", "max_per_position"),
        ("max_per_day", "max_per_day"),
    ],
)
def test_a_limit_allows_an_amount_up_to_it_and_not_a_sat_more(limit, named):
    """Failure 13: too little money is said, with the limit that decides."""
    view = a_view(POSITION, price=92_500.0)

    enough, _ = decide_one(view, with_budget(**{limit: Sats(NEEDED)}))
    short, memory = decide_one(view, with_budget(**{limit: Sats(NEEDED - 1)}))

    assert enough.plan.amount == NEEDED
    assert short.verdict is Verdict.UNPROTECTED
    assert short.plan is None
    assert f"62,164 sats are needed and 62,163 may be spent: {named}" in short.reason
    assert short.episode in memory.episodes


def test_the_balance_less_the_reserve_is_what_may_be_spent():
    rules = with_budget(reserve_balance=Sats(1_000))

    enough, _ = decide_one(a_view(POSITION, price=92_500.0, balance=NEEDED + 1_000), rules)
    short, _ = decide_one(a_view(POSITION, price=92_500.0, balance=NEEDED + 999), rules)

    assert enough.verdict is Verdict.ACT
    assert short.verdict is Verdict.UNPROTECTED
    assert "reserve_balance 1,000" in short.reason


def test_the_hourly_number_of_spending_actions_is_a_limit():
    memory = GuardMemory()
    for number in range(6):
        memory = memory.intending(
            Spend(
                action_id=UUID(int=number + 1),
                position_id=PositionId("another"),
                amount=Sats(1),
                at=NOON - timedelta(minutes=number),
            )
        )

    decision, _ = decide_one(a_view(POSITION, price=92_500.0), with_budget(), memory)
    later, _ = decide_one(
        a_view(POSITION, price=92_500.0), with_budget(), memory, NOON + timedelta(minutes=56)
    )

    assert decision.verdict is Verdict.UNPROTECTED
    assert "max_spending_actions_per_hour 6" in decision.reason
    assert later.verdict is Verdict.ACT


def test_a_position_that_had_no_budget_is_acted_on_as_soon_as_there_is():
    poor = a_view(POSITION, price=92_500.0, balance=10)
    _, memory = decide_one(poor, with_budget())

    decision, _ = decide_one(a_view(POSITION, price=92_500.0), with_budget(), memory, NOON + SECOND)

    assert decision.verdict is Verdict.ACT


@pytest.mark.parametrize(
    "limits",
    [
        {"max_per_day": Sats(2 * NEEDED - 1)},
        {"reserve_balance": Sats(10_000_000 - 2 * NEEDED + 1)},
        {"max_spending_actions_per_hour": 1},
    ],
    ids=["day", "balance", "hour"],
)
def test_what_is_planned_for_one_position_is_not_there_for_the_next(limits):
    pair = (a_position(id=PositionId("a")), a_position(id=PositionId("b")))

    decisions = decide(a_view(*pair, price=92_500.0), with_budget(**limits), GuardMemory(), NOON)

    assert [d.verdict for d in decisions.items] == [Verdict.ACT, Verdict.UNPROTECTED]
    assert decisions.memory.spends == ()


def test_closing_is_never_limited():
    rules = some_rules(
        action=ActionKind.CLOSE_POSITION,
        budget=Budget(
            max_per_action=Sats(0),
            max_per_position=Sats(0),
            max_per_day=Sats(0),
            max_spending_actions_per_hour=0,
        ),
    )

    assert decide_one(at_level(90, balance=0), rules)[0].verdict is Verdict.ACT


@given(
    st.lists(positions(), min_size=1, max_size=6),
    prices,
    st.integers(0, 10**9),
    st.builds(
        Budget,
        max_per_action=st.none() | st.integers(0, 10**8),
        max_per_day=st.none() | st.integers(0, 10**9),
        reserve_balance=st.integers(0, 10**6),
        max_spending_actions_per_hour=st.integers(0, 6),
    ),
)
def test_the_plans_of_one_run_together_stay_within_the_budget(held, price, balance, budget):
    rules = some_rules(budget=budget)

    decisions = decide(a_view(*held, price=price, balance=balance), rules, GuardMemory(), NOON)

    planned = [(d.position, d.plan.amount) for d in decisions.items if d.plan is not None]
    total = sum(amount for _, amount in planned)
    assert len(planned) <= budget.max_spending_actions_per_hour
    assert not planned or total <= balance - budget.reserve_balance
    assert total <= (balance // 2 if budget.max_per_day is None else budget.max_per_day)
    for position, amount in planned:
        assert 0 < amount <= 3 * position.entry_margin
        assert budget.max_per_action is None or amount <= budget.max_per_action


@given(st.lists(st.floats(80, 200), min_size=1, max_size=40), st.integers(0, 10**6))
def test_a_guard_that_crashes_after_every_intent_still_stays_within_its_budget(levels, balance):
    """Rule 5: a crash must not drain the wallet. Every intent counts, though none is settled."""
    rules = some_rules(budget=Budget())
    memory, now, left = GuardMemory(), NOON, balance
    for level in levels:
        now += timedelta(seconds=1)
        decision, memory = decide_one(at_level(level, balance=left), rules, memory, now)
        if decision.plan is None:
            continue
        left -= decision.plan.amount
        memory = memory.intending(
            Spend(action_id=uuid4(), position_id=POSITION.id, amount=decision.plan.amount, at=now)
        )

    assert left >= balance - balance // 2
    assert len(memory.spends) <= 6
    assert balance - left <= 3 * POSITION.entry_margin


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
