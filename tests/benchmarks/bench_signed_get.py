"""What a signed GET of three trades costs in CPU time: our client against httpx and pydantic.

Run as `python tests/benchmarks/bench_signed_get.py`. The server is another process; rounds of
both clients alternate, on uvloop; the median round counts.
"""

import asyncio
import json
import multiprocessing
import multiprocessing.connection
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import httpx
import uvloop
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter
from pydantic.alias_generators import to_camel

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from marginguard.domain.units import AccountId
from marginguard.lnmarkets.client import AccountClient
from marginguard.lnmarkets.server_clock import ServerClock, TimeReading
from marginguard.lnmarkets.signing import Credentials, Signer
from marginguard.lnmarkets.transport import Transport

ROUNDS = 15
CALLS = 300
PATH = "/v3/futures/isolated/trades/running"
# The wait for the exchange's limit is no work; that it is looked at is.
NO_LIMIT = 1e6
CREDENTIALS = Credentials(key="key", secret="secret", passphrase="passphrase")

TRADES = [
    {
        "id": f"0a1b2c3d-0000-4000-8000-00000000000{number}",
        "type": "market",
        "side": "buy",
        "openingFee": 909,
        "closingFee": 0,
        "maintenanceMargin": 1909,
        "quantity": 1000,
        "margin": 100_000,
        "leverage": 10,
        "price": 100_000,
        "liquidation": 90_909.0,
        "stoploss": 0,
        "stoplossTrailingDistance": None,
        "takeprofit": 120_000.5,
        "exitPrice": None,
        "pl": -1740,
        "createdAt": "2026-01-01T00:00:00.000Z",
        "filledAt": "2026-01-01T00:00:01.000Z",
        "closedAt": None,
        "entryPrice": 100_000,
        "entryMargin": 100_000,
        "open": False,
        "running": True,
        "canceled": False,
        "closed": False,
        "sumFundingFees": 12,
        "sumCashInPl": 0,
        "sumCashInMargin": 0,
        "clientId": None,
    }
    for number in range(3)
]


class PlainTrade(BaseModel):
    """The same fields and bounds, in the way that comes to mind first."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel)

    id: str
    side: Literal["buy", "sell"]
    quantity: Annotated[int, Field(gt=0)]
    entry_price: Annotated[FiniteFloat, Field(gt=0)]
    margin: Annotated[int, Field(ge=0)]
    maintenance_margin: Annotated[int, Field(ge=0)]
    leverage: FiniteFloat
    pl: int
    liquidation: FiniteFloat | None
    stoploss: FiniteFloat | None
    takeprofit: FiniteFloat | None
    entry_margin: int
    sum_funding_fees: int
    sum_cash_in_margin: int
    running: bool
    closed: bool
    client_id: str | None


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


async def never_asked() -> TimeReading:
    raise AssertionError("the benchmark needs no time of the exchange")


def serve(port: multiprocessing.connection.Connection) -> None:
    body = json.dumps(TRADES).encode()

    async def running(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async def main() -> None:
        app = web.Application()
        app.router.add_get(PATH, running)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    uvloop.run(main())


async def cpu_ms(call: Callable[[], Awaitable[int]]) -> float:
    """Return the CPU time of one call in milliseconds, over a round of them."""
    before_s = time.process_time()
    for _ in range(CALLS):
        if await call() != len(TRADES):
            raise AssertionError("a call did not return the three trades")
    return (time.process_time() - before_s) * 1000 / CALLS


async def compare(base_url: str) -> tuple[list[float], list[float]]:
    server_clock = ServerClock(never_asked, SystemClock())
    signer = Signer(CREDENTIALS, server_clock.timestamp_ms)
    adapter = TypeAdapter(list[PlainTrade])
    async with (
        Transport(f"{base_url}/v3", timeout_s=5) as transport,
        httpx.AsyncClient(timeout=5) as plain,
    ):
        account = AccountClient(
            AccountId("a"),
            CREDENTIALS,
            transport=transport,
            server_clock=server_clock,
            rate_scale=NO_LIMIT,
        )

        async def ours() -> int:
            return len(await account.isolated.running())

        async def httpx_and_pydantic() -> int:
            response = await plain.get(base_url + PATH, headers=signer.headers("GET", PATH, ""))
            response.raise_for_status()
            return len(adapter.validate_python(response.json()))

        await cpu_ms(ours)
        await cpu_ms(httpx_and_pydantic)
        mine: list[float] = []
        theirs: list[float] = []
        for _ in range(ROUNDS):
            mine.append(await cpu_ms(ours))
            theirs.append(await cpu_ms(httpx_and_pydantic))
        return mine, theirs


def main() -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    server = context.Process(target=serve, args=(sender,), daemon=True)
    server.start()
    try:
        mine, theirs = uvloop.run(compare(f"http://127.0.0.1:{receiver.recv()}"))
    finally:
        server.terminate()
        server.join()
    ours_ms, theirs_ms = statistics.median(mine), statistics.median(theirs)
    # Round by round, so that both halves saw the same load of the machine.
    ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
    print(f"signed GET of three trades, CPU time a call, median of {ROUNDS} rounds of {CALLS}")
    print(f"  ours (aiohttp, strict parse from bytes)   {ours_ms:.3f} ms (best {min(mine):.3f})")
    print(
        f"  httpx, json(), validate_python            {theirs_ms:.3f} ms (best {min(theirs):.3f})"
    )
    print(f"  ours / httpx                              {ratio:.2f} (aim: 0.25)")


if __name__ == "__main__":
    main()
