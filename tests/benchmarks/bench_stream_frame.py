"""What a price of the stream costs in CPU time, from socket to handler, beside websockets + json.

Run as `python -m tests.benchmarks.bench_stream_frame`. The server is another process and sends
one long burst over the loopback, faster than either client reads; rounds of both clients
alternate, on uvloop; the median round counts. Both check the numbers, put the ticks in order by
the exchange's clock and hand them to a handler that counts. A third line adds what follows in
the daemon: `LivePrices`, which doubts jumps and makes the quotes that wake the guards.
"""

import asyncio
import json
import logging
import math
import multiprocessing
import multiprocessing.connection
import statistics
import struct
import time
from collections.abc import Awaitable, Callable

import orjson
import structlog
import uvloop
import websockets
from aiohttp import web

from marginguard.aio import SystemClock
from marginguard.domain.model import PriceQuote
from marginguard.domain.units import Percent, Price
from marginguard.lnmarkets.live_prices import LivePrices
from marginguard.lnmarkets.prices import TickerPrices
from marginguard.lnmarkets.server_clock import ServerClock, TimeReading
from marginguard.lnmarkets.stream import StreamLimits
from marginguard.lnmarkets.stream_prices import PriceSink, PublicStream
from marginguard.lnmarkets.stream_protocol import INDEX, LAST_PRICE
from marginguard.lnmarkets.wire import Ticker

ROUNDS = 9
FRAMES = 50_000
CHUNK_BYTES = 65_536


