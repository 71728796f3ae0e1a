"""Whether the balance pays for the next remedy: its exact size at the price that triggers it."""

import pytest

from marginguard.domain.funds import shortfall
from marginguard.domain.margin import assess, trigger_price
from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import ActionKind
from marginguard.domain.rules import ProtectionMode
from marginguard.domain.steps import Plan, Purse, plan_step
from tests.unit.strategies import AMPLE, NOON, a_cross_position, a_position, a_rung, some_rules

ADD, CLOSE = ActionKind.ADD_MARGIN, ActionKind.CLOSE_POSITION
DISTANCE = ActionKind.INCREASE_LIQUIDATION_DISTANCE


def lacking(balance, *positions, **rules):
    return shortfall(positions or (a_position(),), balance, some_rules(**rules), GuardMemory())


@pytest.mark.parametrize(
    ("action", "sizes"),
    [
        (ADD, {}),
        (ADD, {"target_margin_level": 20.0}),
        (DISTANCE, {"new_liquidation_distance": 9.0}),
    ],
)
@pytest.mark.parametrize("position", [a_position(), a_cross_position()])
def test_what_is_needed_is_what_the_guard_would_plan_at_the_trigger_price(action, sizes, position):
    rules = some_rules(action=action, rung=sizes)
    at_trigger = assess(position, trigger_price(position, 80.0), 80.0)
    purse = Purse(balance=10**9, barred=None)
    plan = plan_step(rules.ladder.rungs[0].steps[0], at_trigger, rules, purse, GuardMemory(), NOON)
    assert isinstance(plan, Plan)
    assert plan.amount > 0

    assert lacking(plan.amount, position, action=action, rung=sizes) is None
    short = lacking(plan.amount - 1, position, action=action, rung=sizes)
    assert (short.need.amount, short.need.kind) == (plan.amount, action)


def test_a_fixed_amount_is_what_is_needed():
    assert lacking(6_999, rung={"add_margin_amount": 7_000}).need.amount == 7_000
    assert lacking(7_000, rung={"add_margin_amount": 7_000}) is None


def test_the_reserve_is_not_there_to_be_spent():
    budget = AMPLE.__class__(reserve_balance=1_000)
    short = lacking(7_999, rung={"add_margin_amount": 7_000}, budget=budget)
    assert (short.balance, short.free) == (7_999, 6_999)
    assert lacking(8_000, rung={"add_margin_amount": 7_000}, budget=budget) is None


def test_a_fallback_and_a_higher_rung_that_spend_count_too():
    assert lacking(0, action=CLOSE) is None
    assert lacking(0, action=ActionKind.REDUCE_POSITION, fallback=(ADD,)).need.kind is ADD
    higher = lacking(0, action=ActionKind.REDUCE_POSITION, escalation=(a_rung(90.0, ADD),))
    assert higher.need.rung.threshold == 90.0


def test_of_several_positions_the_largest_need_is_told():
    small, large = a_position(id="small", quantity=10, margin=1_000), a_position(id="large")
    assert lacking(500, small, large).need.position.id == "large"


def test_where_the_portfolio_decides_only_a_fixed_amount_is_known_before():
    total = {"mode": ProtectionMode.TOTAL}
    assert lacking(0, **total) is None
    assert lacking(0, rung={"add_margin_amount": 7_000}, **total).need.amount == 7_000
