"""The control socket: by it the commands of this machine speak to the running daemon.

It is in the state directory, whose lock the daemon holds, and it is the daemon's user's alone.
"""

import asyncio
import contextlib
import errno
import os
import pwd
import socket
import stat
import struct
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ValidationError

import marginguard
from marginguard.app.control_wire import (
    ACTIONS,
    EXECUTION,
    HEAP,
    MAX_REQUEST_BYTES,
    OVERVIEW,
    PREFIX,
    SOCKET_NAME,
    Answer,
    GuardRequest,
    HeapRequest,
    PauseRequest,
    Refusal,
    RunRequest,
    SettleRequest,
    address_of,
)
from marginguard.domain.errors import MarginguardError, Refused
from marginguard.ports import Operator
from marginguard.telemetry import heap

REQUEST_TIMEOUT_S: Final = 10.0
"""How long a request may take to arrive whole."""

SHUTDOWN_TIMEOUT_S: Final = 0.5
LINGERING_S: Final = 0.1
"""How long what is left of a refused request is still read, so that the answer is heard."""

_PEER: Final = struct.Struct("iII")  # struct ucred of unix(7): process, user, group
_ROOT: Final = 0

_Request = TypeVar("_Request", bound=BaseModel)


@contextlib.asynccontextmanager
async def serve(
    state_dir: Path, operator: Operator, *, request_timeout_s: float = REQUEST_TIMEOUT_S
) -> AsyncIterator[None]:
    """Serve the control socket of a state directory that is ours for the block.

    Where it cannot be made, that is logged and the block goes on without: guarding needs no
    commands. What is asked for is carried out to its end, whether the asker waits or not.
    """
    try:
        listening = _listen(state_dir)
    except OSError as error:
        structlog.get_logger().error(
            "control.unavailable",
            path=str(state_dir / SOCKET_NAME),
            error=error.strerror,
            advice="guarding goes on, but pause, resume, reload and run-now cannot reach the"
            " daemon: put right what is wrong with the path and restart",
        )
        yield
        return
    desk = _Desk(operator, request_timeout_s=request_timeout_s)
    runner = web.AppRunner(
        desk.app(), access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S, lingering_time=LINGERING_S
    )
    await runner.setup()
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: _connection(runner, desk, request_timeout_s), sock=listening
    )
    try:
        yield
    finally:
        server.close()
        with contextlib.suppress(OSError):  # a disk that fails: the next daemon replaces it
            (state_dir / SOCKET_NAME).unlink(missing_ok=True)
        await runner.cleanup()


def _listen(state_dir: Path) -> socket.socket:
    """Return the listening socket, in place of one that a killed daemon left; raises `OSError`."""
    path = state_dir / SOCKET_NAME
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "it is there and no socket")
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the file the mode of the socket: it is closed to others from the beginning.
        os.fchmod(listening.fileno(), 0o600)
        with address_of(state_dir) as address:
            listening.bind(address)
    except OSError:
        listening.close()
        raise
    return listening


def _connection(runner: web.AppRunner, desk: "_Desk", timeout_s: float) -> asyncio.Protocol:
    """Return what serves one connection; it is cut off unless a request comes in time."""
    if runner.server is None:
        raise RuntimeError("the runner is not set up")
    connection = runner.server()

    def cut_off() -> None:
        if connection in desk.silent:
            desk.silent.discard(connection)
            connection.force_close()

    desk.silent.add(connection)
    asyncio.get_running_loop().call_later(timeout_s, cut_off)
    return connection


