"""What a guard remembers: episodes, spending, the day's opening balance."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from marginguard.domain.memory import DayOpening, GuardMemory, Setback, Spend, open_episode
from marginguard.domain.model import ActionKind
from marginguard.domain.units import GuardId, Percent, PositionId, Price, Sats
from tests.unit.strategies import NOON

GUARD = GuardId("guard-1")
ONE, OTHER = PositionId("one"), PositionId("other")
RUNG = Percent(80.0)
CLOSE, ADD = ActionKind.CLOSE_POSITION, ActionKind.ADD_MARGIN


def with_open(memory, episode):
    return replace(memory, episodes=(*memory.episodes, episode))


def opened(*position_ids, threshold=RUNG):
    memory = GuardMemory()
    for position_id in position_ids:
        memory = with_open(memory, open_episode(GUARD, position_id, threshold, NOON))
    return memory


def a_spend(number, *, position_id=ONE, ago=timedelta(0)):
    return Spend(
        action_id=UUID(int=number), position_id=position_id, amount=Sats(100), at=NOON - ago
    )


def test_an_episode_belongs_to_one_position_and_one_threshold():
    memory = opened(ONE)

    assert memory.episode(ONE, RUNG).opened_at == NOON
    assert memory.episode(OTHER, RUNG) is None
    assert memory.episode(ONE, Percent(90.0)) is None


def test_the_ids_of_episodes_differ_by_guard_position_threshold_and_time():
    ids = {
        episode.id
        for episode in (
            open_episode(GUARD, ONE, RUNG, NOON),
            open_episode(GUARD, OTHER, RUNG, NOON),
            open_episode(GUARD, ONE, Percent(90.0), NOON),
            open_episode(GuardId("guard-2"), ONE, RUNG, NOON),
            open_episode(GUARD, ONE, RUNG, NOON + timedelta(microseconds=1)),
        )
    }

    assert len(ids) == 5


def test_an_action_is_noted_in_its_episode_alone():
    memory = opened(ONE, OTHER)
    at = NOON + timedelta(seconds=5)

    memory = memory.acted(memory.episode(ONE, RUNG).id, kind=CLOSE, at=at, level=Percent(83.0))

    episode = memory.episode(ONE, RUNG)
    assert (episode.last_action_at, episode.last_action_level) == (at, 83.0)
    assert episode.last_action_kind is CLOSE
    assert episode.setbacks == ()
    assert memory.episode(OTHER, RUNG).last_action_at is None


def a_setback(kind, reason="BAD_REQUEST"):
    return Setback(kind=kind, at=NOON, level=RUNG, reason=reason)


def test_the_newest_refusal_of_each_step_is_remembered_until_an_action_works():
    memory = opened(ONE)
    episode_id = memory.episode(ONE, RUNG).id

    for setback in (a_setback(ADD), a_setback(CLOSE), a_setback(ADD, "no balance")):
        memory = memory.refused(episode_id, setback)

    assert memory.episode(ONE, RUNG).setbacks == (a_setback(CLOSE), a_setback(ADD, "no balance"))
    memory = memory.acted(episode_id, kind=CLOSE, at=NOON, level=RUNG)
    assert memory.episode(ONE, RUNG).setbacks == ()


def test_an_action_of_an_episode_that_has_ended_changes_nothing():
    memory = opened(ONE)

    assert memory.acted("ended", kind=CLOSE, at=NOON, level=RUNG) == memory


def test_a_spend_is_taken_back_by_the_id_of_its_action():
    memory = GuardMemory().intending(a_spend(1)).intending(a_spend(2))

    assert memory.unspent(UUID(int=1)).spends == (a_spend(2),)
    assert memory.unspent(UUID(int=3)) == memory


def test_a_memory_is_changed_by_making_a_new_one():
    memory = opened(ONE)
    same = replace(memory)

    memory.intending(a_spend(1))
    memory.refused(memory.episodes[0].id, a_setback(CLOSE))
    memory.acted(memory.episodes[0].id, kind=CLOSE, at=NOON, level=RUNG)
    memory.observed(now=NOON, balance=Sats(5), running=())

    assert memory == same


def test_the_episodes_of_positions_that_no_longer_run_end():
    memory = opened(ONE, OTHER).observed(now=NOON, balance=None, running=iter([OTHER]))

    assert [episode.position_id for episode in memory.episodes] == [OTHER]


def test_spending_is_forgotten_after_a_day_unless_its_position_still_runs():
    young = a_spend(1, position_id=OTHER, ago=timedelta(hours=23, minutes=59))
    old = a_spend(2, position_id=OTHER, ago=timedelta(hours=24))
    of_a_running_position = a_spend(3, position_id=ONE, ago=timedelta(days=30))
    memory = GuardMemory(spends=(young, old, of_a_running_position))

    observed = memory.observed(now=NOON, balance=None, running=[ONE])

    assert observed.spends == (young, of_a_running_position)


def test_the_day_opens_with_the_balance_at_the_first_look():
    first = GuardMemory().observed(now=NOON, balance=Sats(1_000), running=())
    later = first.observed(now=NOON + timedelta(hours=11), balance=Sats(5), running=())

    assert first.opening == DayOpening(day=NOON.date(), balance=Sats(1_000))
    assert later.opening == first.opening


def test_the_next_day_opens_at_midnight_utc():
    memory = GuardMemory().observed(now=NOON, balance=Sats(1_000), running=())

    next_day = memory.observed(now=NOON + timedelta(hours=12), balance=Sats(700), running=())

    assert next_day.opening.balance == 700
    assert next_day.opening.day == NOON.date() + timedelta(days=1)


def test_an_unknown_balance_does_not_open_the_day():
    memory = GuardMemory().observed(now=NOON, balance=None, running=())

    assert memory.opening is None
    assert memory.observed(now=NOON, balance=Sats(9), running=()).opening.balance == 9


# --- lineages and stop-losses ---------------------------------------------------------------


def test_a_reopened_trade_keeps_the_first_id_and_margin_through_any_number_of_reductions():
    memory = GuardMemory().followed(ONE, OTHER, margin=Sats(900), at=NOON)
    memory = memory.followed(OTHER, PositionId("third"), margin=Sats(300), at=NOON)

    assert memory.origin_of(PositionId("third")) == ONE
    assert memory.lineage(PositionId("third")).original_margin == 900
    assert memory.lineage(OTHER) is None
    assert memory.origin_of(OTHER) == OTHER


def test_following_moves_what_belongs_to_the_trade_and_nothing_else():
    memory = replace(opened(ONE, OTHER), spends=(a_spend(1), a_spend(2, position_id=OTHER)))
    memory = memory.with_stop_losses(ONE, (Price(1.0),), NOON)
    memory = memory.with_stop_losses(OTHER, (Price(2.0),), NOON)
    new = PositionId("new")

    memory = memory.followed(ONE, new, margin=Sats(9), at=NOON)

    assert {e.position_id for e in memory.episodes} == {new, OTHER}
    assert [s.position_id for s in memory.spends] == [new, OTHER]
    assert memory.stop_losses_of(new) == (1.0,)
    assert memory.stop_losses_of(OTHER) == (2.0,)
    assert memory.stop_losses_of(ONE) == ()
    assert memory.followed(ONE, new, margin=Sats(1), at=NOON) == memory


def test_the_stop_losses_of_a_trade_are_replaced_as_a_whole():
    memory = GuardMemory().with_stop_losses(ONE, (Price(1.0), Price(2.0)), NOON)
    memory = memory.with_stop_losses(ONE, (Price(3.0),), NOON)

    assert memory.stop_losses_of(ONE) == (3.0,)
    assert memory.with_stop_losses(ONE, (), NOON).backstops == ()


@pytest.mark.parametrize(("age", "kept"), [(59, True), (60, False)])
def test_the_lineage_and_stop_loss_of_a_trade_that_a_read_lacks_are_kept_for_an_hour(age, kept):
    """A read may be older than the trade that it does not show."""
    at = NOON - timedelta(minutes=age)
    memory = GuardMemory().followed(ONE, OTHER, margin=Sats(9), at=at)
    memory = memory.with_stop_losses(OTHER, (Price(1.0),), at)

    gone = memory.observed(now=NOON, balance=None, running=())
    runs = memory.observed(now=NOON, balance=None, running=[OTHER])

    assert (gone.lineages != (), gone.backstops != ()) == (kept, kept)
    assert (runs.lineages, runs.backstops) == (memory.lineages, memory.backstops)
