"""From one step to the next: refused, impossible, not proved in time, and nothing left."""

from dataclasses import replace

import pytest

from marginguard.domain import margin
from marginguard.domain.budget import Budget
from marginguard.domain.errors import Unauthorized, Unreachable
from marginguard.domain.model import ActionKind
from marginguard.domain.records import ActionStatus, ExecutionRecord
from tests.unit.fakes import Rig, ambiguous, done, not_sent, rejected
from tests.unit.strategies import AMPLE, a_cross_position, a_position, a_rung

ADD = ActionKind.ADD_MARGIN
CLOSE = ActionKind.CLOSE_POSITION
DISTANCE = ActionKind.INCREASE_LIQUIDATION_DISTANCE
REDUCE = ActionKind.REDUCE_POSITION
REFUSED = (False, rejected())
LOST = (False, ambiguous())


def breached(action, *fallback, level=85, position=None, **changes):
    """Return a rig whose one position has used up `level` % of its margin; the threshold is 80."""
    position = position or a_position()
    rig = Rig(position, action=action, fallback=fallback, **changes)
    rig.market(position, level)
    return rig


def names(rig):
    return [call[0] for call in rig.exchange.calls]


def told(rig, kind):
    return [notice for notice in rig.ears.notices if notice.kind.value == kind]


async def test_a_refused_step_gives_way_to_its_fallback_in_the_same_run():
    """Failure 7: no retry; fallback; alert."""
    rig = breached(ADD, CLOSE)
    rig.exchange.script.append(REFUSED)
    await rig.run()
    assert names(rig) == ["add_margin", "close"]
    assert [r.status for r in rig.actions()] == [ActionStatus.REJECTED, ActionStatus.DONE]
    assert [n.severity.value for n in told(rig, "action_failed")] == ["critical"]
    assert told(rig, "action_done")
    [execution] = rig.journal.of(ExecutionRecord)
    assert execution.status.value == "completed"


async def test_a_fallback_is_sized_by_what_a_fresh_read_shows():
    """Failure 12: margin was taken out while the first step was refused."""
    taken = replace(a_position(), margin=98_000, cashed_in=2_000)
    rig = breached(REDUCE, ADD)
    rig.exchange.script.append(REFUSED)

    def take():
        if len(rig.exchange.calls) == 1:
            rig.exchange.positions["trade-1"] = taken

    rig.exchange.on_call = take
    await rig.run()
    assert names(rig) == ["close", "add_margin"]
    needed = margin.margin_to_reach_level(taken, rig.prices.price, 50.0).amount
    assert rig.exchange.calls[1][2] == needed


async def test_no_fallback_is_taken_once_the_owner_has_helped_himself():
    rig = breached(ADD, CLOSE)
    rig.exchange.script.append(REFUSED)
    rig.exchange.on_call = lambda: rig.exchange.top_up("trade-1", 70_000)
    await rig.run()
    assert names(rig) == ["add_margin"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"balance": 10}, "the balance of 10 sats"),
        ({"budget": replace(AMPLE, max_per_action=10)}, "max_per_action"),
        ({"budget": Budget(max_spending_actions_per_hour=0)}, "max_spending_actions_per_hour"),
        ({"budget": Budget(max_per_position=10)}, "max_per_position"),
        (
            {"position": a_position(margin=1_000_000, leverage=1.0)},
            "leverage would fall below 1",
        ),
    ],
)
async def test_a_step_that_is_impossible_gives_way_at_once_and_says_why(changes, why):
    """Failure 13: fallback, and say so; no leverage below 1."""
    rig = breached(ADD, CLOSE, **changes)
    await rig.run()
    assert names(rig) == ["close"]
    assert why in rig.actions()[0].reason


async def test_a_spent_budget_gives_way_at_the_next_breach():
    rig = breached(ADD, CLOSE, rung={"add_margin_amount": 1_000}, budget=Budget(max_per_day=1_500))
    await rig.run()
    rig.clock.advance(61)
    await rig.run()
    assert names(rig) == ["add_margin", "close"]
    assert "max_per_day" in rig.actions()[1].reason


@pytest.mark.parametrize("reads", ["fine", "refused too"])
async def test_a_refused_key_is_no_reason_for_a_fallback(reads):
    """Failure 6: disarm; what the key may not do, no step does."""
    rig = breached(ADD, CLOSE)
    rig.exchange.script.extend([(False, rejected(unauthorized=True))] * 3)
    if reads != "fine":
        error = Unauthorized("UNAUTHORIZED", status=401, code="UNAUTHORIZED")
        rig.exchange.on_call = lambda: rig.exchange.read_errors.extend([error] * 9)
    await rig.run()
    assert set(names(rig)) == {"add_margin"}
    assert rig.book.state.armed.value == "disarmed"
    assert rig.refusals


