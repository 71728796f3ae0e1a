"""What becomes of an action that is not settled when its guard changes, moves or is refused."""

import asyncio
from dataclasses import replace

import pytest

from marginguard.domain.errors import Unreachable
from marginguard.domain.records import ActionRecord, ActionStatus, ArmedState
from marginguard.engine.engine import Disarmed
from tests.unit.fakes import FakeExchange, ambiguous
from tests.unit.operated import ADD, BY, RUN_NOW, a_guard, minutes, running

pytestmark = pytest.mark.looptime


async def lost(daemon, *, processed):
    """Leave an addition of the guard that times out and cannot be read, and return its record."""
    exchange = daemon.exchange
    read = exchange.running_positions

    async def unreadable(**_):
        if exchange.calls:
            raise Unreachable("down")
        return await read()

    exchange.running_positions = unreadable
    exchange.script.append((processed, ambiguous()))
    daemon.market(85)
    await daemon.operator.run_now("guard-1", by=BY, source=RUN_NOW)
    exchange.running_positions = read
    [record] = daemon.journal.unsettled_actions()
    return record


def newest(journal, action_id):
    return [r for r in journal.of(ActionRecord) if r.id == action_id][-1]


def apart(daemon, exchange):
    """Let the account "other" have an exchange of its own, without a position."""
    elsewhere = FakeExchange()
    elsewhere.positions.clear()
    elsewhere.clock = daemon.clock
    daemon.exchanges |= {"main": exchange, "other": elsewhere}


async def test_what_a_guard_that_moves_to_another_account_has_not_settled_is_settled_there():
    async with running(a_guard(action=ADD), accounts=("main", "other"), set_up=apart) as daemon:
        record = await lost(daemon, processed=True)
        await daemon.made.apply([replace(a_guard(action=ADD), account_id="other")], [])
        await minutes(2)
        assert newest(daemon.journal, record.id).status is ActionStatus.DONE
        assert daemon.last_state().account_id == "other"


async def test_an_action_on_an_account_that_its_guard_has_left_is_not_judged_by_another():
    async with running(a_guard(action=ADD)) as daemon:
        record = await lost(daemon, processed=True)
    moved = replace(a_guard(action=ADD), account_id="other")
    main = daemon.exchange
    async with running(
        moved,
        journal=daemon.journal,
        accounts=("main", "other"),
        set_up=lambda restarted, _: apart(restarted, main),
    ) as restarted:
        await minutes(2)
        assert newest(restarted.journal, record.id).status is ActionStatus.DONE
        assert restarted.last_state().account_id == "other"


async def test_a_guard_that_is_refused_stays_disarmed_when_what_it_left_is_settled():
    async with running(a_guard(action=ADD)) as daemon:
        record = await lost(daemon, processed=True)
    main = daemon.exchange
    refused = Disarmed(guard_id="guard-1", account_id="main", reason="no such plan")
    async with running(
        a_guard("guard-2"),
        disarmed=[refused],
        journal=daemon.journal,
        set_up=lambda restarted, _: restarted.exchanges.update(main=main),
    ) as restarted:
        await minutes(2)
        assert newest(restarted.journal, record.id).status is ActionStatus.DONE
        state = restarted.last_state()
    assert (state.armed, state.reason) == (ArmedState.DISARMED, "no such plan")


async def test_a_change_of_guards_while_a_leftover_action_is_being_read_ends_nothing():
    async with running(a_guard(action=ADD), a_guard("guard-2")) as daemon:
        await lost(daemon, processed=False)
        await daemon.made.apply([daemon.guards[1]], [])
        watch, settled = daemon.made._watches["main"], asyncio.Event()
        settle = watch._executor.settle

        async def slowly(*arguments):
            settled.set()
            await asyncio.sleep(3)
            return await settle(*arguments)

        watch._executor.settle = slowly
        await settled.wait()
        await daemon.made.apply([], [])
        await minutes(2)
        assert daemon.journal.unsettled_actions() == []
