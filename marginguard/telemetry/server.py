"""Health checks and metrics over HTTP: `/healthz`, `/readyz`, `/metrics`. For reading alone."""

import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from marginguard.domain.errors import ConfigError
from marginguard.listen import ListenAddress

SHUTDOWN_TIMEOUT_S: Final = 1.0
_UNAVAILABLE: Final = 503


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """An answer to a health check: whether all is well, a word or two on why, and figures."""

    ok: bool
    reason: str
    details: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def serve(
    address: ListenAddress,
    *,
    live: Callable[[], Health],
    ready: Callable[[], Health],
    registry: CollectorRegistry,
) -> AsyncIterator[None]:
    """Serve for the block: `live` answers /healthz, `ready` /readyz, `registry` /metrics.

    A health check is 200 if all is well and 503 if not, and its body says why in JSON. Raises
    `ConfigError` if the address cannot be listened on.
    """
    app = web.Application()
    app.router.add_get("/healthz", _health_handler(live))
    app.router.add_get("/readyz", _health_handler(ready))
    app.router.add_get("/metrics", make_aiohttp_handler(registry))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, address.host, address.port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(_cannot_listen(address, error)) from error
        structlog.get_logger().info("http.listening", address=str(address))
        yield
    finally:
        await runner.cleanup()


def _health_handler(check: Callable[[], Health]) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        health = check()
        return web.Response(
            status=200 if health.ok else _UNAVAILABLE,
            body=orjson.dumps(
                {"ok": health.ok, "reason": health.reason, "details": dict(health.details)}
            ),
            content_type="application/json",
        )

    return answer


def _cannot_listen(address: ListenAddress, error: OSError) -> str:
    where = f'[http] listen = "{address}"'
    if isinstance(error, socket.gaierror):
        return f"{where}: the host is not known: write an IP address of this machine"
    match error.errno:
        case errno.EADDRINUSE:
            return f"{where}: the port is in use: stop what uses it, or choose another port"
        case errno.EACCES:
            return f"{where}: ports below 1024 are not for this user: choose a larger one"
        case errno.EADDRNOTAVAIL:
            return f"{where}: this machine has no such address: choose one of its own"
        case _:
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            return f"{where} cannot be listened on: {reason}"
