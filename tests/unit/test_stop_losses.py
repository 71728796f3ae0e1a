"""The backstop keeper: stop-losses on the exchange that follow the positions."""

import pytest

from marginguard.domain.backstop import backstop_price
from marginguard.domain.model import ActionKind, Side
from marginguard.domain.records import ActionRecord, ActionStatus, ExecutionRecord
from tests.unit.fakes import Rig, ambiguous, rejected
from tests.unit.strategies import a_cross_position, a_position

ADD = ActionKind.ADD_MARGIN
CLOSE = ActionKind.CLOSE_POSITION
REDUCE = ActionKind.REDUCE_POSITION
REFUSED = (False, rejected())
LOST = (False, ambiguous())
AT_90 = backstop_price(a_position(), 90.0)


def kept(*positions, action=CLOSE, backstop=90.0, **changes):
    """Return a rig whose guard keeps a backstop at 90 %; the threshold is 80."""
    return Rig(*(positions or (a_position(),)), action=action, backstop=backstop, **changes)


def names(rig):
    return [call[0] for call in rig.exchange.calls]


def stop_of(rig, position_id="trade-1"):
    return rig.exchange.positions[position_id].stop_loss


def told(rig, kind):
    return [notice for notice in rig.ears.notices if notice.kind.value == kind]


@pytest.mark.parametrize("side", Side)
async def test_a_backstop_is_set_when_the_guard_arms_and_is_then_left_alone(side):
    position = a_position(side=side)
    rig = kept(position)
    await rig.run()
    assert stop_of(rig) == backstop_price(position, 90.0)
    await rig.run()
    assert names(rig) == ["set_stop_loss"]
    [record] = rig.actions()
    assert (record.status, record.episode_id) == (ActionStatus.DONE, "")
    assert rig.ears.seen["main"]["trade-1"].backstop == stop_of(rig)
    assert told(rig, "action_done") == []


async def test_the_intent_of_a_stop_loss_is_durable_before_the_call():
    rig = kept()
    seen = []
    rig.exchange.on_call = lambda: seen.extend(rig.journal.of(ActionRecord))
    await rig.run()
    assert [(r.status, r.stop_loss) for r in seen] == [(ActionStatus.INTENDED, AT_90)]


@pytest.mark.parametrize(
    "moved",
    [{"margin": 120_000}, {"margin": 95_000, "funding_paid": 5_000}, {"quantity": 800}],
)
async def test_a_backstop_follows_margin_funding_and_quantity(moved):
    rig = kept()
    await rig.run()
    position = a_position(**moved)
    rig.exchange.positions["trade-1"] = a_position(**moved, stop_loss=stop_of(rig))
    await rig.run()
    assert stop_of(rig) == backstop_price(position, 90.0)
    assert names(rig) == ["set_stop_loss"] * 2


async def test_a_backstop_follows_an_addition_of_the_guards_own():
    rig = kept(action=ADD)
    await rig.run()
    rig.market(a_position(), 85)
    await rig.run()
    await rig.run()
    assert names(rig) == ["set_stop_loss", "add_margin", "set_stop_loss"]
    assert stop_of(rig) == backstop_price(rig.exchange.positions["trade-1"], 90.0)


async def test_a_position_that_was_just_acted_on_is_not_given_a_stop_loss_of_old():
    rig = kept(action=ADD)
    rig.market(a_position(), 85)
    await rig.run()
    assert names(rig) == ["add_margin"]
    await rig.run()
    assert names(rig) == ["add_margin", "set_stop_loss"]
    assert len(set(rig.exchange.positions)) == 1


async def test_no_stop_loss_is_asked_for_on_a_trade_that_was_just_closed():
    rig = kept()
    rig.market(a_position(), 85)
    await rig.run()
    assert names(rig) == ["close"]


async def test_a_stop_loss_whose_fate_is_unknown_does_not_hold_up_a_close():
    rig = kept()
    rig.exchange.script.append(LOST)
    await rig.run()
    rig.market(a_position(), 85)
    await rig.run()
    assert rig.exchange.calls[-1] == ("close", "trade-1")


async def test_a_stop_loss_waits_while_a_protective_action_is_not_settled():
    rig = kept(action=ADD)
    rig.market(a_position(), 85)
    rig.exchange.script.append(LOST)
    await rig.run()
    await rig.run()
    assert names(rig) == ["add_margin"]


@pytest.mark.parametrize("stop", [AT_90 + 100, None])
async def test_a_tighter_stop_loss_of_the_owners_stays(stop):
    rig = kept(a_position(stop_loss=stop))
    await rig.run()
    assert names(rig) == ([] if stop else ["set_stop_loss"])


async def test_a_stop_loss_of_the_owners_that_is_farther_away_is_moved_to_the_backstop():
    rig = kept(a_position(stop_loss=AT_90 - 100))
    await rig.run()
    assert stop_of(rig) == AT_90


async def test_a_trailing_stop_is_never_touched():
    rig = kept(a_position(stop_loss=AT_90 - 100, trailing_stop=True))
    await rig.run()
    assert names(rig) == []


