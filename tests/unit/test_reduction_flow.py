"""Reducing a position: one order on the cross position, close and reopen on an isolated trade."""

from dataclasses import replace

import pytest

from marginguard.domain import margin
from marginguard.domain.errors import Unreachable
from marginguard.domain.model import ActionKind, Side
from marginguard.domain.records import ActionStatus
from tests.unit.fakes import Crash, Rig, ambiguous, busy, done, not_sent, rejected
from tests.unit.strategies import a_cross_position, a_ladder, a_position, a_rung

ADD = ActionKind.ADD_MARGIN
CLOSE = ActionKind.CLOSE_POSITION
REDUCE = ActionKind.REDUCE_POSITION
STOPPED = a_position(stop_loss=91_000.0, take_profit=110_000.0)
REFUSED = (False, rejected())
LOST = (False, ambiguous())


def cross(position=None, **changes):
    """Return a rig whose cross position has used up 85 % of its margin; the threshold is 80."""
    position = position or a_cross_position()
    rig = Rig(position, action=REDUCE, **changes)
    rig.market(position, 85)
    return rig


def isolated(position=None, **changes):
    """Return a rig whose isolated trade has used up 85 % of its margin; the threshold is 80."""
    position = position or a_position()
    rig = Rig(position, action=REDUCE, **changes)
    rig.market(position, 85)
    return rig


def names(rig):
    return [call[0] for call in rig.exchange.calls]


def told(rig, kind):
    return [notice for notice in rig.ears.notices if notice.kind.value == kind]


# The cross position: one order.


@pytest.mark.parametrize(("side", "against"), [(Side.LONG, "short"), (Side.SHORT, "long")])
async def test_the_cross_position_is_cut_by_one_order_on_the_other_side(side, against):
    rig = cross(a_cross_position(side=side))
    await rig.run()
    [record] = rig.actions()
    assert rig.exchange.calls == [("reduce_cross", against, 500, f"mg-{record.id}")]
    assert record.status is ActionStatus.DONE
    assert record.proof.startswith("quantity 1,000 -> 500 USD, liquidation price")


async def test_the_tag_proves_the_cut_whatever_else_happened_to_the_quantity():
    rig = cross()
    rig.exchange.on_call = lambda: rig.exchange.positions.update(
        cross=a_cross_position(quantity=1_700)
    )
    await rig.run()
    assert rig.actions()[0].status is ActionStatus.DONE
    assert rig.exchange.positions["cross"].quantity == 1_200


async def test_a_cut_that_timed_out_but_worked_is_done_without_a_second_order():
    rig = cross()
    rig.exchange.script.append((True, ambiguous()))
    await rig.run()
    assert names(rig) == ["reduce_cross"]
    assert rig.actions()[0].status is ActionStatus.DONE


async def test_a_cut_that_is_not_seen_is_not_sent_again_for_35_s():
    rig = cross()
    rig.exchange.script.append(LOST)
    await rig.run()
    for seconds in (5, 10, 19.9):
        rig.clock.advance(seconds)
        await rig.run()
    assert names(rig) == ["reduce_cross"]
    rig.clock.advance(0.2)
    await rig.run()
    assert names(rig) == ["reduce_cross"] * 2
    assert [r.status for r in rig.actions()] == [ActionStatus.REJECTED, ActionStatus.DONE]
    assert rig.exchange.calls[0][3] != rig.exchange.calls[1][3]


async def test_a_cut_not_proved_in_time_leaves_it_to_the_fallback():
    rig = cross(fallback=(CLOSE,))
    rig.exchange.script.append(LOST)
    await rig.run()
    rig.clock.advance(9.9)
    await rig.run()
    assert names(rig) == ["reduce_cross"]
    rig.clock.advance(0.2)
    await rig.run()
    assert names(rig) == ["reduce_cross", "close"]


async def test_a_cut_that_was_carried_out_late_is_found_and_not_repeated():
    rig = cross()
    rig.exchange.script.append(LOST)
    await rig.run()
    rig.clock.advance(25)
    _, _, quantity, tag = rig.exchange.calls[0]
    rig.exchange.cut(Side.SHORT, quantity, tag)
    await rig.run()
    assert names(rig) == ["reduce_cross"]
    assert rig.actions()[0].status is ActionStatus.DONE


