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
