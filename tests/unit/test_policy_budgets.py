"""What stops spending but never closing, and how budgets bound what is planned."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain.budget import Budget
from marginguard.domain.decision import Verdict
from marginguard.domain.memory import GuardMemory, Spend
from marginguard.domain.model import ActionKind
from marginguard.domain.policy import decide
from marginguard.domain.units import Percent, PositionId, Sats
from tests.unit.strategies import (
    NOON,
    a_pending,
    a_position,
    a_view,
    at_level,
    decide_one,
    positions,
    prices,
    some_rules,
)

CLOSE = some_rules(action=ActionKind.CLOSE_POSITION)
ADD = some_rules(action=ActionKind.ADD_MARGIN)
POSITION = a_position()
SECOND = timedelta(seconds=1)


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