async def test_a_cut_said_to_be_done_and_never_found_is_frozen_and_nothing_more_is_ordered():
    rig = cross()
    rig.exchange.script.append((False, done()))
    await rig.run()
    for seconds in (36, 60, 3600):
        rig.clock.advance(seconds)
        await rig.run()
    [record] = rig.actions()
    assert record.frozen
    assert names(rig) == ["reduce_cross"]
    assert [n.severity.value for n in told(rig, "action_failed")] == ["critical"]
    assert told(rig, "unprotected")


async def test_a_frozen_cut_does_not_stand_in_the_way_of_closing():
    rig = cross(escalation=(a_rung(90.0, CLOSE),))
    rig.exchange.script.append((False, done()))
    await rig.run()
    rig.clock.advance(36)
    await rig.run()
    assert rig.actions()[0].frozen
    assert names(rig) == ["reduce_cross", "close"]


# An isolated trade: close, prove, open the rest.


async def test_an_isolated_trade_is_closed_and_the_rest_of_it_opened_again():
    rig = isolated(STOPPED)
    await rig.run()
    [record] = rig.actions()
    assert names(rig) == ["close", "open_trade"]
    order = rig.exchange.calls[1][1]
    assert (order.side, order.quantity) == (Side.LONG, 500)
    assert (order.stop_loss, order.take_profit) == (91_000.0, 110_000.0)
    assert order.client_id == f"mg-{record.id}"
    assert (record.status, record.successor, record.error) == (
        ActionStatus.DONE,
        "reopened-1",
        None,
    )
    assert "liquidation price" in record.proof
    assert told(rig, "action_done")


async def test_the_rest_is_opened_with_what_the_close_brought_and_nothing_from_the_wallet():
    rig = isolated()
    await rig.run()
    closed = rig.exchange.closed["trade-1"]
    rest = rig.exchange.positions["reopened-1"]
    assert 0 < rest.margin < a_position().margin + closed.pl
    price = rig.prices.price
    before = margin.liquidation_distance(a_position(), price)
    assert margin.liquidation_distance(rest, price) > before * 1.1


async def test_closing_half_of_a_reduction_is_durable_before_the_rest_is_opened():
    rig = isolated()
    seen = []
    rig.exchange.on_call = lambda: seen.append(rig.actions()[-1])
    await rig.run()
    closing, opening = seen
    assert (closing.closes, closing.is_reopening) == (True, False)
    assert (opening.is_reopening, opening.reopening.leverage) == (
        True,
        rig.exchange.calls[1][1].leverage,
    )
    assert opening.sent_at is not None


async def test_a_guard_of_selected_positions_follows_the_trade_to_its_new_id():
    rig = isolated(selected=frozenset({"trade-1"}))
    await rig.run()
    await rig.run()
    assert rig.book.memory.origin_of("reopened-1") == "trade-1"
    assert rig.ears.seen["main"]["reopened-1"].guard_id == "guard-1"
    assert rig.ears.seen["main"]["reopened-1"].original_margin == 100_000
    assert rig.book.state.armed.value == "armed"
    assert "position_not_covered" not in rig.ears.kinds()


async def test_what_was_spent_on_a_trade_counts_for_the_one_it_became():
    rig = Rig(action=ADD, rung={"add_margin_amount": 1_000}, escalation=(a_rung(85.0, REDUCE),))
    rig.market(a_position(), 82)
    await rig.run()
    rig.market(rig.exchange.positions["trade-1"], 87)
    await rig.run()
    assert names(rig) == ["add_margin", "close", "open_trade"]
    assert [(s.position_id, s.amount) for s in rig.book.memory.spends] == [("reopened-1", 1_000)]


async def test_an_individual_configuration_holds_for_every_trade_that_comes_of_its_position():
    own = a_ladder(a_rung(40.0, REDUCE))
    rig = Rig(action=CLOSE, threshold=99.0, individual={"trade-1": own})
    for current, level in (("trade-1", 45), ("reopened-1", 55)):
        rig.market(rig.exchange.positions[current], level)
        await rig.run()
        rig.clock.advance(61)
    assert names(rig) == ["close", "open_trade"] * 2
    assert rig.book.memory.origin_of("reopened-2") == "trade-1"