def frame(topic: str, name: str, number: int) -> bytes:
    """A push as the exchange sends it, framed; its time is this moment, a little later each."""
    price = 100_000 + number % 200 * 0.5
    data = {"time": time.time_ns() // 1_000_000 + number // 50, name: price}
    params = {"topic": topic, "data": data}
    push = orjson.dumps({"jsonrpc": "2.0", "method": "subscription", "params": params})
    size = bytes([len(push)]) if len(push) < 126 else b"\x7e" + struct.pack(">H", len(push))
    return b"\x81" + size + push


async def talk(http: web.Request) -> web.WebSocketResponse:
    """Answer every request; once subscribed to the last price, send all frames."""
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(http)
    async for message in socket:
        request = json.loads(message.data)
        await socket.send_json({"jsonrpc": "2.0", "id": request["id"], "result": "ok"})
        if request["method"] == "subscribe" and INDEX in request["params"]["topics"]:
            await burst(http.transport)
    return socket


async def burst(transport: asyncio.Transport) -> None:
    """Write all frames, made beforehand, as fast as the client takes them."""
    frames = b"".join(
        [frame(INDEX, "index", 0)]
        + [frame(LAST_PRICE, "lastPrice", number) for number in range(FRAMES)]
    )
    for start in range(0, len(frames), CHUNK_BYTES):
        transport.write(frames[start : start + CHUNK_BYTES])
        while transport.get_write_buffer_size() > CHUNK_BYTES:  # noqa: ASYNC110 - tells no one
            await asyncio.sleep(0.001)


def serve(port: multiprocessing.connection.Connection) -> None:
    async def main() -> None:
        app = web.Application()
        app.router.add_get("/v1", talk)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    uvloop.run(main())


class Handler:
    """Counts prices and times them from the first to the last: CPU and wall, in seconds."""

    def __init__(self) -> None:
        self.count = 0
        self.done = asyncio.Event()
        self.began = self.ended = (0.0, 0.0)

    def take_index(self, _price: Price, _received_s: float) -> None:
        """Pass over the index, of which there is one."""

    def take_last(self, _price: Price, _received_s: float) -> None:
        self.on_tick(None)

    def on_tick(self, _quote: PriceQuote | None) -> None:
        self.count += 1
        if self.count == 1:
            self.began = (time.process_time(), time.perf_counter())
        elif self.count == FRAMES:
            self.ended = (time.process_time(), time.perf_counter())
            self.done.set()

    def cost_us(self) -> tuple[float, float]:
        """CPU and wall time of one frame, in microseconds."""
        spent = (end - start for end, start in zip(self.ended, self.began, strict=True))
        cpu_us, wall_us = (seconds * 1e6 / (FRAMES - 1) for seconds in spent)
        return cpu_us, wall_us


async def now() -> TimeReading:
    return TimeReading(time=SystemClock().now(), round_trip_s=0.001)


async def never_asked() -> Ticker:
    raise AssertionError("the benchmark reads no ticker")


async def measured_clock() -> ServerClock:
    clock = ServerClock(now, SystemClock())
    await clock.resync()
    return clock


async def stream_to(sink: PriceSink, handler: Handler, url: str) -> tuple[float, float]:
    stop = asyncio.Event()
    stream = PublicStream(
        url,
        sink,
        on_snapshot_needed=lambda: None,
        server_clock=await measured_clock(),
        clock=SystemClock(),
        limits=StreamLimits(),
        stale_after_s=5.0,
    )
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        group.create_task(stream.run(stop))
        await handler.done.wait()
        stop.set()
    return handler.cost_us()


async def ours(url: str) -> tuple[float, float]:
    handler = Handler()
    return await stream_to(handler, handler, url)


async def ours_and_live_prices(url: str) -> tuple[float, float]:
    handler, clock = Handler(), SystemClock()
    ticker = TickerPrices(
        never_asked, clock, share_s=1.0, max_jump=Percent(5.0), stop=asyncio.Event()
    )
    prices = LivePrices(ticker, clock, stale_after_s=5.0)
    prices.listen(handler.on_tick)
    return await stream_to(prices, handler, url)


async def websockets_and_json(url: str) -> tuple[float, float]:
    handler, clock = Handler(), await measured_clock()
    newest = dict.fromkeys((LAST_PRICE, INDEX), (0, 0.0))
    async with asyncio.timeout(120), websockets.connect(url, compression=None) as socket:
        for number, topic in enumerate(newest):
            request = {"jsonrpc": "2.0", "id": str(number), "method": "subscribe"}
            await socket.send(json.dumps(request | {"params": {"topics": [topic]}}))
        async for message in socket:
            parsed = json.loads(message)
            if parsed.get("method") != "subscription":
                continue
            topic, data = parsed["params"]["topic"], parsed["params"]["data"]
            time_ms = data["time"]
            price = float(data["lastPrice" if topic == LAST_PRICE else "index"])
            if not isinstance(time_ms, int) or not math.isfinite(price) or not 0 < price < 1e9:
                continue
            if abs(time_ms - clock.timestamp_ms()) > 5000:
                continue
            if time_ms < newest[topic][0] or (time_ms, price) == newest[topic]:
                continue
            newest[topic] = (time_ms, price)
            if topic == LAST_PRICE:
                handler.take_last(Price(price), time.monotonic())
            else:
                handler.take_index(Price(price), time.monotonic())
            if handler.done.is_set():
                break
    return handler.cost_us()


async def compare(url: str) -> dict[str, list[tuple[float, float]]]:
    clients: dict[str, Callable[[str], Awaitable[tuple[float, float]]]] = {
        "ours (aiohttp, orjson, strict checks)": ours,
        "websockets, json": websockets_and_json,
        "ours, then LivePrices": ours_and_live_prices,
    }
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in clients}
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    for number in range(ROUNDS + 1):
        for name, client in clients.items():
            cost = await client(url)
            if number:  # the first round warms up
                costs[name].append(cost)
    return costs


def main() -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    server = context.Process(target=serve, args=(sender,), daemon=True)
    server.start()
    try:
        costs = uvloop.run(compare(f"ws://127.0.0.1:{receiver.recv()}/v1"))
    finally:
        server.terminate()
        server.join()
    print(f"a price of the stream, socket to handler, median of {ROUNDS} rounds of {FRAMES:,}")
    for name, rounds in costs.items():
        cpu_us = statistics.median(cpu for cpu, _ in rounds)
        wall_us = statistics.median(wall for _, wall in rounds)
        best_us = min(cpu for cpu, _ in rounds)
        print(
            f"  {name:<40}{cpu_us:6.2f} us CPU (best {best_us:.2f}),"
            f" {1e6 / cpu_us:9,.0f} frames/s a core, {1e6 / wall_us:9,.0f} seen"
        )
    mine, theirs, _ = costs.values()
    # Round by round, so that both halves saw the same load of the machine.
    ratio = statistics.median(b / a for (a, _), (b, _) in zip(mine, theirs, strict=True))
    print(f"  websockets / ours                         {ratio:.2f} (aim: 2.5)")


if __name__ == "__main__":
    main()
