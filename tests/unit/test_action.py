"""One action from intent to proof, under every way a call can end."""

from datetime import timedelta

import pytest

from marginguard.domain.errors import Unreachable
from marginguard.domain.model import ActionKind
from marginguard.domain.records import ActionRecord, ActionStatus
from tests.unit.fakes import Rig, ambiguous, busy, done, not_sent, rejected
from tests.unit.strategies import a_cross_position, a_position, price_at

CLOSE = ActionKind.CLOSE_POSITION
ADD = ActionKind.ADD_MARGIN


def breached(action, **changes):
    """Return a rig whose one position has used up 85 % of its margin; the threshold is 80."""
    rig = Rig(action=action, **changes)
    rig.prices.price = price_at(a_position(), 85)
    return rig


async def test_an_intent_is_durable_before_the_call_goes_out():
    rig = breached(ADD)
    seen = []
    rig.exchange.on_call = lambda: seen.extend(rig.journal.of(ActionRecord))
    await rig.run()
    assert [record.status for record in seen] == [ActionStatus.INTENDED]
    assert seen[0].before.margin == 100_000


@pytest.mark.parametrize("action", [CLOSE, ADD])
async def test_an_action_that_the_position_shows_is_done(action):
    rig = breached(action)
    await rig.run()
    [record] = rig.actions()
    assert record.status is ActionStatus.DONE
    assert record.proof
    assert len(rig.exchange.calls) == 1


async def test_a_done_that_the_position_does_not_show_is_not_done():
    rig = breached(ADD)
    rig.exchange.script.append((False, done()))
    await rig.run()
    [record] = rig.actions()
    assert record.status is ActionStatus.UNKNOWN


async def test_a_close_that_timed_out_but_worked_is_not_sent_again():
    """Failure 1: read the trade; close again only if it still runs."""
    rig = breached(CLOSE)
    rig.exchange.script.append((True, ambiguous()))
    await rig.run()
    assert len(rig.exchange.calls) == 1
    assert rig.actions()[0].status is ActionStatus.DONE


async def test_a_close_that_timed_out_and_did_not_work_is_sent_again():
    """Failure 1: the trade still runs, so closing it again is safe."""
    rig = breached(CLOSE)
    rig.exchange.script.append((False, ambiguous()))
    await rig.run()
    assert len(rig.exchange.calls) == 2
    [record] = rig.actions()
    assert (record.status, record.attempts) == (ActionStatus.DONE, 2)


async def test_an_addition_that_timed_out_but_worked_is_done_by_the_margin():
    """Failure 2: the margin tells."""
    rig = breached(ADD)
    rig.exchange.script.append((True, ambiguous()))
    await rig.run()
    assert len(rig.exchange.calls) == 1
    assert rig.actions()[0].status is ActionStatus.DONE


async def test_an_addition_that_timed_out_and_is_not_seen_is_never_sent_again():
    """Failure 2: "not applied" proves nothing while the request lives."""
    rig = breached(ADD)
    rig.exchange.script.append((False, ambiguous()))
    await rig.run()
    await rig.run()
    assert len(rig.exchange.calls) == 1
    assert rig.actions()[0].status is ActionStatus.UNKNOWN


async def test_an_addition_carried_out_late_is_found_and_not_repeated():
    """Failure 2: a request may be carried out up to 30 s after it was signed."""
    rig = breached(ADD)
    rig.exchange.script.append((False, ambiguous()))
    await rig.run()
    rig.clock.advance(20)
    rig.exchange.top_up("trade-1", rig.exchange.calls[0][2])
    await rig.run()
    assert len(rig.exchange.calls) == 1
    assert rig.actions()[0].status is ActionStatus.DONE


async def test_an_addition_not_seen_after_35_s_never_happened_and_is_planned_again():
    """Failure 2: after 35 s the exchange no longer takes the request."""
    rig = breached(ADD)
    rig.exchange.script.append((False, ambiguous()))
    await rig.run()
    rig.clock.advance(34.9)
    await rig.run()
    assert len(rig.exchange.calls) == 1
    rig.clock.advance(0.2)
    await rig.run()
    first, second = rig.actions()
    assert (first.status, second.status) == (ActionStatus.REJECTED, ActionStatus.DONE)
    assert len(rig.exchange.calls) == 2


async def test_a_jump_of_the_wall_clock_does_not_shorten_the_35_s():
    """Failure 8: ages are monotonic."""
    rig = breached(ADD)
    rig.exchange.script.append((False, ambiguous()))
    await rig.run()
    rig.clock.wall_offset = timedelta(hours=1)
    await rig.run()
    assert len(rig.exchange.calls) == 1


