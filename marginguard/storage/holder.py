"""Who holds a lock: what a process says of itself where others can read it."""

import os
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self, TypeVar

import orjson

_T = TypeVar("_T")

_PROGRAM: Final = "marginguard"
_LONGEST_NAME: Final = 63
"""Bytes that PostgreSQL keeps of an application's name."""
_LONGEST_WORD: Final = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """A process that holds locks, or wants to.

    `token` tells it from every other, also from one of the same number on another machine of the
    same name. What is not known is None, or empty.
    """

    pid: int | None
    host: str
    token: str = ""
    config: str = ""
    since: datetime | None = None

    @classmethod
    def ourselves(cls, *, config: Path, since: datetime) -> Self:
        """Describe this process, which runs with the file `config` since then."""
        return cls(
            pid=os.getpid(),
            host=socket.gethostname(),
            token=secrets.token_hex(4),
            config=str(config),
            since=since,
        )

    def in_words(self) -> str:
        """Return words for it, for a log or an error."""
        known = [f"pid {self.pid}" if self.pid is not None else "pid unknown"]
        if self.host:
            known.append(f"host {self.host}")
        if self.config:
            known.append(f"configuration {self.config}")
        if self.since is not None:
            known.append(f"since {self.since:%Y-%m-%d %H:%M:%S %Z}")
        return ", ".join(known)

    @property
    def application_name(self) -> str:
        """What a database session of the process is called: short, and plain ASCII."""
        host = self.host.encode("ascii", "replace").decode()
        return f"{_PROGRAM} {self.token} {self.pid} {host}"[:_LONGEST_NAME]

    @classmethod
    def of_session(cls, application_name: str | None, since: datetime | None) -> Self:
        """Read what a database session is called."""
        match (application_name or "").split(" ", 3):
            case [program, token, pid, host] if program == _PROGRAM and pid.isdecimal():
                return cls(pid=int(pid), host=host, token=token, since=since)
        return cls(pid=None, host="", since=since)

    def to_line(self) -> bytes:
        """Return one line for a lock file."""
        said = {
            "pid": self.pid,
            "host": self.host,
            "config": self.config,
            "since": self.since.isoformat() if self.since else None,
        }
        return orjson.dumps(said) + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> Self:
        """Read the line of a lock file, which anybody may have written."""
        try:
            said = orjson.loads(line)
        except orjson.JSONDecodeError:
            said = None
        if not isinstance(said, Mapping):
            said = {}
        pid = said.get("pid")
        return cls(
            pid=pid if isinstance(pid, int) and not isinstance(pid, bool) else None,
            host=_said(said, "host", lambda text: text) or "",
            config=_said(said, "config", lambda text: text) or "",
            since=_said(said, "since", datetime.fromisoformat),
        )


def _said(said: Mapping[str, object], key: str, read: Callable[[str], _T]) -> _T | None:
    value = said.get(key)
    if not isinstance(value, str) or len(value) > _LONGEST_WORD or not value.isprintable():
        return None
    try:
        return read(value)
    except ValueError:
        return None
