"""Fault rules: what they demand, which call they take, what becomes of it."""

import asyncio
import json

import pytest
from pydantic import ValidationError

from marginguard.simulator.calls import Reply
from marginguard.simulator.faults import Fault, FaultBook, FaultyLine

PATH = "/v3/futures/isolated/trade/close"


def fault(kind: str, **more: object) -> Fault:
    body = {"method": "POST", "path": PATH, "fault": kind} | more
    return Fault.model_validate_json(json.dumps(body))


class Processor:
    """Counts how often a call was carried out."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Reply:
        self.count += 1
        return Reply.of({"id": "a trade"})


@pytest.mark.parametrize(
    ("kind", "more", "word"),
    [
        ("explode", {}, "fault"),
        ("status", {}, "needs a status"),
        ("status_after", {}, "needs a status"),
        ("delay", {}, "needs a delay"),
        ("late", {}, "needs a delay"),
        ("drop_request", {"status": 500}, "takes no status"),
        ("malformed", {"delay": 1}, "takes no delay"),
        ("drop_response", {"processed": True}, "takes no processed"),
        ("delay", {"delay": 1, "gateway": True}, "takes no gateway"),
        ("status", {"status": 200}, "status"),
        ("delay", {"delay": -1}, "delay"),
        ("drop_request", {"times": 0}, "times"),
        ("drop_request", {"times": "2"}, "times"),
        ("drop_request", {"method": "post"}, "method"),
        ("drop_request", {"path": "/futures"}, "path"),
        ("drop_request", {"path": "/v3/futures?id=1"}, "path"),
        ("drop_request", {"tims": 1}, "tims"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(kind, more, word):
    with pytest.raises(ValidationError, match=word):
        fault(kind, **more)


def test_rules_are_used_in_order_and_counted_down():
    book = FaultBook()
    first, second = fault("drop_request", times=2), fault("drop_response")
    book.add(first)
    book.add(second)

    assert [book.take("POST", PATH) for _ in range(4)] == [first, first, second, None]


def test_a_rule_waits_for_its_method_and_path():
    book = FaultBook()
    rule = fault("drop_request")
    book.add(rule)

    assert book.take("GET", PATH) is None
    assert book.take("POST", f"{PATH}d") is None
    assert book.take("POST", PATH) is rule


@pytest.mark.parametrize(
    ("rule", "count", "status"),
    [
        (None, 1, 200),
        (fault("status", status=503), 0, 503),
        (fault("status_after", status=500), 1, 500),
        (fault("delay", delay=0.001), 1, 200),
        (fault("drop_request"), 0, None),
        (fault("drop_response"), 1, None),
        (fault("malformed"), 1, 200),
    ],
)
async def test_each_fault_carries_out_and_answers_as_it_says(rule, count, status):
    process = Processor()

    reply = await FaultyLine().answer(rule, process)

    assert process.count == count
    assert (None if reply is None else reply.status) == status


@pytest.mark.parametrize(
    ("more", "start"),
    [
        ({"status": 503}, b'{"message"'),
        ({"status": 503, "gateway": True}, b"<html>"),
        ({"status": 502}, b"<html>"),
        ({"status": 504}, b"<html>"),
    ],
)
async def test_a_status_comes_from_the_exchange_or_from_its_gateway(more, start):
    reply = await FaultyLine().answer(fault("status", **more), Processor())

    assert reply.body.startswith(start)


@pytest.mark.parametrize("processed", [True, False])
async def test_a_black_hole_answers_nothing_until_the_end(processed):
    line, process = FaultyLine(), Processor()

    call = asyncio.create_task(line.answer(fault("blackhole", processed=processed), process))
    await asyncio.sleep(0)
    assert not call.done()
    await line.close()

    assert await call is None
    assert process.count == int(processed)


async def test_a_late_call_is_carried_out_after_the_connection_was_closed():
    line, process, carried_out = FaultyLine(), Processor(), asyncio.Event()

    def process_and_tell() -> Reply:
        carried_out.set()
        return process()

    assert await line.answer(fault("late", delay=0.01), process_and_tell) is None
    assert process.count == 0
    async with asyncio.timeout(5):
        await carried_out.wait()
    await line.close()

    assert process.count == 1


@pytest.mark.parametrize("rule", [fault("late", delay=3600), fault("delay", delay=3600)])
async def test_the_end_cancels_what_was_to_happen_later(rule):
    line, process = FaultyLine(), Processor()

    call = asyncio.create_task(line.answer(rule, process))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await line.close()
        assert await call is None

    assert process.count == 0


async def test_a_late_call_that_breaks_the_exchange_is_not_swallowed():
    line, reached = FaultyLine(), asyncio.Event()

    def broken() -> Reply:
        reached.set()
        raise ZeroDivisionError

    await line.answer(fault("late", delay=0), broken)
    async with asyncio.timeout(5):
        await reached.wait()

    with pytest.raises(ZeroDivisionError):
        await line.close()