async def test_an_addition_whose_outcome_cannot_be_told_freezes_spending_and_alerts():
    """Failure 2: cannot tell, then no more spending on that position, and alert."""
    rig = breached(ADD)
    rig.exchange.script.append((False, ambiguous()))
    await rig.run()
    rig.exchange.top_up("trade-1", 7)  # somebody else's
    rig.clock.advance(36)
    await rig.run()
    [record] = rig.actions()
    assert record.frozen
    rig.clock.advance(3600)
    await rig.run()
    assert len(rig.exchange.calls) == 1
    assert "unprotected" in rig.ears.kinds()


async def test_a_call_that_was_never_sent_is_tried_again():
    """Failure 15: safe to retry."""
    rig = breached(ADD)
    rig.exchange.script.extend([(False, not_sent()), (False, busy())])
    await rig.run()
    [record] = rig.actions()
    assert (record.status, record.attempts) == (ActionStatus.DONE, 3)
    assert len({call[2] for call in rig.exchange.calls}) == 1


async def test_a_call_that_is_never_sent_gives_up_and_leaves_the_next_run_free_to_act():
    rig = breached(ADD)
    rig.exchange.script.extend([(False, not_sent())] * 3)
    assert await rig.run() == 3
    assert rig.actions()[0].status is ActionStatus.REJECTED
    assert rig.book.memory.spends == ()
    await rig.run()
    assert rig.actions()[1].status is ActionStatus.DONE


async def test_a_refused_addition_is_not_retried_before_the_cooldown_is_over():
    """Failure 7: no retry; alert."""
    rig = breached(ADD)
    rig.exchange.script.append((False, rejected()))
    await rig.run()
    await rig.run()
    assert len(rig.exchange.calls) == 1
    assert "action_failed" in rig.ears.kinds()
    assert "unprotected" in rig.ears.kinds()


async def test_a_refused_key_is_tried_once_more_after_a_clock_resync_then_disarms():
    """Failure 6: disarm, page the owner."""
    rig = breached(CLOSE)
    rig.exchange.script.extend([(False, rejected(unauthorized=True))] * 2)
    await rig.run()
    assert (len(rig.exchange.calls), rig.exchange.resyncs) == (2, 1)
    assert rig.book.state.armed.value == "disarmed"
    assert "guard_disarmed" in rig.ears.kinds()


async def test_a_position_that_somebody_else_closed_ends_the_action_as_gone():
    """Failure 11: the action ends as gone; record and report."""
    rig = breached(CLOSE)
    rig.exchange.on_call = lambda: rig.exchange.end("trade-1")
    rig.exchange.script.append((False, rejected()))
    await rig.run()
    assert rig.actions()[0].status is ActionStatus.GONE
    assert "position_gone" in rig.ears.kinds()


async def test_margin_that_the_user_added_meanwhile_makes_the_plan_anew():
    """Failure 12: plan again."""
    rig = breached(ADD)
    rig.exchange.script.append((False, not_sent()))
    rig.exchange.on_call = lambda: rig.exchange.top_up("trade-1", 70_000)
    await rig.run()
    [record] = rig.actions()
    assert record.status is ActionStatus.REJECTED
    assert len(rig.exchange.calls) == 1


async def test_data_that_grew_old_is_not_acted_on():
    """Failure 26: data age is checked before anything is sent."""
    rig = breached(CLOSE)
    append = rig.journal.append

    async def frozen_while_writing_the_intent(*records, patience_s=0.0):
        await append(*records, patience_s=patience_s)
        if any(isinstance(record, ActionRecord) for record in records):
            rig.clock.advance(11)

    rig.journal.append = frozen_while_writing_the_intent
    await rig.run()
    assert rig.exchange.calls == []


async def test_an_unreadable_position_after_an_ambiguous_close_stays_unknown():
    rig = breached(CLOSE)
    rig.exchange.script.append((False, ambiguous()))
    rig.exchange.on_call = lambda: rig.exchange.read_errors.extend([Unreachable("down")] * 3)
    await rig.run()
    assert rig.actions()[0].status is ActionStatus.UNKNOWN
    assert len(rig.exchange.calls) == 1


async def test_a_full_disk_stops_spending_but_not_closing():
    """Failure 30: closing goes on, spending stops."""
    adding, closing = breached(ADD), breached(CLOSE)
    for rig in (adding, closing):
        rig.journal.full = True
        await rig.run()
    assert adding.exchange.calls == []
    assert [call[0] for call in closing.exchange.calls] == ["close"]


