"""The demo from start to end: market, daemon, crash, and what the records say."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from marginguard.aio import SystemClock
from marginguard.demo.daemon import running_daemon, write_config
from marginguard.demo.market import Holding, Market
from marginguard.demo.receiver import Receiver
from marginguard.demo.records import read_records
from marginguard.domain.records import ActionRecord
from marginguard.domain.units import Price
from marginguard.simulator.prices import TICK, Point, play, read_candles, walk
from marginguard.simulator.server import RunningServer, serve

DEFAULT_SPEED = 90.0
MAX_SPEED = 150.0
MARKET_SECONDS_PER_CYCLE = 13.5
"""How far the market moves on between two looks of the daemon; at most 15 is the promise."""

_DRAW_EVERY_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What is to be seen at one moment. `events` are (severity, text), the newest last."""

    market_time: str
    price: Price
    price_low: Price
    holdings: Sequence[Holding]
    events: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What became of the accounts. `actions` are the rows in the database, by account.

    `unrecorded` are the changes that the exchange carried out and the database holds no proof
    of; there must be none.
    """

    cross: bool
    price_low: Price
    holdings: Sequence[Holding]
    actions: Mapping[str, Sequence[ActionRecord]]
    executions: int
    unrecorded: int

    @property
    def kept_its_promise(self) -> bool:
        """Whether no guarded position was liquidated and every action is on record, proved."""
        guarded = [holding for holding in self.holdings if holding.action is not None]
        return (
            self.unrecorded == 0
            and not any(holding.liquidated for holding in guarded)
            and all(self.actions[holding.name] for holding in guarded)
        )


@dataclass(kw_only=True)
class Demo:
    """One play. `directory` takes the configuration, the log and the database."""

    directory: Path
    speed: float
    prices: Path | None
    cross: bool
    draw: Callable[[Scene], None]
    events: list[tuple[str, str]] = field(default_factory=list)

    async def run(self) -> Summary:
        """Play the prices against the daemon; return what became of the accounts.

        Raises `ConfigError` for a price file that cannot be read, `DaemonFailedError` when the
        daemon does not do its part.
        """
        clock = SystemClock()
        candles = read_candles(self.prices or shipped_prices())
        market = Market(price=candles[0].open, now=clock.now(), cross=self.cross)
        receiver = Receiver(lambda severity, text: self.events.append((severity, text)))
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(receiver.listening())
            server = await stack.enter_async_context(
                serve(market.exchange, clock=clock, rate_scale=self.speed)
            )
            config = write_config(
                self.directory,
                rest_url=server.rest_url,
                stream_url=server.stream_url,
                webhook_url=receiver.url,
                interval_s=MARKET_SECONDS_PER_CYCLE / self.speed,
                rate_scale=self.speed,
                credentials=market.credentials(),
            )
            log = self.directory / "daemon.log"
            await stack.enter_async_context(running_daemon(config, log, receiver.armed))
            await play(
                market.exchange,
                walk(candles, TICK * self.speed),
                clock=clock,
                stop=asyncio.Event(),
                speed=self.speed,
                on_point=self._painter(market, clock),
            )
            return await self._sum_up(market, server)

    def _painter(self, market: Market, clock: SystemClock) -> Callable[[Point], None]:
        drawn_s = float("-inf")

        def paint(point: Point) -> None:
            nonlocal drawn_s
            market.note_price(point.price)
            if clock.monotonic() - drawn_s < _DRAW_EVERY_S:
                return
            drawn_s = clock.monotonic()
            self.draw(
                Scene(
                    market_time=f"{point.time:%Y-%m-%d %H:%M} UTC",
                    price=point.price,
                    price_low=market.price_low,
                    holdings=market.holdings(),
                    events=tuple(self.events),
                )
            )

        return paint

    async def _sum_up(self, market: Market, server: RunningServer) -> Summary:
        holdings = market.holdings()
        applied = sum(1 for call in server.calls if call.applied)
        names = [holding.name for holding in holdings]
        records = await read_records(self.directory / "state", names, expected=applied)
        return Summary(
            cross=self.cross,
            price_low=market.price_low,
            holdings=holdings,
            actions=records.actions,
            executions=records.executions,
            unrecorded=applied - records.proved,
        )


def shipped_prices() -> Path:
    """Return the hour around the crash of 17 May 2019 that comes with the package."""
    return Path(str(resources.files("marginguard.demo") / "data" / "2019-05-17.csv"))
