"""Hears what the daemon tells its owner: the demo's webhook."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
from aiohttp import web

from marginguard.demo.market import GUARDED
from marginguard.domain.notice import NoticeKind


class Receiver:
    """Takes notices by HTTP. `armed` is set once every guard of the demo guards."""

    def __init__(self, on_notice: Callable[[str, str], None]) -> None:
        self._on_notice = on_notice
        self._armed: set[str] = set()
        self.armed = asyncio.Event()
        self.url = ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen on a free port of the loopback until the block ends."""
        app = web.Application()
        app.router.add_post("/notices", self._receive)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/notices"
            yield
        finally:
            await runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        notice = orjson.loads(await request.read())
        if notice["type"] == NoticeKind.GUARD_ARMED:
            self._armed.add(notice["data"]["guard_id"])
            if self._armed >= GUARDED.keys():
                self.armed.set()
        details = notice["data"]["details"]
        self._on_notice(details["severity"], details["text"])
        return web.Response(status=204)
