"""A real PostgreSQL for the tests: one server a session, one empty database a test."""

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from marginguard.storage.embedded import EmbeddedServer


@contextmanager
def reachable_directory() -> Iterator[Path]:
    """Give a temporary directory that the server's user can pass through.

    pytest's own `tmp_path` is closed to everybody else, and root's server runs as somebody else.
    """
    directory = Path(tempfile.mkdtemp(prefix="marginguard-test-"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


class TestServer:
    """The session's server, driven from outside any test's event loop."""

    __test__ = False

    def __init__(self, state_dir: Path) -> None:
        self._server = EmbeddedServer(state_dir=state_dir)
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._numbers = itertools.count(1)
        self._url = ""

    def __enter__(self) -> Self:
        self._runner.__enter__()
        self._url = self._runner.run(self._server.start())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._runner.run(self._server.stop())
        finally:
            self._runner.close()

    @contextmanager
    def database(self) -> Iterator[str]:
        """Give the URL of a fresh, empty database; it is dropped afterwards."""
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name}")
        try:
            yield urlunsplit(urlsplit(self._url)._replace(path=f"/{name}"))
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        async def execute() -> None:
            connection = await asyncpg.connect(self._url)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        self._runner.run(execute())
