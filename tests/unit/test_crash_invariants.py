"""The checker of the runs in `tests/crashes` finds what is wrong, and only that."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.crashes import invariants
from tests.crashes.evidence import Call, Holding, Row, holdings_of
from tests.crashes.invariants import Bounds
from tests.crashes.matching import assign
from tests.crashes.plan import plan

START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
TRADE = "/v3/futures/isolated/trade"
CROSS_PATH = "/v3/futures/cross"
BOUNDS = {"main": Bounds(max_per_position=30_000, max_per_day=50_000, max_per_hour=3)}


def at(seconds):
    return START + timedelta(seconds=seconds)


def a_row(name, seconds, *, kind="add_margin", status="done", position="p", **more):
    amount = more.pop("amount", 10_000 if kind == "add_margin" else 0)
    return Row(
        id=name,
        account="main",
        position=position,
        kind=kind,
        amount=amount,
        status=status,
        intended_at=at(seconds),
        **more,
    )


def a_call(seconds, path, *, applied=True, method="POST", account="main", **body):
    return Call(
        time=at(seconds), account=account, method=method, path=path, body=body, applied=applied
    )


def an_addition(seconds, *, amount=10_000, position="p", applied=True):
    return a_call(seconds, f"{TRADE}/add-margin", applied=applied, id=position, amount=amount)


def a_close(seconds, *, position="p", applied=True):
    return a_call(seconds, f"{TRADE}/close", applied=applied, id=position)


def of_everything(calls, rows):
    """Return all that the checks of calls and rows find."""
    assignment = assign(calls, rows)
    return [
        *assignment.wrong,
        *invariants.applied_once(assignment),
        *invariants.record_agrees(assignment),
        *invariants.within_budget(assignment, BOUNDS),
    ]


def test_an_honest_run_has_nothing_wrong():
    calls = [
        an_addition(1, applied=False),
        an_addition(2),
        an_addition(40),
        a_close(50, position="q", applied=False),
        a_close(51, position="q"),
        a_call(60, f"{CROSS_PATH}/deposit", amount=7_000),
        a_call(70, f"{CROSS_PATH}/position/close"),
    ]
    rows = [
        a_row("a", 0.5),
        a_row("b", 39),
        a_row("c", 49, kind="close_position", position="q"),
        a_row("d", 59, position="cross", amount=7_000),
        a_row("e", 69, kind="close_position", position="cross"),
    ]
    assert of_everything(calls, rows) == []


def test_an_action_carried_out_twice_is_found():
    found = of_everything([an_addition(1), an_addition(2)], [a_row("a", 0)])
    assert found == ["add of add_margin a on main/p was carried out 2 times"]


def test_a_call_without_any_intent_is_found():
    [found] = of_everything([an_addition(1)], [])
    assert "no intent came before the call: add of 10000 on main/p" in found


def test_a_call_before_its_intent_is_found():
    calls, rows = [an_addition(1)], [a_row("a", 1.002, status="unknown")]
    [found] = of_everything(calls, rows)
    assert "no intent came before the call" in found


def test_the_grain_of_the_exchanges_clock_makes_no_call_early():
    assert of_everything([an_addition(1)], [a_row("a", 1.0009)]) == []


def test_a_call_that_was_not_carried_out_needs_its_intent_too():
    [found] = of_everything([an_addition(1, applied=False)], [])
    assert "no intent came before the call" in found


@pytest.mark.parametrize(
    "other",
    [
        a_row("a", 0, position="q", status="unknown"),
        a_row("a", 0, kind="close_position", status="unknown"),
        a_row("a", 0, status="rejected", dry_run=True),
        replace(a_row("a", 0, status="unknown"), account="other"),
    ],
)
def test_the_intent_of_something_else_does_not_cover_a_call(other):
    [found] = of_everything([an_addition(1)], [other])
    assert "no intent came before the call" in found


def test_another_amount_than_the_intents_is_found():
    [found] = of_everything([an_addition(1, amount=10_001)], [a_row("a", 0)])
    assert "says 10000, and the call: add of 10001" in found


def test_a_call_that_no_action_makes_is_found():
    [found] = of_everything([a_call(1, f"{TRADE}/cash-in", id="p", amount=1)], [])
    assert found == f"no action makes the call POST {TRADE}/cash-in"


@pytest.mark.parametrize(
    ("status", "applied", "words"),
    [
        ("done", False, "is done, and add was never carried out"),
        ("rejected", True, "is rejected, and add was carried out"),
    ],
)
def test_a_record_that_disagrees_with_the_exchange_is_found(status, applied, words):
    [found] = of_everything([an_addition(1, applied=applied)], [a_row("a", 0, status=status)])
    assert words in found


@pytest.mark.parametrize("status", ["intended", "sent", "unknown"])
@pytest.mark.parametrize("applied", [True, False])
def test_an_action_that_is_not_settled_may_have_been_carried_out_or_not(status, applied):
    assert of_everything([an_addition(1, applied=applied)], [a_row("a", 0, status=status)]) == []


def test_a_close_that_says_gone_and_closed_it_is_found():
    [found] = of_everything([a_close(1)], [a_row("a", 0, kind="close_position", status="gone")])
    assert "it was this action that closed it" in found


def test_a_close_that_takes_over_from_a_reduction_may_be_closed_by_either_request():
    reduction = a_row("a", 0, kind="reduce_position", status="gone", reopening={"quantity": 500})
    close = a_row("b", 2, kind="close_position")
    assert of_everything([a_close(1), a_close(3, applied=False)], [reduction, close]) == []
    assert of_everything([a_close(1, applied=False), a_close(3)], [reduction, close]) == []
    [found] = of_everything([a_close(1, applied=False)], [reduction, close])
    assert found == "close_position b on main/p is done, and close was never carried out"


def test_each_addition_proves_its_own_row():
    """The second row is a lie, though an addition of the same size was carried out before it."""
    [found] = of_everything([an_addition(1)], [a_row("a", 0), a_row("b", 2)])
    assert found == "add_margin b on main/p is done, and add was never carried out"


def test_spending_above_the_positions_budget_is_found():
    [found] = of_everything([an_addition(1, amount=30_001)], [a_row("a", 0, amount=30_001)])
    assert found == "30,001 sats were spent on main/p, above max_per_position 30,000"


def test_spending_above_the_days_budget_is_found():
    calls = [an_addition(1, amount=26_000), an_addition(2, amount=26_000, position="q")]
    rows = [a_row("a", 0, amount=26_000), a_row("b", 0, amount=26_000, position="q")]
    [found] = of_everything(calls, rows)
    assert found == "52,000 sats were spent by main on 2026-01-05, above max_per_day 50,000"


def test_spending_too_often_within_an_hour_is_found():
    times = [0, 1_000, 2_000, 3_599]
    calls = [an_addition(s + 1, amount=5) for s in times]
    rows = [a_row(f"r{s}", s, amount=5) for s in times]
    [found] = of_everything(calls, rows)
    assert "main spent 4 times within an hour" in found


def test_what_is_an_hour_apart_does_not_count_together():
    times = [0, 1_000, 2_000, 3_600]
    calls = [an_addition(s + 1, amount=5) for s in times]
    rows = [a_row(f"r{s}", s, amount=5) for s in times]
    assert of_everything(calls, rows) == []


def test_spending_that_no_row_covers_counts_against_the_budget():
    found = of_everything([an_addition(1, amount=40_000)], [])
    assert any("above max_per_position" in line for line in found)


def test_what_the_exchange_did_not_carry_out_costs_nothing():
    calls, rows = (
        [an_addition(1, amount=90_000, applied=False)],
        [a_row("a", 0, amount=90_000, status="rejected")],
    )
    assert of_everything(calls, rows) == []


def test_a_reduction_closes_and_opens_once_each():
    row = a_row(
        "a",
        0,
        kind="reduce_position",
        client_id="tag",
        reopening={"quantity": 500},
        successor="new",
    )
    opening = a_call(2, TRADE, clientId="tag", quantity=500)
    assert of_everything([a_close(1), opening], [row]) == []
    found = of_everything([a_close(1), opening, replace(opening, time=at(3))], [row])
    assert found == ["open of reduce_position a on main/p was carried out 2 times"]
    assert len(of_everything([opening], [row])) == 1  # never closed
    untagged = replace(opening, body={"quantity": 500})
    found = of_everything([a_close(1), opening, untagged], [row])
    assert len(found) == 1
    assert "no intent came before the call: open of 500" in found[0]


def test_whether_the_rest_was_opened_again_must_be_on_record():
    opened = a_row(
        "a",
        0,
        kind="reduce_position",
        client_id="tag",
        reopening={"quantity": 500},
        successor="new",
    )
    closed = replace(opened, successor=None)
    opening = a_call(2, TRADE, clientId="tag", quantity=500)
    assert of_everything([a_close(1)], [closed]) == []
    [found] = of_everything([a_close(1)], [opened])
    assert "is done, and open was never carried out" in found
    [found] = of_everything([a_close(1), opening], [closed])
    assert "says that the rest stays closed, and it was opened" in found


def test_a_reduction_of_the_cross_position_is_one_order():
    row = a_row("a", 0, kind="reduce_position", position="cross", client_id="tag", quantity=500)
    order = a_call(1, f"{CROSS_PATH}/order", clientId="tag", quantity=500)
    assert of_everything([order], [row]) == []
    assert of_everything([order, replace(order, time=at(2))], [row]) == [
        "order of reduce_position a on main/cross was carried out 2 times"
    ]


def test_a_stop_loss_may_be_set_twice_but_not_elsewhere():
    row = a_row("a", 0, kind="set_stop_loss", stop_loss=91_000.0)
    stop = a_call(1, f"{TRADE}/stoploss", method="PUT", id="p", value=91_000)
    assert of_everything([stop, replace(stop, time=at(2))], [row]) == []
    [found] = of_everything([replace(stop, body={"id": "p", "value": 91_500})], [row])
    assert "says 91000.0, and the call: stop of 91500" in found


def a_holding(**more):
    return Holding(
        **{"account": "main", "position": "p", "running": True, "liquidated": False, "level": 60.0}
        | more
    )


def left_alone(holdings=(), rows=(), told=(), *, patient=False):
    return invariants.unhandled(holdings, rows, set(told), threshold=60, patient=patient)


def test_a_breached_position_that_is_left_alone_is_found():
    assert left_alone([a_holding()]) == ["main/p is at 60.0 %: neither handled nor told of"]
    assert left_alone([a_holding()], told=[("main", "q")], rows=[a_row("a", 0)]) != []


@pytest.mark.parametrize("holding", [a_holding(level=59.9), a_holding(running=False)])
def test_a_position_that_is_safe_or_closed_is_handled(holding):
    assert left_alone([holding]) == []


def test_a_breached_position_that_was_told_of_is_not_left_in_silence():
    assert left_alone([a_holding()], told=[("main", "p")], patient=True) == []


def test_what_must_not_be_repeated_yet_excuses_only_for_the_hurried():
    cut = a_row("a", 0, kind="reduce_position", position="cross", status="unknown")
    assert left_alone([a_holding(position="cross")], [cut]) == []
    rows = [a_row("a", 0, status="unknown")]
    assert left_alone([a_holding()], rows) == []
    assert len(left_alone([a_holding()], rows, patient=True)) == 2
    assert left_alone([], rows, patient=True) == ["add_margin a on main/p is still unknown"]


def test_a_reduced_position_is_handled_until_its_level_has_risen():
    cut = a_row("a", 0, kind="reduce_position", position="cross", level=70.0)
    assert left_alone([a_holding(position="cross", level=74.9)], [cut], patient=True) == []
    assert left_alone([a_holding(position="cross", level=75.0)], [cut], patient=True) != []
    undone = replace(cut, status="rejected")
    assert left_alone([a_holding(position="cross", level=74.9)], [undone]) != []


def test_a_frozen_action_excuses():
    rows = [a_row("a", 0, status="unknown", frozen=True)]
    assert left_alone([a_holding()], rows, patient=True) == []


@pytest.mark.parametrize("kind", ["close_position", "reduce_position", "set_stop_loss"])
def test_what_may_be_repeated_at_once_excuses_nothing(kind):
    assert left_alone([a_holding()], [a_row("a", 0, kind=kind, status="sent")]) != []


def test_a_liquidated_position_is_found():
    found = invariants.none_liquidated([a_holding(running=False, liquidated=True), a_holding()])
    assert found == ["main/p was liquidated"]


def test_nobody_could_have_saved_a_position_that_the_price_leapt_over():
    lost = a_holding(running=False, liquidated=True)

    assert invariants.none_liquidated([lost], {str(lost)}) == []


def test_levels_are_taken_from_the_exchanges_own_figures():
    state = {
        "trades": [
            {"account": "key", "id": "p", "running": True, "ending": None, "pl": -60, "margin": 100}
        ],
        "crossPositions": [
            {"account": "key", "quantity": 5, "margin": 110, "maintenanceMargin": 10, "totalPl": -7}
        ],
    }
    trade, cross = holdings_of(state, {"key": "main"})
    assert (trade.level, trade.position, trade.liquidated) == (60.0, "p", False)
    assert (cross.level, cross.position, cross.liquidated) == (7.0, "cross", False)
    state["trades"][0] |= {"running": False, "ending": "liquidation"}
    state["crossPositions"][0] |= {"quantity": 0, "margin": 0}
    assert all(holding.liquidated for holding in holdings_of(state, {"key": "main"}))


def test_a_seed_is_one_run_and_another_seed_another():
    assert plan(1) == plan(1)
    assert plan(1) != plan(2)
