"""What is remembered of an action on every way that it can go, and twice the same as once."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginguard.domain.ledger import remember
from marginguard.domain.memory import GuardMemory, open_episode
from marginguard.domain.model import ActionKind, Side
from marginguard.domain.outcome import OutcomeKind
from marginguard.domain.records import ActionStatus, Reopening
from marginguard.domain.units import CROSS, GuardId, Percent, PositionId, Price, Sats, Usd
from tests.unit.strategies import NOON, a_cross_position, a_position, a_state, an_action

ADD, CLOSE = ActionKind.ADD_MARGIN, ActionKind.CLOSE_POSITION
WIDEN, REDUCE = ActionKind.INCREASE_LIQUIDATION_DISTANCE, ActionKind.REDUCE_POSITION
STOP = ActionKind.SET_STOP_LOSS
PROTECTING = [kind for kind in ActionKind if kind.protects]
UNSETTLED = [ActionStatus.INTENDED, ActionStatus.SENT, ActionStatus.UNKNOWN]
SETTLED = [ActionStatus.DONE, ActionStatus.REJECTED, ActionStatus.GONE]

POSITION = a_position()
LATER = NOON + timedelta(seconds=3)
EPISODE = open_episode(GuardId("guard-1"), POSITION.id, Percent(80.0), NOON)
BREACHED = GuardMemory(episodes=(EPISODE,))
OLD, NEW, NEWER = Price(91_000.0), Price(91_500.0), Price(92_000.0)

ways = st.tuples(
    st.lists(st.sampled_from(UNSETTLED), max_size=5), st.none() | st.sampled_from(SETTLED)
).map(lambda way: [ActionStatus.INTENDED, *way[0], *([] if way[1] is None else [way[1]])])
"""Every order of statuses that an action can go through; it may never be settled."""


def an_act(kind, status=ActionStatus.INTENDED, **changes):
    record = an_action(
        kind, episode_id=EPISODE.id, amount=Sats(700 if kind.spends else 0), status=status
    )
    if status.settled:
        record = replace(record, settled_at=LATER, outcome=outcome_of(status))
    return replace(record, **changes)


def outcome_of(status):
    return OutcomeKind.REJECTED.value if status is ActionStatus.REJECTED else OutcomeKind.DONE.value


def remembered(*records, memory=BREACHED):
    for record in records:
        memory = remember(memory, record)
    return memory


def spent(memory):
    return sum(spend.amount for spend in memory.spends)


# --- every way ------------------------------------------------------------------------------


@given(st.sampled_from(PROTECTING), ways, st.booleans())
def test_to_remember_a_record_twice_is_to_remember_it_once(kind, way, dry_run):
    memory = BREACHED
    for status in way:
        record = an_act(kind, status, dry_run=dry_run, error="why")
        memory = remember(memory, record)

        assert remember(memory, record) == memory


@given(st.sampled_from(PROTECTING), ways)
def test_to_remember_the_whole_way_again_ends_the_same(kind, way):
    """What is read back from the journal may be in the memory already."""
    records = [an_act(kind, status) for status in way]
    once = remembered(*records)

    assert remembered(*records, memory=once) == once


@given(st.sampled_from(PROTECTING), ways)
def test_sats_count_from_the_intent_until_it_is_certain_that_they_were_not_taken(kind, way):
    """Rule 5: a crash must not drain the wallet."""
    memory = BREACHED
    for status in way:
        memory = remember(memory, an_act(kind, status))

        takes = kind.spends and status is not ActionStatus.REJECTED
        assert spent(memory) == (700 if takes else 0)
        assert len(memory.spends) == takes


@given(st.sampled_from(PROTECTING), ways)
def test_the_cooldown_begins_with_an_action_that_worked_alone(kind, way):
    memory = remembered(*(an_act(kind, status) for status in way))

    (episode,) = memory.episodes
    if way[-1] is ActionStatus.DONE:
        assert (episode.last_action_at, episode.last_action_level) == (LATER, 82.0)
        assert episode.last_action_kind is kind
    else:
        assert episode.last_action_at is None
    assert bool(episode.setbacks) == (way[-1] is ActionStatus.REJECTED)


def test_two_actions_count_apart():
    first, second = an_act(ADD), an_act(WIDEN, id=an_action(number=2).id)

    memory = remembered(first, second)
    assert spent(memory) == 1_400
    memory = remembered(replace(first, status=ActionStatus.REJECTED), memory=memory)
    assert [one.action_id for one in memory.spends] == [second.id]


# --- refusals -------------------------------------------------------------------------------


def test_a_refusal_by_the_exchange_is_a_setback_with_its_words():
    memory = remembered(an_act(ADD, ActionStatus.REJECTED, error="BAD_REQUEST: no balance"))

    (setback,) = memory.episodes[0].setbacks
    assert (setback.kind, setback.at, setback.level) == (ADD, LATER, 82.0)
    assert setback.reason == "BAD_REQUEST: no balance"


@pytest.mark.parametrize(
    "outcome", [None, *(kind for kind in OutcomeKind if kind is not OutcomeKind.REJECTED)]
)
def test_what_never_reached_the_exchange_may_be_tried_again_at_once(outcome):
    """Failure 15: not sent, safe to retry."""
    outcome = None if outcome is None else outcome.value

    memory = remembered(an_act(ADD), an_act(ADD, ActionStatus.REJECTED, outcome=outcome))

    assert memory == BREACHED


def test_a_dry_run_holds_its_next_one_back_and_spends_nothing():
    memory = remembered(an_act(ADD, ActionStatus.REJECTED, dry_run=True, outcome="dry_run"))

    assert memory.spends == ()
    assert memory.episodes[0].last_action_at == LATER


def test_an_action_that_works_wipes_out_the_setbacks():
    memory = remembered(
        an_act(ADD, ActionStatus.REJECTED),
        an_act(CLOSE, ActionStatus.DONE, id=an_action(number=2).id),
    )

    assert memory.episodes[0].setbacks == ()


def test_a_deposit_keeps_the_transfer_that_proves_it():
    cross = a_cross_position()
    deposit = an_act(ADD, ActionStatus.DONE, position_id=CROSS, before=a_state(cross))

    memory = remembered(replace(deposit, exchange_id="transfer-7"))

    assert memory.spends[0].transfer_id == "transfer-7"


# --- reductions -----------------------------------------------------------------------------

PLAN = Reopening(
    side=Side.LONG, quantity=Usd(500), stop_loss=None, take_profit=None, closed_at=NOON
)


def reduced(before, after, number=3, margin=100_000):
    return an_act(
        REDUCE,
        ActionStatus.DONE,
        id=an_action(number=number).id,
        position_id=PositionId(before),
        successor=PositionId(after),
        reopening=PLAN,
        before=a_state(a_position(margin=Sats(margin))),
    )


def test_a_trade_opened_again_is_followed_with_all_that_belongs_to_it():
    memory = remembered(
        an_act(ADD, ActionStatus.DONE),
        an_act(STOP, ActionStatus.DONE, stop_loss=OLD, id=an_action(number=2).id),
        reduced(POSITION.id, "second"),
    )

    second = PositionId("second")
    assert memory.origin_of(second) == POSITION.id
    assert memory.lineage(second).original_margin == 100_000
    assert [spend.position_id for spend in memory.spends] == [second]
    assert memory.stop_losses_of(second) == (OLD,)
    assert memory.stop_losses_of(POSITION.id) == ()
    (episode,) = memory.episodes
    assert (episode.position_id, episode.last_action_kind) == (second, REDUCE)


def test_a_second_reduction_told_twice_keeps_the_first_id():
    first, second = reduced("one", "two"), reduced("two", "three", number=4, margin=40_000)

    memory = remembered(first, second, second)

    assert memory.origin_of(PositionId("three")) == "one"
    assert memory.lineage(PositionId("three")).original_margin == 100_000
    assert len(memory.lineages) == 1


def test_a_reduction_whose_rest_stays_closed_has_no_successor():
    memory = remembered(replace(reduced(POSITION.id, "x"), successor=None))

    assert memory.lineages == ()
    assert memory.episodes[0].last_action_kind is REDUCE


# --- stop-losses ----------------------------------------------------------------------------


def a_stop(status, price, *, standing=None, **changes):
    return an_act(
        STOP,
        status,
        stop_loss=price,
        before=a_state(a_position(stop_loss=standing)),
        **{"episode_id": "", **changes},
    )


def ours(*records, known=()):
    memory = GuardMemory().with_stop_losses(POSITION.id, known, NOON)
    return remembered(*records, memory=memory).stop_losses_of(POSITION.id)


@pytest.mark.parametrize("status", UNSETTLED)
def test_until_it_is_settled_either_stop_loss_may_stand_there(status):
    assert ours(a_stop(status, NEW, standing=OLD), known=(OLD,)) == (OLD, NEW)
    assert ours(a_stop(status, None, standing=OLD), known=(OLD,)) == (OLD,)


def test_once_it_is_proved_only_that_one_is_ours():
    assert ours(a_stop(ActionStatus.DONE, NEW), known=(OLD, NEW)) == (NEW,)
    assert ours(a_stop(ActionStatus.DONE, None), known=(OLD, NEW)) == ()


def test_once_it_is_certain_that_it_was_not_set_it_is_not_ours():
    """Else one that the owner sets there later would be removed."""
    assert ours(a_stop(ActionStatus.REJECTED, NEW, standing=OLD), known=(OLD, NEW)) == (OLD,)
    assert ours(a_stop(ActionStatus.REJECTED, None, standing=OLD), known=(OLD,)) == (OLD,)


def test_one_that_stood_before_stays_ours_where_it_is_refused_again():
    assert ours(a_stop(ActionStatus.REJECTED, OLD, standing=OLD), known=(OLD,)) == (OLD,)


def test_a_dry_run_sets_nothing():
    assert ours(a_stop(ActionStatus.DONE, NEW, dry_run=True), known=(OLD,)) == (OLD,)


@given(
    st.lists(st.tuples(st.sampled_from([None, OLD, NEW, NEWER]), ways, st.booleans()), max_size=6)
)
def test_what_stands_there_of_ours_is_never_forgotten(moves):
    """Whatever becomes of the requests: forgotten, it would pass for the owner's."""
    memory, standing = GuardMemory(), None
    for number, (price, way, applied) in enumerate(moves):
        before = standing
        for status in way:
            if status is ActionStatus.DONE or (applied and not status.settled):
                standing = price
            if status is ActionStatus.REJECTED:
                standing = before
            record = a_stop(status, price, standing=before, id=an_action(number=number).id)
            memory = remember(memory, record)

            assert remember(memory, record) == memory
            known = memory.stop_losses_of(POSITION.id)
            if status is ActionStatus.GONE:
                return
            assert standing is None or standing in known
