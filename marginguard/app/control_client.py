"""Speaking to a running daemon by its control socket."""

import pwd
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

import aiohttp
from pydantic import BaseModel, TypeAdapter, ValidationError

from marginguard.app.control_wire import (
    ACTIONS,
    EXECUTION,
    HEAP,
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
from marginguard.domain.errors import Refused, Transient
from marginguard.domain.operating import Overview
from marginguard.domain.records import ActionRecord, ExecutionRecord, ExecutionSource
from marginguard.telemetry.heap import HeapRow

TIMEOUT_S: Final = 10.0

_OK: Final = 200
_CONFLICT: Final = 409
_ANSWER: Final = TypeAdapter(Answer)

_T = TypeVar("_T")


class Unanswered(Transient):
    """Tell the operator: the daemon gave no answer, and why not. What was asked may yet be done."""


class NoDaemon(Unanswered):
    """Start the daemon: none answers, so that nothing was asked of it."""


class ControlClient:
    """The daemon of a state directory, as one that may command it sees it.

    Every method raises `NoDaemon` or another `Unanswered`, and those that ask for something
    `Refused`, with the reason and what can be done instead.
    """

    def __init__(self, state_dir: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._state_dir = state_dir
        self._path = state_dir / SOCKET_NAME
        self._timeout_s = timeout_s

    async def overview(self) -> Overview:
        """Return the guards and positions as the daemon knows them now."""
        return self._read(OVERVIEW, await self._ask("overview"))

    async def last_actions(self) -> tuple[ActionRecord, ...]:
        """Return the actions that ended last since the daemon started, newest first."""
        return self._read(ACTIONS, await self._ask("last"))

    async def heap(self, limit: int = 20) -> tuple[HeapRow, ...]:
        """Return the types of objects that take most of the daemon's memory, the largest first."""
        return self._read(HEAP, await self._ask("heap", HeapRequest(limit=limit)))

    async def pause(self, guard_id: str, span: timedelta) -> str:
        """Let a guard do no more than alert for a while; return what that means."""
        wanted = PauseRequest(guard=guard_id, seconds=span.total_seconds())
        return await self._command("pause", wanted)

    async def resume(self, guard_id: str) -> str:
        """End a guard's pause; return what that means."""
        return await self._command("resume", GuardRequest(guard=guard_id))

    async def reload(self) -> str:
        """Have the configuration read again; return what has changed."""
        return await self._command("reload")

    async def run_now(
        self, guard_id: str, *, source: ExecutionSource = ExecutionSource.RUN_NOW, patience_s: float
    ) -> ExecutionRecord | None:
        """Run a guard at once; return what it did, None where it had nothing to do."""
        wanted = RunRequest.model_validate({"guard": guard_id, "source": source})
        return self._read(EXECUTION, await self._ask("run-now", wanted, timeout_s=patience_s))

    async def settle(self, action_id: UUID, *, applied: bool) -> str:
        """Settle an action whose outcome no reading can tell; return what that means."""
        return await self._command("settle", SettleRequest(action=action_id, applied=applied))

    async def _command(self, name: str, wanted: BaseModel | None = None) -> str:
        return self._read(_ANSWER, await self._ask(name, wanted or _Nothing())).answer

    def _read(self, kind: TypeAdapter[_T], body: bytes) -> _T:
        try:
            return kind.validate_json(body)
        except ValidationError as error:
            raise Unanswered(
                f"the daemon at {self._path} answers as another version of marginguard than this"
                " command: restart it after an upgrade (systemctl restart marginguard)"
            ) from error

    async def _ask(
        self, name: str, wanted: BaseModel | None = None, *, timeout_s: float | None = None
    ) -> bytes:
        patience_s = timeout_s or self._timeout_s
        try:
            with address_of(self._state_dir) as address:
                return await self._request(address, name, wanted, patience_s)
        except TimeoutError as error:
            raise Unanswered(
                f"the daemon at {self._path} has not answered within {patience_s:g} s, and may yet"
                " do what was asked: see what it is doing with journalctl -u marginguard -n 50"
            ) from error
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            raise self._nobody() from error
        except PermissionError as error:
            raise Unanswered(self._forbidden()) from error
        except aiohttp.ClientConnectorError as error:
            raise self._unreached(error) from error
        except aiohttp.ClientError as error:
            raise Unanswered(
                f"the daemon at {self._path} went away before it answered, and may have done what"
                " was asked: see systemctl status marginguard"
            ) from error

    async def _request(
        self, address: str, name: str, wanted: BaseModel | None, timeout_s: float
    ) -> bytes:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path=address),
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as session,
            session.request(
                "GET" if wanted is None else "POST",
                f"http://marginguard{PREFIX}/{name}",
                data=None if wanted is None else wanted.model_dump_json(),
            ) as response,
        ):
            body = await response.read()
            if response.status == _OK:
                return body
            try:
                reason = Refusal.model_validate_json(body).error
            except ValidationError:
                reason = f"it answered {response.status}"
            if response.status == _CONFLICT:
                raise Refused(reason)
            raise Unanswered(f"the daemon at {self._path}: {reason}")

    def _unreached(self, error: aiohttp.ClientConnectorError) -> Unanswered:
        match error.os_error:
            case PermissionError():
                return Unanswered(self._forbidden())
            case FileNotFoundError() | ConnectionRefusedError() | NotADirectoryError():
                return self._nobody()
            case os_error:
                return Unanswered(f"the daemon at {self._path}: {os_error.strerror}")

    def _nobody(self) -> NoDaemon:
        return NoDaemon(
            f"no daemon answers at {self._path}: start it with systemctl start marginguard (or"
            " marginguard run)"
        )

    def _forbidden(self) -> str:
        """Say who may, as far as this user can see."""
        try:
            owner = pwd.getpwuid(self._state_dir.stat().st_uid).pw_name
        except (OSError, KeyError):
            return f"{self._path} is not open to this user: use sudo"
        if owner == "root":
            return f"{self._path} is open to root alone: use sudo"
        return f"{self._path} is open to {owner} and root alone: use sudo, or sudo -u {owner}"


class _Nothing(BaseModel):
    pass
