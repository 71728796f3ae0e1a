"""A process that stands still anywhere between reading and sending sends nothing old."""

from dataclasses import replace

import pytest

from marginguard.domain.model import ActionKind
from tests.unit.fakes import PROMPT, Rig, not_sent
from tests.unit.strategies import a_position, price_at

CLOSE, ADD = ActionKind.CLOSE_POSITION, ActionKind.ADD_MARGIN
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