async def test_the_cross_position_has_no_backstop():
    rig = kept(a_cross_position())
    await rig.run()
    assert names(rig) == []


async def test_a_backstop_that_is_no_longer_wanted_is_removed_if_it_was_ours():
    rig = kept()
    await rig.run()
    rig.reconfigure(action=CLOSE)
    await rig.run()
    assert rig.exchange.calls[-1] == ("set_stop_loss", "trade-1", None)
    assert stop_of(rig) is None
    assert rig.book.memory.backstops == ()


async def test_a_stop_loss_of_the_owners_is_not_removed():
    rig = kept()
    await rig.run()
    rig.exchange.stop("trade-1", AT_90 - 200)  # by hand
    rig.reconfigure(action=CLOSE)
    await rig.run()
    assert names(rig) == ["set_stop_loss"]
    assert stop_of(rig) == AT_90 - 200


async def test_a_restart_remembers_which_stop_losses_are_ours():
    rig = kept()
    await rig.run()
    rig.start()
    rig.exchange.top_up("trade-1", 20_000)
    await rig.run()
    assert names(rig) == ["set_stop_loss"] * 2
    assert stop_of(rig) < AT_90  # ours, so that it may be moved away from the market


async def test_a_stop_loss_of_ours_is_carried_over_and_moved_when_a_trade_is_reduced():
    """The backstop of the old trade must not close the new one where the old one ended."""
    rig = kept(action=REDUCE, backstop=95.0)
    await rig.run()
    old = stop_of(rig)
    rig.market(a_position(), 85)
    await rig.run()
    assert rig.exchange.calls[-1][1].stop_loss == old
    await rig.run()
    assert stop_of(rig, "reopened-1") < old
    new = rig.exchange.positions["reopened-1"]
    assert stop_of(rig, "reopened-1") == backstop_price(new, 95.0)


@pytest.mark.parametrize("changes", [{"auto_execution": False}, {"dry_run": True}])
async def test_no_backstop_is_kept_by_a_guard_that_does_not_act(changes):
    rig = kept(**changes)
    await rig.run()
    assert names(rig) == []


async def test_a_stop_loss_that_cannot_be_set_is_told_once_an_hour_and_tried_again():
    rig = kept()
    rig.exchange.script.extend([REFUSED] * 5)
    for _ in range(3):
        await rig.run()
        rig.clock.advance(30)
    assert names(rig) == ["set_stop_loss"] * 3
    [notice] = told(rig, "action_failed")
    assert f"to {AT_90:,.1f}" in notice.text
    rig.clock.advance(3600)
    await rig.run()
    assert len(told(rig, "action_failed")) == 2


async def test_a_stop_loss_that_timed_out_is_settled_by_what_stands_there():
    rig = kept()
    rig.exchange.script.extend([LOST] * 3)
    await rig.run()
    assert rig.actions()[0].status is ActionStatus.UNKNOWN
    rig.exchange.stop("trade-1", AT_90)
    await rig.run()
    assert rig.actions()[0].status is ActionStatus.DONE
    assert rig.book.memory.stop_losses_of("trade-1") == (AT_90,)
    assert rig.journal.of(ExecutionRecord) == []  # no position needed protection


async def test_a_stop_loss_that_never_stood_there_is_asked_for_again():
    rig = kept()
    rig.exchange.script.extend([LOST] * 3)
    await rig.run()
    rig.clock.advance(36)
    await rig.run()
    assert stop_of(rig) == AT_90
    assert [r.status for r in rig.actions()] == [ActionStatus.GONE, ActionStatus.DONE]


async def test_one_stop_loss_that_cannot_be_set_does_not_hold_up_the_others():
    """Failure 22: the others go on."""
    rig = kept(a_position(id="first"), a_position(id="second"))
    rig.exchange.script.append(REFUSED)
    await rig.run()
    assert stop_of(rig, "second") == AT_90


async def test_a_stop_loss_is_not_set_by_a_read_that_grew_old():
    """Failure 26: the age of the data is checked before anything is sent."""
    rig = kept(a_position(id="first"), a_position(id="second"))
    rig.exchange.on_call = lambda: rig.clock.advance(11)
    await rig.run()
    assert [call[1] for call in rig.exchange.calls] == ["first"]
    assert len(rig.actions()) == 1
    await rig.run()
    assert [call[1] for call in rig.exchange.calls] == ["first", "second"]


async def test_no_stop_loss_is_asked_for_after_the_daemon_was_asked_to_stop():
    """Failure 25: no new ones."""
    rig = kept(a_position(id="first"), a_position(id="second"))
    rig.exchange.on_call = rig.stop.set
    await rig.run()
    assert len(rig.exchange.calls) == 1


async def test_beyond_the_backstop_the_position_is_closed_at_once():
    rig = kept(action=ADD, escalation=())
    rig.market(a_position(), 91)
    await rig.run()
    assert names(rig) == ["close"]
