"""Faults on demand: what a network and an exchange do to a call on a bad day."""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from http import HTTPStatus
from types import MappingProxyType
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from marginguard.aio import sleep_or_stop
from marginguard.domain.errors import Rejected
from marginguard.simulator.calls import Reply

Process = Callable[[], Reply]
"""Carries the call out and returns the answer that the exchange would give."""

_CODES: Final = MappingProxyType(
    {
        400: "BAD_REQUEST",
        401: "UNAUTHORIZED",
        403: "FORBIDDEN",
        404: "NOT_FOUND",
        429: "TOO_MANY_REQUESTS",
        500: "INTERNAL_SERVER_ERROR",
        503: "SERVICE_UNAVAILABLE",
    }
)
"""The statuses that the exchange answers itself; others come from a gateway in front of it."""


class FaultKind(StrEnum):
    """What goes wrong; see `Fault`."""

    STATUS = "status"
    STATUS_AFTER = "status_after"
    DELAY = "delay"
    DROP_REQUEST = "drop_request"
    DROP_RESPONSE = "drop_response"
    BLACKHOLE = "blackhole"
    LATE = "late"
    MALFORMED = "malformed"


_NEEDS_STATUS: Final = frozenset({FaultKind.STATUS, FaultKind.STATUS_AFTER})
_CARRIED_OUT: Final = frozenset({FaultKind.STATUS_AFTER, FaultKind.DROP_RESPONSE})
"""What happens to the answer of a call that was carried out like any other."""
_NEEDS_DELAY: Final = frozenset({FaultKind.DELAY, FaultKind.LATE})


class Fault(BaseModel):
    """A rule: the next `times` calls of `method` on `path` suffer `fault`.

    `path` is as on the wire, with `/v3`, without query. `status`: answer the status, not carried
    out. `status_after`: carry out, then answer it. `delay`: wait `delay` seconds, then carry out
    and answer. `drop_request`: close the connection, not carried out. `drop_response`: carry out,
    then close. `blackhole`: never answer, carried out if `processed`. `late`: close the
    connection, carry out `delay` seconds later. `malformed`: carry out, then answer half of the
    JSON. With `gateway` a status comes as a gateway's HTML page instead of the exchange's JSON.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    method: Annotated[str, Field(pattern="^(GET|POST|PUT|DELETE)$")]
    path: Annotated[str, Field(pattern="^/v3/[^?]+$")]
    fault: FaultKind
    times: Annotated[int, Field(ge=1)] = 1
    status: Annotated[int | None, Field(ge=400, le=599)] = None
    delay: Annotated[FiniteFloat | None, Field(ge=0)] = None
    processed: bool = False
    gateway: bool = False

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        for name, kinds, given in (
            ("status", _NEEDS_STATUS, self.status is not None),
            ("delay", _NEEDS_DELAY, self.delay is not None),
        ):
            if given != (self.fault in kinds):
                raise ValueError(f"{self.fault} {'takes no' if given else 'needs a'} {name}")
        if self.processed and self.fault is not FaultKind.BLACKHOLE:
            raise ValueError(f"{self.fault} takes no processed")
        if self.gateway and self.fault not in _NEEDS_STATUS:
            raise ValueError(f"{self.fault} takes no gateway")
        return self


class FaultBook:
    """The rules that wait for their calls; the first that matches is used, then counted down."""

    def __init__(self) -> None:
        self._rules: list[tuple[Fault, int]] = []

    def add(self, fault: Fault) -> None:
        """Let the next `fault.times` matching calls suffer it, after the rules before it."""
        self._rules.append((fault, fault.times))

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault that this call suffers, or None."""
        for at, (fault, left) in enumerate(self._rules):
            if (fault.method, fault.path) == (method, path):
                if left > 1:
                    self._rules[at] = (fault, left - 1)
                else:
                    del self._rules[at]
                return fault
        return None


class FaultyLine:
    """Between caller and exchange: carries calls out, and out of order where told to."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()
        self._late: list[asyncio.Task[None]] = []

    async def close(self) -> None:
        """End every wait: no call is answered, and none carried out, from now on.

        Raises what a call that was carried out late has raised.
        """
        self._stopping.set()
        await asyncio.gather(*self._late)

    async def answer(self, fault: Fault | None, process: Process) -> Reply | None:
        """Return what to answer; None: close the connection without an answer."""
        if fault is None:
            return process()
        if fault.fault in _CARRIED_OUT or fault.processed:
            process()
        match fault.fault:
            case FaultKind.STATUS | FaultKind.STATUS_AFTER:
                return _failure(fault)
            case FaultKind.MALFORMED:
                return _halved(process())
            case FaultKind.DELAY:
                stopped = await sleep_or_stop(fault.delay or 0.0, self._stopping)
                return None if stopped else process()
            case FaultKind.BLACKHOLE:
                await self._stopping.wait()
            case FaultKind.LATE:
                later = self._process_later(fault.delay or 0.0, process)
                self._late.append(asyncio.create_task(later))
        return None  # what is left of drop_request and drop_response

    async def _process_later(self, delay_s: float, process: Process) -> None:
        if not await sleep_or_stop(delay_s, self._stopping):
            process()


def _failure(fault: Fault) -> Reply:
    status = fault.status or HTTPStatus.INTERNAL_SERVER_ERROR
    code = _CODES.get(status)
    if code is not None and not fault.gateway:
        return Reply.refusal(Rejected("Injected fault", status=status, code=code))
    page = f"<html><head><title>{status}</title></head><body>{status}</body></html>"
    return Reply(status=status, body=page.encode(), content_type="text/html")


def _halved(reply: Reply) -> Reply:
    half = reply.body[: len(reply.body) // 2]
    return Reply(status=reply.status, body=half, content_type=reply.content_type)
