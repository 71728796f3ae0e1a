"""The market's prices, as the stream pushes them: in order, and no older than they may be."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from marginguard.domain.errors import Unreachable
from marginguard.domain.units import Price
from marginguard.lnmarkets.server_clock import ServerClock
from marginguard.lnmarkets.stream import Stream, StreamLimits, StreamTimings
from marginguard.lnmarkets.stream_connection import BoundedLog, Connection
from marginguard.lnmarkets.stream_protocol import LAST_PRICE, PUBLIC_TOPICS, Frame, Tick
from marginguard.ports import Clock

_MAX_PATIENCE_S: Final = 300.0


class PriceSink(Protocol):
    """Where the stream's prices go; each call must return quickly.

    `received_s` is when the price arrived, in monotonic seconds.
    """

    def take_last(self, price: Price, received_s: float) -> None:
        """Take a last price that was just received."""
        ...

    def take_index(self, price: Price, received_s: float) -> None:
        """Take an index that was just received."""
        ...


class TickOrder:
    """Tells for one topic which ticks are news, by the exchange's own times."""

    def __init__(self, *, tolerance_s: float) -> None:
        self._tolerance_ms = int(tolerance_s * 1000)
        self._newest: Tick | None = None

    def objection(self, tick: Tick, now_ms: int | None) -> str | None:
        """Return why a tick is to be ignored: `repeated`, `out of order`, `future` or `late`.

        None means that it is news, and it is remembered as the newest. Two prices of one
        millisecond both are. `now_ms` is the exchange's time, None where it is unknown. A late
        tick waited in a buffer, as after the machine was suspended: its receipt says nothing
        of its age.
        """
        newest = self._newest
        if newest is not None:
            if tick.time_ms < newest.time_ms:
                return "out of order"
            if tick.time_ms == newest.time_ms and tick.price == newest.price:
                return "repeated"
        if now_ms is not None:
            ahead_ms = tick.time_ms - now_ms
            if ahead_ms > self._tolerance_ms:
                return "future"
            if -ahead_ms > self._tolerance_ms:
                return "late"
        self._newest = tick
        return None


class PublicStream:
    """One connection for the market's prices.

    Every tick that is news goes to `sink`, at once and in order. A topic that stays silent for
    twice `stale_after_s` has the connection replaced; if that does not help, its next silence
    is borne for twice as long, up to five minutes.
    """

    name = "prices"

    def __init__(
        self,
        url: str,
        sink: PriceSink,
        *,
        on_snapshot_needed: Callable[[], None],
        server_clock: ServerClock,
        clock: Clock,
        limits: StreamLimits,
        stale_after_s: float,
        timings: StreamTimings = StreamTimings(),
    ) -> None:
        self._sink = sink
        self._server_clock = server_clock
        self._clock = clock
        self._patience_s = 2 * stale_after_s
        self._orders = {topic: TickOrder(tolerance_s=stale_after_s) for topic in PUBLIC_TOPICS}
        self._patience = dict.fromkeys(PUBLIC_TOPICS, self._patience_s)
        self._heard_s: dict[str, float] = {}
        self._mistimed = BoundedLog(
            "stream.ticks_mistimed",
            clock,
            meaning="prices whose time is far from the exchange's clock are not used",
            advice="if it goes on, the exchange's clock was measured wrongly or the network is"
            " slow; prices are read at the interval meanwhile",
        )
        self._stream = Stream(
            url,
            self,
            on_snapshot_needed=on_snapshot_needed,
            clock=clock,
            limits=limits,
            timings=timings,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Stay connected until `stop` is set."""
        await self._stream.run(stop)

    async def greet(self, connection: Connection) -> None:
        """Subscribe to the prices."""
        granted = await connection.subscribe(PUBLIC_TOPICS)
        self._heard_s = dict.fromkeys(granted, self._clock.monotonic())

    def push(self, frame: Frame) -> None:
        """Hand on a tick that is news."""
        if not isinstance(frame, Tick):
            return
        topic = frame.topic
        received_s = self._heard_s[topic] = self._clock.monotonic()
        self._patience[topic] = self._patience_s
        clock = self._server_clock
        now_ms = clock.timestamp_ms() if clock.measured else None
        objection = self._orders[topic].objection(frame, now_ms)
        if objection is None:
            if topic == LAST_PRICE:
                self._sink.take_last(frame.price, received_s)
            else:
                self._sink.take_index(frame.price, received_s)
        elif objection in {"future", "late"}:
            self._mistimed.note(objection)

    async def watch(self) -> None:
        """Raise `Unreachable` when a topic has been silent for too long."""
        while True:
            now_s = self._clock.monotonic()
            waits = []
            for topic, heard_s in self._heard_s.items():
                left_s = heard_s + self._patience[topic] - now_s
                if left_s <= 0:
                    silence_s = now_s - heard_s
                    self._patience[topic] = min(_MAX_PATIENCE_S, 2 * self._patience[topic])
                    raise Unreachable(f"the topic {topic} was silent for {silence_s:.1f} s")
                waits.append(left_s)
            await asyncio.sleep(min(waits))
