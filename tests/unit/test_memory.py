"""What a guard remembers: episodes, spending, the day's opening balance."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from marginguard.domain.memory import DayOpening, GuardMemory, Spend
from marginguard.domain.units import GuardId, Percent, PositionId, Sats
from tests.unit.strategies import NOON

GUARD = GuardId("guard-1")
ONE, OTHER = PositionId("one"), PositionId("other")
RUNG = Percent(80.0)


def opened(*position_ids, threshold=RUNG):
    memory = GuardMemory()
    for position_id in position_ids:
        memory = memory.opened(GUARD, position_id, threshold, NOON)
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
        memory.episodes[0].id
        for memory in (
            opened(ONE),
            opened(OTHER),
            opened(ONE, threshold=Percent(90.0)),
            GuardMemory().opened(GuardId("guard-2"), ONE, RUNG, NOON),
            GuardMemory().opened(GUARD, ONE, RUNG, NOON + timedelta(microseconds=1)),
        )
    }

    assert len(ids) == 5


def test_closing_an_episode_leaves_the_others_open():
    memory = opened(ONE, OTHER)

    memory = memory.closed(memory.episode(ONE, RUNG))

    assert memory.episode(ONE, RUNG) is None
    assert memory.episode(OTHER, RUNG) is not None


def test_an_action_is_noted_in_its_episode_alone():
    memory = opened(ONE, OTHER)
    at = NOON + timedelta(seconds=5)

    memory = memory.acted(memory.episode(ONE, RUNG).id, at=at, level=Percent(83.0))

    episode = memory.episode(ONE, RUNG)
    assert (episode.last_action_at, episode.last_action_level) == (at, 83.0)
    assert episode.refusal is None
    assert memory.episode(OTHER, RUNG).last_action_at is None


def test_a_refusal_is_remembered_until_the_next_action():
    memory = opened(ONE)
    episode_id = memory.episode(ONE, RUNG).id

    refused = memory.acted(episode_id, at=NOON, level=RUNG, refusal="BAD_REQUEST")

    assert refused.episode(ONE, RUNG).refusal == "BAD_REQUEST"
    assert refused.acted(episode_id, at=NOON, level=RUNG).episode(ONE, RUNG).refusal is None


def test_an_action_of_an_episode_that_has_ended_changes_nothing():
    memory = opened(ONE)

    assert memory.acted("ended", at=NOON, level=RUNG) == memory


def test_a_spend_is_taken_back_by_the_id_of_its_action():
    memory = GuardMemory().intending(a_spend(1)).intending(a_spend(2))

    assert memory.unspent(UUID(int=1)).spends == (a_spend(2),)
    assert memory.unspent(UUID(int=3)) == memory


def test_a_memory_is_changed_by_making_a_new_one():
    memory = opened(ONE)
    same = replace(memory)

    memory.intending(a_spend(1))
    memory.closed(memory.episodes[0])
    memory.acted(memory.episodes[0].id, at=NOON, level=RUNG)
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
