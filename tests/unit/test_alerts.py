"""What a guard and its account tell beside actions: each thing once, and that it is over."""

import asyncio
from dataclasses import replace

import pytest

from marginguard.domain.budget import Budget
from marginguard.domain.errors import Unauthorized, Unreachable
from marginguard.domain.model import ActionKind, ClosedTrade
from marginguard.domain.rules import ProtectionMode
from marginguard.engine import ends
from marginguard.engine.funds import BALANCE_LOW_REPEAT_S
from marginguard.notify.rendering import Recipient, Renderer
from tests.unit.fakes import PROMPT, Rig, rejected
from tests.unit.strategies import AMPLE, NOON, a_cross_position, a_position

ADD = ActionKind.ADD_MARGIN
CLOSE = ActionKind.CLOSE_POSITION
FIXED = {"add_margin_amount": 7_000}
DOWN = Unreachable("down")


def told(rig, *kinds):
    return [n for n in rig.ears.notices if n.kind.value in kinds]


async def at_levels(rig, *levels, position=None):
    """Run once at each of these levels of the position, time passing."""
    for level in levels:
        rig.market(position or a_position(), level)
        await rig.run()
        rig.clock.advance(1)


# --- the risk rises -------------------------------------------------------------------------


async def test_every_rise_of_the_risk_below_the_threshold_is_told_once():
    rig = Rig(action=CLOSE, threshold=94.0)
    await at_levels(rig, 10, 71, 72, 81, 79, 81, 91, 75, 81)
    notices = told(rig, "risk_rising")
    assert [(n.data["risk"], n.severity.value) for n in notices] == [
        ("low", "info"), ("medium", "warning"), ("high", "warning"),
    ]  # fmt: skip
    assert "Its guard guard-1 answers at 94 %, at 91,4" in notices[0].text
    assert notices[0].data["threshold"] == 94.0
    assert notices[0].data["liquidation_price"] == pytest.approx(90_909.09, abs=0.01)


async def test_a_rise_that_the_guard_answers_is_not_told_too():
    rig = Rig(action=ADD)
    await at_levels(rig, 10, 85)
    assert told(rig, "action_done")
    assert told(rig, "risk_rising") == []


async def test_a_rise_that_is_told_as_a_breach_is_not_told_too():
    rig = Rig(action=ADD, auto_execution=False)
    await at_levels(rig, 10, 85, 91, 96)
    assert told(rig, "threshold_reached")
    assert told(rig, "risk_rising") == []


async def test_a_position_at_risk_in_a_portfolio_that_is_not_is_told_as_a_breach_alone():
    winner = a_position(id="winner", entry_price=80_000.0)
    rig = Rig(a_position(), winner, action=CLOSE, mode=ProtectionMode.TOTAL)
    await at_levels(rig, 0, 92)
    assert told(rig, "threshold_reached")
    assert told(rig, "risk_rising") == []


async def test_the_rise_of_a_position_that_no_guard_covers_is_told_with_what_to_do():
    rig = Rig(a_position(), a_position(id="bare"), selected=frozenset({"trade-1"}), action=CLOSE)
    await at_levels(rig, 10, 96)
    (notice,) = told(rig, "risk_rising")
    assert (notice.position_id, notice.guard_id) == ("bare", None)
    assert notice.severity.value == "critical"
    assert "No armed guard covers it" in notice.text


async def test_a_price_that_nothing_bears_out_is_no_rise():
    rig = Rig(action=CLOSE, threshold=99.0)
    await at_levels(rig, 10)
    rig.prices.confirmed = False
    await at_levels(rig, 92)
    assert told(rig, "risk_rising") == []
    rig.prices.confirmed = True
    await at_levels(rig, 92)
    assert len(told(rig, "risk_rising")) == 1


# --- a breach is over -----------------------------------------------------------------------


async def test_a_position_that_was_alerted_is_told_to_have_recovered_once_its_breach_is_over():
    rig = Rig(action=ADD, auto_execution=False)
    await at_levels(rig, 85, 76)
    assert told(rig, "recovered") == []
    await at_levels(rig, 70, 60)
    (notice,) = told(rig, "recovered")
    assert (notice.position_id, notice.severity.value) == ("trade-1", "info")
    assert "its breach of 80 % is over" in notice.text
    await at_levels(rig, 85, 60)
    assert len(told(rig, "recovered")) == 2


