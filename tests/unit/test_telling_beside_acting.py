"""The engine and the telling at work together: whom a channel hangs for is not the market."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from uuid_utils.compat import uuid7

from marginguard.domain.model import ActionKind, PriceQuote
from marginguard.domain.notice import NoticeKind
from marginguard.engine.engine import Engine, Surroundings
from marginguard.engine.settings import EngineSettings, Guard
from marginguard.notify.channel import Delivered
from tests.notifying import FakeChannel, MemoryStore, a_telegraph, an_alarm
from tests.unit.fakes import Ears, FakeExchange, FakeJournal, FakePrices
from tests.unit.strategies import NOON, a_position, price_at, some_rules

ROUND_TRIP_S = 0.05
BREACHES = 5


class LoopClock:
    """The loop's own time, which looptime lets pass at once."""

    def now(self):
        return NOON + timedelta(seconds=self.monotonic())

    def monotonic(self):
        return asyncio.get_running_loop().time()


class TimedExchange(FakeExchange):
    """Takes a round trip for each call, and notes when it is asked to close."""

    def __init__(self, *positions):
        super().__init__(*positions)
        self.asked_s = []
        self.has_closed = asyncio.Event()

    async def close_position(self, position_id):
        self.asked_s.append(asyncio.get_running_loop().time())
        await asyncio.sleep(ROUND_TRIP_S)
        self.has_closed.set()
        return await super().close_position(position_id)


async def delays_s(*answers):
    """Return how long after each of several breaches the request to close began.

    Before each the telling is loaded with alarms for a channel that answers so.
    """
    loop, clock, stop = asyncio.get_running_loop(), LoopClock(), asyncio.Event()
    # Each position is liquidated later than the one before it.
    positions = [a_position(id=f"trade-{n}", margin=90_000 + 5_000 * n) for n in range(BREACHES)]
    exchange, prices = TimedExchange(*positions), FakePrices(clock)
    exchange.clock = clock
    channel, store = FakeChannel("email", *answers), MemoryStore()
    telegraph = a_telegraph([channel], store=store, clock=clock)
    guard = Guard(
        id="guard-1",
        account_id="main",
        user_id="owner",
        rules=replace(some_rules(action=ActionKind.CLOSE_POSITION), guard_id="guard-1"),
        dry_run=False,
        real_time_monitoring=True,
    )
    ears = Ears()
    engine = Engine(
        guards=[guard],
        disarmed=[],
        surroundings=Surroundings(
            exchanges={"main": exchange},
            prices={"main": prices},
            journal=FakeJournal(),
            observations=ears,
            notifier=telegraph,
            clock=clock,
            new_id=uuid7,
            on_refused=lambda _account_id: None,
        ),
        settings=EngineSettings(settle_delay_s=0.0),
        stop=stop,
    )
    delays = []
    telling = asyncio.create_task(telegraph.run(stop_telling := asyncio.Event()))
    guarding = asyncio.create_task(engine.run())
    await engine.first_pass.wait()
    for position in positions:
        await asyncio.sleep(1.0)
        for number in range(20):
            telegraph.tell(
                an_alarm(id=uuid7(), at=clock.now(), position_id=f"{loop.time()}/{number}")
            )
        exchange.has_closed.clear()
        prices.price = exchange.fill_price = price_at(position, 81.0)
        breached_s = loop.time()
        quote = PriceQuote(last=prices.price, index=prices.price, received_s=breached_s)
        engine.on_tick(quote, ["main"])
        await exchange.has_closed.wait()
        delays.append(exchange.asked_s[-1] - breached_s)
    stop.set()
    await guarding
    stop_telling.set()
    await telling
    assert [call[1] for call in exchange.calls] == [position.id for position in positions]
    done = [row for row in store.rows.values() if row.notice.kind is NoticeKind.ACTION_DONE]
    assert len(done) == BREACHES
    return delays, len(channel.sent)


@pytest.mark.looptime
async def test_a_channel_that_hangs_for_ever_delays_no_action_by_a_millisecond():
    """Failure 33: the same breaches, told by a channel that hangs and by one that is instant."""
    with_instant, sent = await delays_s(Delivered())
    with_hanging, tried = await delays_s("hang")
    assert with_hanging == pytest.approx(with_instant, abs=1e-6)
    assert tried < sent, "the channel did not hang"