async def test_a_fallback_goes_by_what_was_seen_if_nothing_can_be_read_now():
    rig = breached(ADD, CLOSE)
    rig.exchange.script.append(REFUSED)

    def blinded():
        if len(rig.exchange.calls) == 1:
            rig.exchange.read_errors.extend([Unreachable("down")] * 2)

    rig.exchange.on_call = blinded
    await rig.run()
    assert names(rig) == ["add_margin", "close"]


async def test_a_fallback_does_not_go_by_what_was_seen_long_ago():
    """Failure 26: the age of the data is checked before anything is sent."""
    rig = breached(ADD, CLOSE)
    rig.exchange.script.append(REFUSED)

    def blinded_for_long():
        rig.exchange.read_errors.extend([Unreachable("down")] * 2)
        rig.clock.advance(10.1)

    rig.exchange.on_call = blinded_for_long
    await rig.run()
    assert names(rig) == ["add_margin"]


@pytest.mark.parametrize("level", [85, 97])
async def test_when_every_step_is_refused_each_was_tried_once_and_the_owner_hears_at_once(level):
    rig = breached(ADD, REDUCE, CLOSE, level=level, position=a_cross_position())
    rig.exchange.script.extend([REFUSED] * 3)
    await rig.run()
    assert names(rig) == ["add_margin", "reduce_cross", "close"]
    [notice] = told(rig, "unprotected")
    assert notice.severity.value == "critical"


async def test_a_position_that_nothing_is_left_for_is_spoken_of_every_minute():
    rig = breached(CLOSE, level=97)
    rig.exchange.script.extend([REFUSED] * 10)
    for _ in range(5):
        await rig.run()
        rig.clock.advance(30)
    assert len(told(rig, "unprotected")) == 3
    assert names(rig) == ["close"] * 5  # closing is tried again as long as it takes


async def test_a_step_not_proved_in_time_gives_way_to_the_next_one():
    rig = breached(ADD, CLOSE)
    rig.exchange.script.append(LOST)
    await rig.run()
    rig.clock.advance(9.9)
    await rig.run()
    assert names(rig) == ["add_margin"]
    rig.clock.advance(0.2)
    await rig.run()
    assert names(rig) == ["add_margin", "close"]


async def test_a_step_not_proved_in_time_gives_way_to_the_rung_above():
    rig = breached(ADD, escalation=(a_rung(90.0, CLOSE),))
    rig.exchange.script.append(LOST)
    await rig.run()
    rig.clock.advance(10.1)
    await rig.run()
    assert names(rig) == ["add_margin", "close"]


async def test_a_second_spending_step_waits_for_the_fate_of_the_first():
    rig = breached(ADD, DISTANCE, rung={"new_liquidation_distance": 20.0})
    rig.exchange.script.append(LOST)
    await rig.run()
    rig.clock.advance(20)
    await rig.run()
    assert names(rig) == ["add_margin"]


async def test_what_may_still_be_taken_from_the_balance_is_not_there_for_another_position():
    """The reserve holds though the first addition's outcome is not known yet."""
    other = a_position(id="trade-2", margin=90_000)
    rig = Rig(
        a_position(),
        other,
        action=ADD,
        rung={"add_margin_amount": 40_000},
        balance=100_000,
        budget=replace(AMPLE, reserve_balance=50_000),
    )
    rig.market(other, 82)
    rig.exchange.script.append(LOST)
    await rig.run()
    assert [call[1] for call in rig.exchange.calls] == ["trade-2"]
    rig.market(a_position(), 85)
    await rig.run()
    assert [call[1] for call in rig.exchange.calls] == ["trade-2"]
    rig.clock.advance(36)  # it was never carried out
    await rig.run()
    assert len(rig.exchange.calls) == 2


async def test_sats_whose_fate_can_never_be_told_are_not_kept_from_other_positions_for_ever():
    other = a_position(id="trade-2", margin=90_000)
    rig = Rig(a_position(), other, action=ADD, rung={"add_margin_amount": 40_000}, balance=79_999)
    rig.market(other, 82)
    rig.exchange.script.append((False, done()))
    await rig.run()
    rig.clock.advance(36)
    await rig.run()
    assert rig.actions()[0].frozen
    rig.market(a_position(), 85)
    await rig.run()
    assert [call[1] for call in rig.exchange.calls] == ["trade-2", "trade-1"]