async def test_a_reduction_whose_second_step_waits_keeps_the_first_of_its_ids_for_hours():
    rig = Rig(action=REDUCE, threshold=40.0, selected=frozenset({"trade-1"}))
    rig.market(a_position(), 45)
    await rig.run()
    rig.clock.advance(7200)
    rig.market(rig.exchange.positions["reopened-1"], 55)
    rig.exchange.script.extend([(True, done()), LOST])
    await rig.run()
    await rig.run()  # the trade runs no more, and its successor is not seen yet
    rig.exchange.open(rig.exchange.calls[-1][1])
    await rig.run()
    assert rig.book.memory.origin_of("reopened-2") == "trade-1"


async def test_a_lineage_survives_a_restart():
    rig = isolated(selected=frozenset({"trade-1"}))
    await rig.run()
    rig.start()
    await rig.run()
    assert rig.ears.seen["main"]["reopened-1"].guard_id == "guard-1"


@pytest.mark.parametrize("processed", [True, False])
async def test_a_reduction_whose_close_timed_out_goes_on_once_it_is_known_to_be_closed(processed):
    rig = isolated()
    rig.exchange.script.append((processed, ambiguous()))
    await rig.run()
    assert names(rig) == ["close"] * (1 if processed else 2) + ["open_trade"]
    assert rig.actions()[0].successor == "reopened-1"


async def test_a_crash_after_the_intent_closes_under_the_same_id_and_opens_the_rest():
    rig = isolated()
    await rig.crash(1, processed=False)
    await rig.run()
    assert names(rig) == ["close", "close", "open_trade"]
    [record] = rig.actions()
    assert record.successor == "reopened-1"


async def test_a_crash_after_the_close_opens_the_rest_at_the_next_start():
    """Failure 24: the close is proved at start, and the second step follows."""
    rig = isolated()
    await rig.crash(1, processed=True)
    rig.clock.advance(50)
    await rig.run()
    assert names(rig) == ["close", "open_trade"]
    assert rig.actions()[0].successor == "reopened-1"


async def crashed_between_the_steps(rig):
    """Let the process die when the close is proved and the price is asked for."""
    quote = rig.prices.quote

    async def dies():
        if rig.exchange.calls:
            raise Crash
        return await quote()

    rig.prices.quote = dies
    with pytest.raises(BaseExceptionGroup):
        await rig.run()
    rig.prices.quote = quote
    rig.start()
    [left] = rig.book.unopened()
    assert (left.is_reopening, left.sent_at) == (True, None)


async def test_a_crash_between_the_steps_is_resumed_within_60_s():
    rig = isolated()
    await crashed_between_the_steps(rig)
    rig.clock.advance(59)
    await rig.run()
    assert names(rig) == ["close", "open_trade"]
    execution = [r for r in rig.journal.records if hasattr(r, "positions_requiring_action")][-1]
    assert (execution.status.value, execution.positions_succeeded) == ("completed", 1)


async def test_a_crash_between_the_steps_leaves_the_rest_closed_after_60_s_and_says_so():
    rig = isolated()
    await crashed_between_the_steps(rig)
    rig.clock.advance(61)
    await rig.run()
    assert names(rig) == ["close"]
    [notice] = told(rig, "action_failed")
    assert notice.severity.value == "critical"
    assert "the rest stays closed: more than 60 s" in notice.text
    assert rig.book.unsettled == ()


@pytest.mark.parametrize("changes", [{"dry_run": True}, {"auto_execution": False}])
async def test_a_guard_that_may_no_longer_act_opens_nothing(changes):
    rig = isolated()
    await crashed_between_the_steps(rig)
    rig.reconfigure(action=REDUCE, **changes)
    await rig.run()
    assert names(rig) == ["close"]
    assert "the rest stays closed" in told(rig, "action_failed")[0].text


async def test_a_reopening_that_a_crash_cut_short_is_found_by_its_tag():
    rig = isolated()
    await rig.crash(2, processed=True)
    await rig.run()
    assert names(rig) == ["close", "open_trade"]
    assert rig.actions()[0].successor == "reopened-1"


