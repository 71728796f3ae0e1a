"""What the control socket and those who speak to it have in common: its place, and its requests.

HTTP over a Unix socket in the state directory, one request a connection, bodies in JSON. The
paths begin with the version of all this.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from marginguard.domain.operating import Overview
from marginguard.domain.records import ActionRecord, ExecutionRecord, ExecutionSource
from marginguard.storage.embedded_files import MAX_SOCKET_PATH_BYTES
from marginguard.telemetry.heap import HeapRow

SOCKET_NAME: Final = "control.sock"
PREFIX: Final = "/v1"
MAX_REQUEST_BYTES: Final = 16_384
MAX_HEAP_ROWS: Final = 1_000

_LONGEST_SPAN_S: Final = 1e9  # what a guard may be paused for is the operator's to say


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class HeapRequest(_Message):
    """Asks for so many types of objects that take most memory."""

    limit: int = Field(ge=1, le=MAX_HEAP_ROWS)


class GuardRequest(_Message):
    """Asks for something to be done with a guard."""

    guard: str = Field(max_length=200)


class PauseRequest(GuardRequest):
    """Asks for a guard to be paused for so many seconds."""

    seconds: Annotated[float, Field(gt=0, le=_LONGEST_SPAN_S, allow_inf_nan=False)]


class RunRequest(GuardRequest):
    """Asks for a guard to be run at once; `source` goes to the record of the execution."""

    source: Literal[ExecutionSource.RUN_NOW, ExecutionSource.RECOVER]


class SettleRequest(_Message):
    """Says by the owner's word whether an action has taken effect."""

    action: UUID
    applied: bool


class Answer(_Message):
    """What came of a request, in a plain sentence."""

    answer: str


class Refusal(_Message):
    """Why a request was not granted."""

    error: str


OVERVIEW: TypeAdapter[Overview] = TypeAdapter(Overview)
ACTIONS: TypeAdapter[tuple[ActionRecord, ...]] = TypeAdapter(tuple[ActionRecord, ...])
EXECUTION: TypeAdapter[ExecutionRecord | None] = TypeAdapter(ExecutionRecord | None)
HEAP: TypeAdapter[tuple[HeapRow, ...]] = TypeAdapter(tuple[HeapRow, ...])


@contextmanager
def address_of(state_dir: Path) -> Iterator[str]:
    """Give a path of the socket that is short enough for the kernel, whatever the directory's.

    A long one is abbreviated by way of the opened directory: no second place is needed, which a
    /tmp of the daemon's own would hide from the commands. Raises `OSError`.
    """
    path = os.fspath(state_dir / SOCKET_NAME)
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        yield path
        return
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET_NAME}"
    finally:
        os.close(directory)
