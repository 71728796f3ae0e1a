"""The heap by type."""

import asyncio

from marginguard.telemetry.heap import by_type


class Held:
    """An object with a place for one value."""

    def __init__(self):
        self.value = self


class Rude:
    """An object that does not say its size."""

    def __sizeof__(self):
        raise RuntimeError("no")

    def __init__(self):
        self.value = self


def name_of(kind):
    return f"{kind.__module__}.{kind.__qualname__}"


async def test_the_types_that_take_most_come_first_with_their_counts():
    held = [Held() for _ in range(20_000)]
    rows = await by_type(10_000)
    assert [row.bytes for row in rows] == sorted((row.bytes for row in rows), reverse=True)
    [row] = [row for row in rows if row.type == name_of(Held)]
    assert row.count == len(held)
    assert row.bytes >= 16 * len(held)
    assert len(await by_type(3)) == 3


async def test_an_object_that_does_not_say_its_size_is_counted_all_the_same():
    rude = [Rude() for _ in range(7)]
    [row] = [row for row in await by_type(100_000) if row.type == name_of(Rude)]
    assert (row.count, row.bytes) == (len(rude), 0)


async def test_other_tasks_go_on_while_it_is_counted():
    turns = 0

    async def work():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    worker = asyncio.create_task(work())
    many = [[] for _ in range(50_000)]
    await by_type(1)
    worker.cancel()
    assert turns > len(many) / 10_000