@pytest.mark.parametrize("crashed", [True, False])
async def test_a_reopening_that_is_not_found_is_never_sent_again_and_the_owner_is_told(crashed):
    rig = isolated()
    if crashed:
        await rig.crash(2, processed=False)
    else:
        rig.exchange.script.extend([(True, done()), LOST])
        await rig.run()
    await rig.run()
    rig.clock.advance(34)
    await rig.run()
    assert told(rig, "action_failed") == []
    rig.clock.advance(2)
    await rig.run()
    assert names(rig) == ["close", "open_trade"]
    [notice] = told(rig, "action_failed")
    assert (notice.severity.value, rig.actions()[0].status) == ("critical", ActionStatus.DONE)
    assert "the rest stays closed" in notice.text


async def test_a_reopening_carried_out_late_is_found_and_followed():
    rig = isolated()
    rig.exchange.script.extend([(True, done()), LOST])
    await rig.run()
    rig.clock.advance(25)
    rig.exchange.open(rig.exchange.calls[1][1])
    await rig.run()
    assert rig.actions()[0].successor == "reopened-1"
    assert names(rig) == ["close", "open_trade"]
    assert "position_opened" not in rig.ears.kinds()


async def test_a_reopened_trade_that_ended_before_it_was_seen_is_found_by_its_tag():
    rig = isolated()
    rig.exchange.script.extend([(True, done()), (True, ambiguous())])
    calls = []
    rig.exchange.on_call = lambda: calls.append(1)
    read = rig.exchange.running_positions

    async def ends_first(**_):
        rig.exchange.end("reopened-1")
        return await read()

    rig.exchange.running_positions = ends_first
    await rig.run()
    [record] = rig.actions()
    assert (record.status, record.successor) == (ActionStatus.DONE, "reopened-1")
    assert "has ended since" in record.proof


async def test_a_refused_reopening_leaves_the_rest_closed_and_says_so():
    rig = isolated(fallback=(CLOSE,))
    rig.exchange.script.extend([(True, done()), REFUSED])
    await rig.run()
    await rig.run()
    assert names(rig) == ["close", "open_trade"]
    [record] = rig.actions()
    assert (record.status, record.error) == (ActionStatus.DONE, "the rest stays closed: refused")
    assert told(rig, "action_failed")[0].severity.value == "critical"
    assert "position_gone" not in rig.ears.kinds()


async def test_a_price_that_slipped_leaves_the_rest_closed():
    rig = isolated()
    rig.exchange.on_call = lambda: setattr(rig.prices, "price", rig.prices.price * 0.994)
    await rig.run()
    assert names(rig) == ["close"]
    assert "more than reopen_slippage 0.5 %" in rig.actions()[0].error


async def test_a_reopening_that_was_busy_is_tried_again():
    rig = isolated()
    rig.exchange.script.extend([(True, done()), (False, busy()), (False, not_sent())])
    await rig.run()
    assert names(rig) == ["close", "open_trade", "open_trade", "open_trade"]
    assert rig.actions()[0].successor == "reopened-1"


async def test_a_reopening_that_stays_busy_leaves_the_rest_closed_and_says_so():
    rig = isolated()
    rig.exchange.script.extend([(True, done()), *[(False, busy())] * 3])
    await rig.run()
    assert rig.actions()[0].error == "the rest stays closed: busy"
    assert told(rig, "action_failed")


async def test_a_blip_of_the_price_does_not_keep_the_rest_closed():
    rig = isolated()
    quote = rig.prices.quote
    failures = [Unreachable("down")]

    async def fails_once():
        if rig.exchange.calls and failures:
            raise failures.pop()
        return await quote()

    rig.prices.quote = fails_once
    await rig.run()
    assert names(rig) == ["close", "open_trade"]


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ({"price": None}, "the price is not known"),
        ({"age_s": 6.0}, "the price is 6.0 s old"),
        ({"confirmed": False}, "nothing confirms it"),
    ],
)
async def test_without_a_price_to_rely_on_the_rest_stays_closed(trouble, said):
    rig = isolated()

    def befalls():
        for name, value in trouble.items():
            setattr(rig.prices, name, value)

    rig.exchange.on_call = befalls
    await rig.run()
    assert names(rig) == ["close"]
    assert said in rig.actions()[0].error