async def test_spending_resumes_once_the_disk_has_space_again():
    rig = breached(ADD)
    rig.journal.full = True
    await rig.run()
    rig.journal.full = False
    await rig.run()
    await rig.run()
    assert [call[0] for call in rig.exchange.calls] == ["add_margin"]


@pytest.mark.parametrize("processed", [True, False])
async def test_a_crash_between_intent_and_answer_is_settled_by_the_next_process(processed):
    """Failure 24: settled at start before anything more is spent on the position."""
    rig = breached(ADD)

    class Crash(BaseException):
        pass

    def crash():
        if processed:
            rig.exchange.top_up("trade-1", rig.exchange.calls[0][2])
        raise Crash

    rig.exchange.on_call = crash
    with pytest.raises(BaseExceptionGroup):
        await rig.run()
    rig.exchange.on_call = lambda: None
    rig.start()
    await rig.run()
    assert len(rig.exchange.calls) == 1
    [record] = rig.actions()
    assert (record.status is ActionStatus.DONE) == processed
    assert [spend.action_id for spend in rig.book.memory.spends] == [record.id]


async def test_a_close_left_unsettled_is_asked_for_again_under_its_own_id():
    rig = breached(CLOSE)
    rig.exchange.script.extend([(False, ambiguous())] * 3)
    await rig.run()
    assert rig.actions()[0].status is ActionStatus.UNKNOWN
    await rig.run()
    [record] = rig.actions()
    assert (record.status, record.attempts) == (ActionStatus.DONE, 4)


async def test_no_attempt_starts_after_the_daemon_was_asked_to_stop():
    """Failure 25: no new ones, settle."""
    rig = breached(CLOSE)
    rig.exchange.script.append((False, not_sent()))
    rig.exchange.on_call = rig.stop.set
    await rig.run()
    assert len(rig.exchange.calls) == 1


async def test_a_dry_run_goes_through_everything_and_sends_nothing():
    rig = breached(CLOSE, dry_run=True)
    await rig.run()
    await rig.run()
    assert rig.exchange.calls == []
    [record] = rig.actions()
    assert (record.dry_run, record.status) == (True, ActionStatus.REJECTED)
    assert rig.book.state.armed.value == "disarmed"


def breached_cross(action=ADD, **changes):
    rig = Rig(a_cross_position(), action=action, **changes)
    rig.prices.price = price_at(a_cross_position(), 85)
    return rig


@pytest.mark.parametrize("action", [CLOSE, ADD])
async def test_an_action_on_the_cross_position_is_done_and_proved(action):
    rig = breached_cross(action)
    await rig.run()
    assert rig.actions()[0].status is ActionStatus.DONE


async def test_a_deposit_that_timed_out_is_told_by_the_transfers_and_not_by_the_margin():
    rig = breached_cross()
    rig.exchange.script.append((False, ambiguous()))
    rig.exchange.on_call = lambda: rig.exchange.positions.update(
        cross=a_cross_position(margin=499_000)  # a fee, say
    )
    await rig.run()
    assert rig.actions()[0].status is ActionStatus.UNKNOWN
    rig.exchange.top_up("cross", rig.exchange.calls[0][2])
    await rig.run()
    assert rig.actions()[0].status is ActionStatus.DONE
    assert len(rig.exchange.calls) == 1


async def test_an_earlier_deposit_of_the_same_amount_does_not_prove_a_new_one():
    rig = breached_cross(rung={"add_margin_amount": 1_000})
    await rig.run()
    rig.clock.advance(60)
    rig.exchange.script.append((False, ambiguous()))
    await rig.run()
    assert [a.status for a in rig.actions()] == [ActionStatus.DONE, ActionStatus.UNKNOWN]


async def test_a_deposit_a_moment_ago_proves_one_action_alone():
    rig = breached_cross(rung={"add_margin_amount": 1_000})
    rig.prices.price = price_at(a_cross_position(), 97)  # no cooldown holds it back
    await rig.run()
    rig.clock.advance(0.5)
    rig.exchange.script.append((False, ambiguous()))
    await rig.run()
    assert [a.status for a in rig.actions()] == [ActionStatus.DONE, ActionStatus.UNKNOWN]


async def test_the_35_s_count_from_when_the_request_was_signed_at_the_latest():
    """Failure 2: a request that waited for its turn lives longer than its intent tells."""
    rig = breached(ADD)
    rig.exchange.script.append((False, ambiguous()))
    rig.exchange.on_call = lambda: rig.clock.advance(4)
    await rig.run()
    rig.clock.advance(32)
    await rig.run()
    assert len(rig.exchange.calls) == 1
    assert rig.actions()[0].status is ActionStatus.UNKNOWN
