"""One read for all who ask at the same time."""

import asyncio

import pytest

from marginguard.domain.errors import Unreachable
from marginguard.lnmarkets.sharing import Shared


class Source:
    """Counts how often it is read; each read waits for `gate`."""

    def __init__(self):
        self.reads = 0
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.fails = False
        self.brings = lambda number: number

    async def read(self):
        self.reads += 1
        number = self.reads
        self.begun.set()
        await self.gate.wait()
        if self.fails:
            raise Unreachable("no network")
        return self.brings(number)


async def test_many_who_ask_at_once_cost_two_reads():
    source = Source()
    shared = Shared(source.read)
    asking = [asyncio.create_task(shared.get()) for _ in range(10)]
    await source.begun.wait()
    source.gate.set()
    results = await asyncio.gather(*asking)
    assert source.reads == 2
    assert results == [1] + [2] * 9


async def test_nobody_gets_what_was_under_way_before_they_asked():
    source = Source()
    shared = Shared(source.read)
    early = asyncio.create_task(shared.get())
    await source.begun.wait()
    late = asyncio.create_task(shared.get())
    source.gate.set()
    assert (await early, await late) == (1, 2)


async def test_one_who_asks_later_gets_a_read_of_their_own():
    source = Source()
    source.gate.set()
    shared = Shared(source.read)
    assert [await shared.get(), await shared.get()] == [1, 2]


async def test_a_read_that_brings_nothing_is_shared_as_well():
    source = Source()
    source.brings = lambda _number: None
    shared = Shared(source.read)
    asking = [asyncio.create_task(shared.get()) for _ in range(5)]
    await source.begun.wait()
    source.gate.set()
    assert await asyncio.gather(*asking) == [None] * 5
    assert source.reads == 2


async def test_a_failure_is_shared_as_well():
    """Ten guards must not wait for ten time-outs in a row."""
    source = Source()
    source.fails = True
    shared = Shared(source.read)
    asking = [asyncio.create_task(shared.get()) for _ in range(10)]
    await source.begun.wait()
    source.gate.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(result) for result in results} == {Unreachable}
    assert source.reads == 2


async def test_one_who_gives_up_does_not_take_the_others_along():
    source = Source()
    shared = Shared(source.read)
    impatient = asyncio.create_task(shared.get())
    await source.begun.wait()
    patient = asyncio.create_task(shared.get())
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    source.gate.set()
    assert await patient == 2


class Recent:
    """A shared read, its time moved by hand, and how many changes were made meanwhile."""

    def __init__(self):
        self.source = Source()
        self.source.gate.set()
        self.now_s = 0.0
        self.changes = 0
        self.shared = Shared(
            self.source.read, now_s=lambda: self.now_s, changes=lambda: self.changes
        )


async def test_a_recent_read_will_do_for_one_who_says_so():
    recent = Recent()
    await recent.shared.get()
    recent.now_s = 1.0
    assert await recent.shared.get(max_age_s=1.0) == 1


async def test_a_read_that_began_too_long_ago_does_not_do():
    """Its age counts from its beginning, since that is how old what it shows may be."""
    recent = Recent()
    recent.source.gate.clear()
    reading = asyncio.create_task(recent.shared.get())
    await recent.source.begun.wait()
    recent.now_s = 1.1
    recent.source.gate.set()
    await reading
    assert await recent.shared.get(max_age_s=1.0) == 2


@pytest.mark.parametrize("age_s", [0.0, 0.5])
async def test_a_proof_is_never_served_from_a_read_that_began_before_the_asking(age_s):
    recent = Recent()
    await recent.shared.get()
    recent.now_s = age_s
    assert await recent.shared.get() == 2


async def test_a_read_from_before_a_change_of_ours_does_not_do():
    recent = Recent()
    await recent.shared.get()
    recent.changes += 1
    assert await recent.shared.get(max_age_s=1.0) == 2


async def test_a_read_during_which_a_change_of_ours_began_does_not_do():
    recent = Recent()
    recent.source.gate.clear()
    reading = asyncio.create_task(recent.shared.get())
    await recent.source.begun.wait()
    recent.changes += 1
    recent.source.gate.set()
    await reading
    assert await recent.shared.get(max_age_s=1.0) == 2


async def test_a_failed_read_does_not_do():
    recent = Recent()
    recent.source.fails = True
    with pytest.raises(Unreachable):
        await recent.shared.get()
    recent.source.fails = False
    assert await recent.shared.get(max_age_s=1.0) == 2


async def test_many_who_are_content_with_a_read_under_way_cost_one():
    recent = Recent()
    recent.source.gate.clear()
    asking = [asyncio.create_task(recent.shared.get(max_age_s=1.0)) for _ in range(10)]
    await recent.source.begun.wait()
    recent.now_s = 30.0
    recent.source.gate.set()
    assert await asyncio.gather(*asking) == [1] * 10


async def test_what_was_brought_last_does_not_do_once_a_later_read_was_given_up():
    recent = Recent()
    await recent.shared.get()
    recent.source.gate.clear()
    recent.source.begun.clear()
    impatient = asyncio.create_task(recent.shared.get())
    await recent.source.begun.wait()
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    recent.source.gate.set()
    assert await recent.shared.get(max_age_s=1.0) == 3