async def test_an_unprotected_position_is_told_to_have_recovered():
    rig = Rig(action=ADD, balance=0)
    await at_levels(rig, 85)
    assert told(rig, "unprotected")
    await at_levels(rig, 60)
    assert [n.position_id for n in told(rig, "recovered")] == ["trade-1"]


async def test_a_breach_that_an_action_answered_is_not_told_to_be_over_again():
    rig = Rig(action=ADD)
    await at_levels(rig, 85, 40)
    assert told(rig, "action_done")
    assert told(rig, "recovered") == []


async def test_a_position_that_ended_has_not_recovered():
    rig = Rig(action=ADD, auto_execution=False)
    await at_levels(rig, 85)
    rig.exchange.end("trade-1")
    await at_levels(rig, 60, 60)
    assert told(rig, "recovered") == []


# --- the balance ----------------------------------------------------------------------------


async def test_a_balance_below_the_next_remedy_is_told_every_six_hours_and_when_it_is_enough():
    rig = Rig(action=ADD, rung=FIXED, balance=6_999)
    await at_levels(rig, 10, 10)
    (notice,) = told(rig, "balance_low")
    assert notice.severity.value == "warning"
    assert (notice.data["balance_sats"], notice.data["amount_sats"]) == (6_999, 7_000)
    assert notice.data["action"] == "add_margin"
    rig.clock.advance(BALANCE_LOW_REPEAT_S)
    await at_levels(rig, 10)
    assert len(told(rig, "balance_low")) == 2
    rig.exchange.available = 7_000
    await at_levels(rig, 10, 10)
    (over,) = told(rig, "recovered")
    assert (over.account_id, over.position_id) == ("main", None)
    rig.exchange.available = 0
    await at_levels(rig, 10)
    assert len(told(rig, "balance_low")) == 3


async def test_a_balance_that_cannot_be_read_says_nothing():
    rig = Rig(action=ADD, rung=FIXED, balance=0)
    await at_levels(rig, 10)
    rig.exchange.balance_error = DOWN
    await at_levels(rig, 10)
    assert len(told(rig, "balance_low", "recovered")) == 1


@pytest.mark.parametrize("changes", [{"auto_execution": False}, {"dry_run": True}])
async def test_a_guard_that_sends_nothing_needs_no_balance(changes):
    rig = Rig(action=ADD, rung=FIXED, balance=0, **changes)
    await at_levels(rig, 10)
    assert told(rig, "balance_low") == []


# --- the budget -----------------------------------------------------------------------------


async def test_a_step_beyond_the_budget_is_told_once_for_a_breach_and_limit():
    budget = replace(AMPLE, max_per_day=6_000)
    rig = Rig(action=ADD, fallback=(CLOSE,), rung=FIXED, budget=budget)
    rig.exchange.script.append((False, rejected()))
    await at_levels(rig, 85, 86, 86)
    (notice,) = told(rig, "budget_spent")
    assert notice.severity.value == "warning"
    assert "7,000 sats are needed and 6,000 may be spent: max_per_day 6,000 sats" in notice.text
    assert "It does close_position instead." in notice.text
    assert (notice.data["limit"], notice.data["amount_sats"]) == ("max_per_day", 7_000)


async def test_another_limit_and_another_breach_are_told_again():
    rig = Rig(action=ADD, rung=FIXED, budget=replace(AMPLE, max_per_day=6_000))
    await at_levels(rig, 85, 85)
    rig._runner._protector._guard = replace(
        rig.guard,
        rules=replace(rig.guard.rules, budget=Budget(max_per_action=5)),
    )
    rig._runner.guard = rig._runner._protector._guard
    await at_levels(rig, 85, 85)
    assert [n.data["limit"] for n in told(rig, "budget_spent")] == ["max_per_day", "max_per_action"]
    await at_levels(rig, 40, 85)
    assert len(told(rig, "budget_spent")) == 3