class _Desk:
    """Answers requests by the operator. `silent` are connections that have not asked yet."""

    def __init__(self, operator: Operator, *, request_timeout_s: float) -> None:
        self._operator = operator
        self._request_timeout_s = request_timeout_s
        self._log = structlog.get_logger()
        self.silent: set[asyncio.Protocol] = set()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._answered], client_max_size=MAX_REQUEST_BYTES)
        app.router.add_get(f"{PREFIX}/overview", self._overview, allow_head=False)
        app.router.add_get(f"{PREFIX}/last", self._last, allow_head=False)
        app.router.add_post(f"{PREFIX}/heap", self._heap)
        app.router.add_post(f"{PREFIX}/pause", self._pause)
        app.router.add_post(f"{PREFIX}/resume", self._resume)
        app.router.add_post(f"{PREFIX}/reload", self._reload)
        app.router.add_post(f"{PREFIX}/run-now", self._run_now)
        app.router.add_post(f"{PREFIX}/settle", self._settle)
        return app

    @web.middleware
    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer in JSON whatever happens, and close the connection."""
        self.silent.discard(request.protocol)
        try:
            _asker(request)
            response = await handler(request)
        except Refused as error:
            response = _refusal(409, str(error))
        except web.HTTPException as error:
            response = _refusal(error.status, _explained(error))
        except MarginguardError as error:
            response = _refusal(503, str(error))
        except Exception as error:  # noqa: BLE001 - a fault in a command must not end the daemon
            self._log.error(
                "control.failed", path=request.path, exc_info=error, advice="report it as a bug"
            )
            response = _refusal(500, "the daemon failed at this; its log says how")
        response.force_close()
        return response

    async def _read(self, request: web.Request, kind: type[_Request]) -> _Request:
        """Return the request's message; raises `web.HTTPException` where there is none."""
        try:
            async with asyncio.timeout(self._request_timeout_s):
                body = await request.read()
        except TimeoutError as error:
            raise web.HTTPRequestTimeout(text="the request did not arrive in time") from error
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or 'the message'}: {fault['msg']}"
                for fault in error.errors(include_url=False, include_context=False)
            )
            raise web.HTTPBadRequest(text=f"the request is not understood: {faults}") from error

    async def _overview(self, _: web.Request) -> web.Response:
        return _json(OVERVIEW.dump_json(self._operator.overview()))

    async def _last(self, _: web.Request) -> web.Response:
        return _json(ACTIONS.dump_json(tuple(self._operator.last_actions())))

    async def _heap(self, request: web.Request) -> web.Response:
        wanted = await self._read(request, HeapRequest)
        return _json(HEAP.dump_json(await heap.by_type(wanted.limit)))

    async def _pause(self, request: web.Request) -> web.Response:
        wanted = await self._read(request, PauseRequest)
        span = timedelta(seconds=wanted.seconds)
        return _answer(await self._operator.pause(wanted.guard, span, by=_asker(request)))

    async def _resume(self, request: web.Request) -> web.Response:
        wanted = await self._read(request, GuardRequest)
        return _answer(await self._operator.resume(wanted.guard, by=_asker(request)))

    async def _reload(self, request: web.Request) -> web.Response:
        return _answer(await self._operator.reload(by=_asker(request)))

    async def _run_now(self, request: web.Request) -> web.Response:
        wanted = await self._read(request, RunRequest)
        by = _asker(request)
        record = await self._operator.run_now(wanted.guard, by=by, source=wanted.source)
        return _json(EXECUTION.dump_json(record))

    async def _settle(self, request: web.Request) -> web.Response:
        wanted = await self._read(request, SettleRequest)
        by = _asker(request)
        return _answer(await self._operator.settle(wanted.action, applied=wanted.applied, by=by))


def _asker(request: web.Request) -> str:
    """Return who asks, for the record; raises `web.HTTPForbidden` for who may not.

    The socket's mode keeps others out already. The kernel names the peer.
    """
    connection = request.get_extra_info("socket")
    if connection is None:
        raise web.HTTPForbidden(text="the connection has ended: nobody knows who asked")
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _, uid, _ = _PEER.unpack(peer)
    if uid not in {_ROOT, os.geteuid()}:
        raise web.HTTPForbidden(
            text=f"only root and {_user(os.geteuid())} may command this daemon, not {_user(uid)}"
        )
    return f"{_user(uid)} (control socket)"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user id {uid}"


def _explained(error: web.HTTPException) -> str:
    match error.status:
        case 404 | 405:
            return (
                f"marginguard {marginguard.__version__}, which runs, does not know this request:"
                " restart it after an upgrade (systemctl restart marginguard)"
            )
        case 413:
            return f"the request is longer than {MAX_REQUEST_BYTES:,} bytes"
        case _:
            return error.text or error.reason


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")


def _answer(text: str) -> web.Response:
    return _json(Answer(answer=text).model_dump_json().encode())


def _refusal(status: int, text: str) -> web.Response:
    return _json(Refusal(error=text).model_dump_json().encode(), status)