@pytest.mark.parametrize("price", [91_000.0, 90_950.0])
async def test_a_trade_that_ended_by_itself_is_not_opened_again(price):
    """Failure 11: stopped out or liquidated while our close was under way."""
    rig = isolated(a_position(stop_loss=91_000.0, liquidation_price=90_950.0))
    rig.exchange.script.append(LOST)
    rig.exchange.on_call = lambda: rig.exchange.end("trade-1", price)
    await rig.run()
    await rig.run()
    assert names(rig) == ["close"]
    assert rig.actions()[0].status is ActionStatus.GONE
    assert rig.ears.kinds().count("position_gone") == 1


async def test_a_trade_that_its_owner_closed_first_is_not_opened_again():
    """Failure 11: the action ends as gone."""
    rig = isolated()
    rig.exchange.script.append(REFUSED)
    rig.exchange.on_call = lambda: rig.exchange.end("trade-1")
    await rig.run()
    await rig.run()
    assert names(rig) == ["close"]
    assert rig.actions()[0].status is ActionStatus.GONE


async def unsettled_reduction(**changes):
    """Return a rig whose reduction did not come further than its close, which is not known."""
    rig = isolated(**changes)
    rig.exchange.script.extend([LOST] * 3)
    await rig.run()
    assert rig.actions()[0].status is ActionStatus.UNKNOWN
    return rig


async def test_a_higher_rung_that_closes_ends_a_reduction_that_was_begun():
    rig = await unsettled_reduction(escalation=(a_rung(90.0, CLOSE),))
    rig.market(a_position(), 92)
    await rig.run()
    await rig.run()
    assert names(rig) == ["close"] * 4
    assert [(r.kind, r.status) for r in rig.actions()] == [
        (REDUCE, ActionStatus.GONE),
        (CLOSE, ActionStatus.DONE),
    ]


async def test_a_reduction_that_is_asked_for_again_is_planned_for_the_trade_as_it_is_now():
    rig = await unsettled_reduction()
    taken = replace(a_position(), margin=95_000, cashed_in=5_000, stop_loss=91_200.0)
    rig.exchange.positions["trade-1"] = taken
    await rig.run()
    [record] = rig.actions()
    assert record.before.margin == 95_000
    assert rig.exchange.calls[-1][1].stop_loss == 91_200.0
    brought = 95_000 + rig.exchange.closed["trade-1"].pl
    assert rig.exchange.positions["reopened-1"].margin < brought


async def test_another_step_than_the_one_left_unsettled_is_not_replaced_by_it():
    """The level fell to a rung that adds margin: the close of the rung above is not repeated."""
    rig = Rig(action=ADD, threshold=80.0, escalation=(a_rung(90.0, CLOSE),))
    rig.market(a_position(), 92)
    rig.exchange.script.extend([LOST] * 3)
    await rig.run()
    rig.market(a_position(), 85)
    await rig.run()
    assert names(rig) == ["close", "close", "close", "add_margin"]


async def test_with_a_full_disk_the_trade_is_closed_and_the_rest_stays_closed():
    """Failure 30: closing goes on; an order that a crash could repeat does not go out."""
    rig = isolated()
    rig.journal.full = True
    await rig.run()
    assert names(rig) == ["close"]
    assert "the rest stays closed: the journal cannot be written" in rig.ears.notices[-1].text


async def test_with_a_full_disk_the_cross_position_is_still_cut():
    """Failure 30: reducing goes on."""
    rig = cross()
    rig.journal.full = True
    await rig.run()
    assert names(rig) == ["reduce_cross"]


async def test_a_stop_of_the_daemon_between_the_steps_still_opens_the_rest():
    """Failure 25: an action under way is brought to its end."""
    rig = isolated()
    rig.exchange.on_call = rig.stop.set
    await rig.run()
    assert names(rig) == ["close", "open_trade"]
    assert rig.actions()[0].status is ActionStatus.DONE


async def test_a_refused_key_at_the_second_step_disarms_and_says_that_the_rest_stays_closed():
    """Failure 6: disarm, page the owner."""
    rig = isolated()
    rig.exchange.script.extend([(True, done()), *[(False, rejected(unauthorized=True))] * 2])
    await rig.run()
    assert rig.book.state.armed.value == "disarmed"
    assert "the rest stays closed" in told(rig, "action_failed")[0].text