async def test_what_the_balance_does_not_pay_for_is_told_of_the_balance():
    rig = Rig(action=ADD, rung=FIXED, balance=10)
    await at_levels(rig, 85)
    assert told(rig, "budget_spent") == []
    assert told(rig, "balance_low")


# --- runs that fail -------------------------------------------------------------------------


async def fails(rig, times):
    for _ in range(times):
        rig.exchange.read_errors.append(DOWN)
        await rig.run()


async def test_a_run_that_fails_is_told_once_its_retries_are_used_up_and_once_in_an_outage():
    rig = Rig()
    await rig.run()
    await fails(rig, 3)
    assert told(rig, "execution_failed") == []
    await fails(rig, 1)
    (notice,) = told(rig, "execution_failed")
    assert "after 4 attempts: down" in notice.text
    assert notice.data["code"] == "POSITIONS_UNKNOWN"
    await fails(rig, 9)
    assert len(told(rig, "execution_failed")) == 1
    await rig.run()
    await rig.run()
    assert len(told(rig, "recovered", "guard_armed")) == 2
    assert told(rig, "recovered")[0].guard_id == "guard-1"
    await fails(rig, 4)
    assert len(told(rig, "execution_failed")) == 2


async def test_a_run_that_a_retry_cured_is_not_told():
    rig = Rig()
    for _ in range(3):
        await fails(rig, 3)
        await rig.run()
    assert told(rig, "execution_failed", "recovered") == []


async def test_a_guard_that_arms_again_is_not_told_to_have_recovered_too():
    rig = Rig()
    await rig.run()
    for _ in range(5):
        await fails(rig, 1)
        rig.clock.advance(20)
    assert told(rig, "guard_degraded")
    await rig.run()
    assert rig.ears.kinds()[-1] == "guard_armed"
    assert told(rig, "recovered") == []


async def test_a_refused_key_is_told_as_that_alone():
    rig = Rig()
    rig.exchange.read_errors.append(Unauthorized("no", status=401, code="UNAUTHORIZED"))
    await rig.run()
    assert rig.ears.kinds() == ["guard_disarmed"]


# --- positions that end ---------------------------------------------------------------------


async def vanishes(closed, position=None, **settings):
    """Return how the end of a position is told, whose closed trade reads so."""
    rig = Rig(position or a_position(), action=CLOSE, settings=replace(PROMPT, **settings))
    await rig.run()
    gone = next(iter(rig.exchange.positions))
    del rig.exchange.positions[gone]
    if closed is not None:
        rig.exchange.closed[gone] = closed
    rig.clock.advance(1)
    await rig.run()
    await rig.run()
    return told(rig, "position_gone", "position_liquidated")


def ended(exit_price, pl, **changes):
    return ClosedTrade(id="trade-1", exit_price=exit_price, pl=pl, closed_at=NOON, **changes)


async def test_a_liquidation_is_told_as_one_and_is_critical():
    (notice,) = await vanishes(ended(90_909.0, -100_000))
    assert (notice.kind.value, notice.severity.value) == ("position_liquidated", "critical")
    assert "was LIQUIDATED at 90,909.0 USD, with a loss of 100,000 sats" in notice.text
    assert (notice.data["ending"], notice.data["pl_sats"]) == ("liquidated", -100_000)


@pytest.mark.parametrize(
    ("position", "closed", "said"),
    [
        ({"stop_loss": 95_000.0}, ended(95_000.0, -52_632), "closed by its stop-loss at 95,000.0"),
        ({"take_profit": 105_000.0}, ended(105_000.0, 47_619), "a profit of 47,619 sats"),
        ({}, ended(95_000.0, -52_632), "closed by hand or by another program at 95,000.0 USD"),
        ({}, None, "it was liquidated, stopped out or closed by hand"),
    ],
)
async def test_any_other_end_is_told_with_its_reason_as_far_as_it_is_known(position, closed, said):
    (notice,) = await vanishes(closed, a_position(**position))
    assert (notice.kind.value, notice.severity.value) == ("position_gone", "warning")
    assert said in notice.text


async def test_the_cross_position_was_liquidated_where_the_exchange_says_so():
    end = ClosedTrade(id="cross", exit_price=66_733.5, pl=None, closed_at=NOON, liquidated=True)
    (notice,) = await vanishes(end, a_cross_position())
    assert notice.kind.value == "position_liquidated"


