"""A process that stands still anywhere between reading and sending sends nothing old."""

from dataclasses import replace

import pytest

from marginguard.domain.errors import Unreachable
from marginguard.domain.model import ActionKind
from marginguard.domain.records import ExecutionRecord
from tests.unit.fakes import PROMPT, Rig, ambiguous, not_sent, rejected
from tests.unit.strategies import a_position, price_at

CLOSE, ADD = ActionKind.CLOSE_POSITION, ActionKind.ADD_MARGIN
REDUCE = ActionKind.REDUCE_POSITION
PATIENT = replace(PROMPT, timeout_s=600.0)
"""Settings with which no time-out of a run stands in for the age of what was read."""

BREACH, CALM = price_at(a_position(), 85), price_at(a_position(), 5)


class Frozen:
    """A rig whose process stands still after its `stop_at`th wait, until the breach is over."""

    def __init__(self, action, *, stop_at, for_s=120.0):
        self.rig = Rig(action=action, settings=PATIENT)
        self.rig.prices.price = BREACH
        self.stop_at, self.for_s = stop_at, for_s
        self.waits = []
        self.sent_before = None
        exchange = self.rig.exchange
        exchange.running_positions = self._then_stop("positions", exchange.running_positions)
        exchange.balance = self._then_stop("balance", exchange.balance)
        self.rig.prices.quote = self._then_stop("price", self.rig.prices.quote)
        self.rig.journal.append = self._then_stop("journal", self.rig.journal.append)
        self.rig.executor._barred = self._then_stop("lock", self._nothing_bars)

    async def _nothing_bars(self):
        return None

    def _then_stop(self, name, work):
        async def stopping(*arguments, **options):
            result = await work(*arguments, **options)
            self.waits.append(name)
            if len(self.waits) == self.stop_at:
                self.rig.clock.advance(self.for_s)
                self.rig.prices.price = CALM
                self.sent_before = list(self.rig.exchange.calls)
            return result

        return stopping


async def waits_of_a_run(action):
    """Return for what a run that is never frozen waits, and what it sends."""
    never = Frozen(action, stop_at=0)
    await never.rig.run()
    return never.waits, never.rig.exchange.calls


@pytest.mark.parametrize("action", [CLOSE, ADD])
async def test_wherever_the_process_stands_still_it_sends_nothing_old(action):
    """Failure 26: two minutes pass at every wait of a run in turn, and the market recovers."""
    waits, sent = await waits_of_a_run(action)
    assert len(sent) == 1
    assert set(waits) == {"positions", "balance", "price", "journal", "lock"}
    held_back = 0
    for number in range(1, len(waits) + 1):
        frozen = Frozen(action, stop_at=number)
        await frozen.rig.run()
        assert frozen.rig.exchange.calls == frozen.sent_before, f"after {waits[:number]}"
        held_back += not frozen.sent_before
        await frozen.rig.run()
        assert frozen.rig.exchange.calls == frozen.sent_before, "and what it sees anew is calm"
    assert held_back >= 5


@pytest.mark.parametrize("action", [CLOSE, ADD])
async def test_what_was_held_back_is_done_as_soon_as_it_is_seen_anew(action):
    waits, _ = await waits_of_a_run(action)
    frozen = Frozen(action, stop_at=waits.index("lock") + 1)
    await frozen.rig.run()
    assert frozen.rig.exchange.calls == []
    frozen.rig.prices.price = BREACH
    await frozen.rig.run()
    assert len(frozen.rig.exchange.calls) == 1


@pytest.mark.parametrize(("took_s", "attempts"), [(9.0, 2), (11.0, 1)])
async def test_an_attempt_is_repeated_only_while_the_price_that_called_for_it_is_fresh(
    took_s, attempts
):
    """Failure 26: the position is read again before every attempt, the price is not."""
    rig = Rig(action=CLOSE, settings=PATIENT)
    rig.prices.price = BREACH
    rig.exchange.script.append((False, not_sent()))
    rig.exchange.on_call = lambda: rig.clock.advance(took_s)
    await rig.run()
    assert len(rig.exchange.calls) == attempts


@pytest.mark.parametrize(("times", "opened"), [(1, 1), (2, 1), (3, 0)])
async def test_the_rest_of_a_reduction_is_opened_by_a_price_of_now_after_standing_still(
    times, opened
):
    """Failure 26: nothing old is sent, and nobody but this action opens the rest."""
    rig = Rig(action=REDUCE, settings=PATIENT)
    rig.prices.price = rig.exchange.fill_price = BREACH
    stood_still = []

    async def barred():
        if rig.exchange.calls and len(stood_still) < times:
            stood_still.append(True)
            rig.clock.advance(11)

    rig.executor._barred = barred
    await rig.run()
    assert [call[0] for call in rig.exchange.calls] == ["close"] + opened * ["open_trade"]
    [record] = rig.actions()
    if not opened:
        assert record.error.startswith("the rest stays closed: what was read was 11.0 s old")
        assert "planned again" not in record.error


async def test_a_key_that_is_refused_once_before_standing_still_is_no_fallbacks_turn():
    """Nobody has refused to add margin: closing the position would be a mistake."""
    rig = Rig(action=ADD, fallback=(CLOSE,), settings=PATIENT)
    rig.prices.price = rig.exchange.fill_price = BREACH
    rig.exchange.script.append((False, rejected(unauthorized=True)))

    async def resync_slowly():
        rig.clock.advance(11)

    rig.exchange.resync_clock = resync_slowly
    await rig.run()
    assert [call[0] for call in rig.exchange.calls] == ["add_margin"]
    await rig.run()
    assert [call[0] for call in rig.exchange.calls] == ["add_margin"] * 2


async def test_what_cannot_be_looked_at_again_in_time_is_recorded_and_tried_again_soon():
    """Failure 26: it is not sent, and the breach is not passed over in silence either."""
    rig = Rig(action=CLOSE, settings=PATIENT)
    rig.prices.price = BREACH
    rig.exchange.read_errors.extend([None, Unreachable("no answer")])
    read = rig.exchange.running_positions

    async def slowly(**options):
        rig.clock.advance(6)
        return await read(**options)

    rig.exchange.running_positions = slowly
    assert await rig.run() == PATIENT.retry_attempts
    [execution] = rig.journal.of(ExecutionRecord)
    assert (execution.status.value, execution.error_code.value) == ("failed", "STALLED")
    assert (rig.exchange.calls, rig.ears.checks) == ([], 0)
    await rig.run()
    assert rig.exchange.calls == [("close", "trade-1")]


async def test_what_is_known_of_an_action_under_way_is_forgotten_once_it_is_settled():
    """A stop-loss that cannot be set is tried again for months."""
    rig = Rig(action=ADD)
    rig.prices.price = BREACH
    rig.exchange.script.append((False, rejected()))
    await rig.run()
    rig.clock.advance(61)
    rig.exchange.script.append((False, ambiguous()))
    await rig.run()
    assert len(rig.executor._sent_s) == len(rig.executor._first_sent_s) == 1
    rig.clock.advance(36)
    rig.prices.price = CALM
    await rig.run()
    assert rig.book.unsettled == ()
    assert (rig.executor._sent_s, rig.executor._first_sent_s) == ({}, {})