async def test_positions_are_answered_side_by_side_and_the_worst_first():
    """Failure 22: one failing position never holds up another."""
    worst, other = a_position(id="worst", margin=90_000), a_position(id="other")
    rig = Rig(other, worst, action=ADD, fallback=(CLOSE,))
    rig.market(other, 85)
    rig.exchange.script.append(REFUSED)
    await rig.run()
    assert [call[:2] for call in rig.exchange.calls[:2]] == [
        ("add_margin", "worst"),
        ("add_margin", "other"),
    ]
    assert rig.exchange.calls[2] == ("close", "worst")
    assert {r.position_id: r.status for r in rig.actions()} == {
        "worst": ActionStatus.DONE,
        "other": ActionStatus.DONE,
    }


async def test_what_a_second_look_settles_is_told_too():
    """One position's refusal brings a fresh read, which shows how another's action ended."""
    weak, strong = a_position(id="weak", margin=90_000), a_position(id="strong")
    rig = Rig(weak, strong, action=ADD, fallback=(CLOSE,))
    rig.market(weak, 82)
    rig.exchange.script.extend([LOST, REFUSED])
    await rig.run()
    _, _, amount = rig.exchange.calls[0]

    def carried_out_late():
        if len(rig.exchange.calls) == 2:
            rig.exchange.top_up("weak", amount)

    rig.exchange.on_call = carried_out_late
    rig.market(strong, 85)
    await rig.run()
    await rig.run()
    assert [call[:2] for call in rig.exchange.calls] == [
        ("add_margin", "weak"),
        ("add_margin", "strong"),
        ("close", "strong"),
    ]
    assert rig.actions()[0].status is ActionStatus.DONE
    assert [n.position_id for n in told(rig, "action_done")] == ["weak", "strong"]
    assert told(rig, "position_changed") == []


async def test_no_fallback_is_begun_after_the_daemon_was_asked_to_stop():
    """Failure 25: no new ones."""
    rig = breached(ADD, CLOSE)
    rig.exchange.script.append(REFUSED)
    rig.exchange.on_call = rig.stop.set
    await rig.run()
    assert names(rig) == ["add_margin"]


async def test_a_close_is_not_repeated_once_the_owner_has_added_margin():
    """Failure 12: the plan is made again, and it is not needed any more."""
    rig = breached(CLOSE)
    rig.exchange.script.append((False, not_sent()))
    rig.exchange.on_call = lambda: rig.exchange.top_up("trade-1", 70_000)
    await rig.run()
    await rig.run()
    assert names(rig) == ["close"]
    assert rig.actions()[0].status is ActionStatus.REJECTED
    assert "position_changed" in rig.ears.kinds()


async def test_an_addition_after_a_topup_is_sized_on_the_new_margin():
    """Failure 12: plan again."""
    rig = breached(ADD)
    rig.exchange.script.append((False, not_sent()))
    rig.exchange.on_call = lambda: (
        rig.exchange.top_up("trade-1", 1_000) if len(rig.exchange.calls) == 1 else None
    )
    await rig.run()
    await rig.run()
    first, second = (call[2] for call in rig.exchange.calls)
    assert second == first - 1_000


async def test_a_full_disk_leaves_closing_as_the_fallback_of_spending():
    """Failure 30: closing goes on, spending stops."""
    rig = breached(ADD, CLOSE)
    rig.journal.full = True
    await rig.run()
    await rig.run()
    assert names(rig) == ["close"]


async def test_a_dry_run_takes_no_fallback_and_leaves_old_actions_as_they_are():
    rig = breached(CLOSE, ADD)
    rig.exchange.script.extend([LOST] * 3)
    await rig.run()
    [left] = rig.actions()
    rig.reconfigure(action=CLOSE, dry_run=True)
    await rig.run()
    assert names(rig) == ["close"] * 3
    assert left in rig.book.unsettled
    assert [r.dry_run for r in rig.actions()] == [False, True]


async def test_the_first_answer_of_done_is_not_believed_before_it_shows():
    rig = breached(ADD, CLOSE)
    rig.exchange.script.append((False, done()))
    await rig.run()
    assert rig.actions()[0].status is ActionStatus.UNKNOWN
    rig.clock.advance(36)
    await rig.run()
    assert rig.actions()[0].frozen
    assert names(rig) == ["add_margin", "close"]