async def test_a_read_of_the_end_that_fails_once_is_made_again():
    rig = Rig(action=CLOSE)
    await rig.run()
    rig.exchange.end("trade-1", 95_000.0)
    read, errors = rig.exchange.closed_trade, [DOWN]

    async def fails_once(position_id, since):
        if errors:
            raise errors.pop()
        return await read(position_id, since)

    rig.exchange.closed_trade = fails_once
    await rig.run()
    assert "was closed by hand" in told(rig, "position_gone")[0].text


async def test_how_a_position_ended_is_read_while_the_guard_goes_on(monkeypatch):
    """A breach of another position is answered before the closed trade has been read."""
    monkeypatch.setattr(ends, "READ_WITHIN_S", 0.2)
    rig = Rig(a_position(), a_position(id="other", margin=90_000), action=CLOSE)
    await rig.run()
    rig.exchange.end("trade-1")
    asked = asyncio.Event()

    async def hangs(position_id, since):
        asked.set()
        await asyncio.Event().wait()

    rig.exchange.closed_trade = hangs
    async with asyncio.TaskGroup() as actions:
        rig._runner._actions = actions
        assert await rig._runner.run("schedule") == 0
        assert told(rig, "position_gone") == []
        await asked.wait()
    (notice,) = told(rig, "position_gone")
    assert "See the exchange's list of closed trades" in notice.text


async def test_a_position_liquidated_under_an_action_is_told_as_liquidated_too():
    rig = Rig(action=CLOSE)
    await rig.run()
    rig.market(a_position(), 99)

    def liquidated():
        rig.exchange.end("trade-1")
        rig.exchange.closed["trade-1"] = ended(90_909.0, -100_000)

    rig.exchange.script.append((False, rejected()))
    rig.exchange.on_call = liquidated
    for _ in range(3):
        rig.clock.advance(1)
        await rig.run()
    assert len(told(rig, "position_gone")) == 1
    assert len(told(rig, "position_liquidated")) == 1


async def test_a_stop_loss_that_the_guard_kept_is_told_as_its_own():
    rig = Rig(action=CLOSE, threshold=70.0, backstop=90.0)
    await rig.run()
    await rig.run()
    stop_loss = rig.exchange.positions["trade-1"].stop_loss
    assert stop_loss is not None
    rig.exchange.end("trade-1", stop_loss)
    await rig.run()
    (notice,) = told(rig, "position_gone")
    assert "closed by the stop-loss that its guard keeps on the exchange" in notice.text


# --- what people read -----------------------------------------------------------------------


async def all_kinds():
    """Return a notice of every kind that this file is about."""
    rigs = [Rig(action=CLOSE, threshold=94.0), Rig(action=ADD, auto_execution=False)]
    rigs += [Rig(action=ADD, rung=FIXED, budget=replace(AMPLE, max_per_day=6_000), balance=6_999)]
    for rig in rigs:
        await at_levels(rig, 10, 85, 60)
        await fails(rig, 4)
    notices = [notice for rig in rigs for notice in rig.ears.notices]
    return [*notices, *await vanishes(ended(90_909.0, -100_000))]


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("risk_rising", ["Margin level: 85.0 % (threshold 94.0 %), risk medium"]),
        ("recovered", ["Price: 94,339.62 USD"]),
        ("balance_low", ["Action: add margin, 7,000 sats (6.93 USD) (not covered by the balance)"]),
        (
            "budget_spent",
            ["Position: trade-1 (long 1,000 USD)", "Liquidation price: 90,909.09 USD"],
        ),
        ("execution_failed", ["Error: down", "Guard: guard-1", "Account: main"]),
        (
            "position_liquidated",
            ["Price: 90,909.00 USD", "Profit or loss: -100,000 sats (-90.91 USD)"],
        ),
    ],
)
async def test_the_figures_are_read_on_lines_of_their_own(kind, lines):
    notices = [n for n in await all_kinds() if n.kind.value == kind]
    text = Renderer().message(notices[0], "email", Recipient(user_id="a", to="a@b")).text
    assert [line for line in lines if line not in text.splitlines()] == []
