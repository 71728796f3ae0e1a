"""An action that waits for its turn rests on what is known when it has come."""

import asyncio
from dataclasses import replace

from marginguard.domain.errors import Unreachable
from marginguard.domain.model import ActionKind
from tests.unit.fakes import PROMPT, Rig
from tests.unit.strategies import a_position


async def waiting_for_its_turn(rig):
    """Return a run of a breached guard whose action waits, eleven seconds after the look."""
    rig.market(a_position(), 85)
    while not rig.executor.turns.locked():
        await rig.executor.turns.acquire()
    running = asyncio.create_task(rig.run())
    for _ in range(50):
        await asyncio.sleep(0)
    assert not running.done()
    rig.clock.advance(PROMPT.view_max_age_s + 1)
    return running


def patient():
    """Return a rig whose runs may take a minute."""
    settings = replace(PROMPT, timeout_s=60.0)
    return Rig(action=ActionKind.CLOSE_POSITION, settings=settings)


async def test_what_cannot_be_looked_at_again_is_left_to_the_next_run_without_an_intent():
    rig = patient()
    running = await waiting_for_its_turn(rig)
    rig.exchange.read_errors.append(Unreachable("the network is down"))
    rig.executor.turns.release()
    await running

    assert (rig.exchange.calls, rig.actions()) == ([], [])


async def test_what_could_be_looked_at_again_is_acted_on():
    rig = patient()
    running = await waiting_for_its_turn(rig)
    rig.executor.turns.release()
    await running

    assert [call[0] for call in rig.exchange.calls] == ["close"]
