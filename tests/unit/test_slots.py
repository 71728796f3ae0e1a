"""Who goes first when slots are short. Time is the event loop's own, and passes at once."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marginguard.engine.slots import AGEING_S, GIVEN_WAY, Slots, Turn

pytestmark = pytest.mark.looptime

TAKES_S = 1.0
priorities = st.integers(min_value=1, max_value=5)


def now_s():
    return asyncio.get_running_loop().time()


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


class Line:
    """A single slot, taken at first, and those who wait for it."""

    def __init__(self):
        self.lengths = []
        self.slots = Slots(1, on_waiting=self.lengths.append)
        self.order = []
        self.tasks = {}

    async def __aenter__(self):
        await self.slots.take(Turn(priority=1, since_s=now_s()))
        return self

    async def __aexit__(self, *_):
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def join(self, name, **turn):
        turn = Turn(since_s=now_s(), **turn)
        self.tasks[name] = asyncio.create_task(self._wait(name, turn))
        await settle()
        return turn

    async def _wait(self, name, turn):
        await self.slots.take(turn)
        self.order.append(name)

    async def serve(self, times=1):
        for _ in range(times):
            self.slots.give_back()
            await settle()


async def test_the_larger_priority_goes_first_and_equals_in_the_order_of_coming():
    async with Line() as line:
        for name, priority in (("free", 1), ("pro", 4), ("late pro", 4), ("lifetime", 5)):
            await line.join(name, priority=priority)
        await line.serve(4)
    assert line.order == ["lifetime", "pro", "late pro", "free"]


async def test_a_breach_goes_before_routine_of_any_priority():
    async with Line() as line:
        await line.join("lifetime", priority=5)
        await line.join("free, breached", priority=1, breached=True)
        await line.join("pro, breached", priority=4, breached=True)
        await line.serve(3)
    assert line.order == ["pro, breached", "free, breached", "lifetime"]


async def test_one_who_waits_is_hastened_by_a_breach():
    async with Line() as line:
        free = await line.join("free", priority=1)
        await line.join("lifetime", priority=5)
        line.slots.hasten(free)
        line.slots.hasten(free)
        await line.serve(2)
    assert line.order == ["free", "lifetime"]
    assert line.lengths == [1, 2, 1, 0]


@pytest.mark.parametrize(("head_start_s", "first"), [(0.1, "free"), (-0.1, "pro")])
async def test_waiting_makes_up_for_priority_at_its_rate(head_start_s, first):
    async with Line() as line:
        await line.join("free", priority=1)
        await asyncio.sleep(3 * AGEING_S + head_start_s)
        await line.join("pro", priority=4)
        await line.serve(2)
    assert line.order[0] == first


async def test_breaches_that_never_cease_leave_every_eighth_slot_to_routine():
    async with Line() as line:
        for number in range(2):
            await line.join(f"routine {number}", priority=1)
        for number in range(2 * GIVEN_WAY + 1):
            await line.join(f"breach {number}", priority=5, breached=True)
        await line.serve(2 * GIVEN_WAY + 2)
    assert line.order.index("routine 0") == GIVEN_WAY
    assert line.order.index("routine 1") == 2 * GIVEN_WAY + 1


async def test_one_who_gives_up_holds_no_slot():
    async with Line() as line:
        await line.join("impatient", priority=5)
        await line.join("patient", priority=1)
        line.tasks["impatient"].cancel()
        await settle()
        assert line.lengths[-1] == 1
        await line.serve()
    assert line.order == ["patient"]
    assert line.lengths[-1] == 0


async def test_one_who_gives_up_just_as_they_get_a_slot_passes_it_on():
    async with Line() as line:
        await line.join("impatient", priority=5)
        await line.join("patient", priority=1)
        line.slots.give_back()
        line.tasks["impatient"].cancel()
        await settle()
    assert line.order == ["patient"]


async def test_a_slot_that_nobody_waits_for_is_free_again():
    async with Line() as line:
        line.slots.give_back()
        await line.join("next", priority=1)
    assert line.order == ["next"]
    assert line.lengths == []


class Crowd:
    """Guards that are due again as soon as they have run: there are never slots enough."""

    def __init__(self, number_of_slots):
        self.slots = Slots(number_of_slots, on_waiting=lambda _waiting: None)
        self.longest_wait_s = {}
        self.under_way = 0
        self.most_under_way = 0

    async def live(self, name, priority, breached):
        self.longest_wait_s[name] = 0.0
        while True:
            turn = Turn(priority=priority, since_s=now_s(), breached=breached)
            try:
                await self.slots.take(turn)
            finally:
                waited_s = now_s() - turn.since_s
                self.longest_wait_s[name] = max(self.longest_wait_s[name], waited_s)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            await asyncio.sleep(TAKES_S)
            self.under_way -= 1
            self.slots.give_back()


@settings(max_examples=40)
@given(
    guards=st.lists(st.tuples(priorities, st.booleans()), min_size=1, max_size=12),
    number_of_slots=st.integers(min_value=1, max_value=4),
)
async def test_nobody_starves_whatever_the_priorities_and_breaches(guards, number_of_slots):
    crowd = Crowd(number_of_slots)
    tasks = [
        asyncio.create_task(crowd.live(name, priority, breached))
        for name, (priority, breached) in enumerate(guards)
    ]
    await asyncio.sleep(400.5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert crowd.most_under_way == min(number_of_slots, len(guards))
    largest = max(priority for priority, _ in guards)
    for name, (priority, _) in enumerate(guards):
        # Who comes later than that does not pass it; of those before it one in eight slots is
        # its own kind's at least.
        passed_s = (largest - priority) * AGEING_S
        bound_s = passed_s + (GIVEN_WAY + 1) * len(guards) * TAKES_S + TAKES_S
        assert crowd.longest_wait_s[name] <= bound_s
