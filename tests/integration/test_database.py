"""The pool against a real server, and against what only looks like one."""

import asyncio
import os
import signal
import socket
import traceback
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from marginguard.domain.errors import ConfigError, DatabaseUnavailable
from marginguard.storage import database
from marginguard.storage.database import acquired, close_pool, database_errors, open_pool
from marginguard.storage.embedded import EmbeddedServer

PATIENCE_S = 30.0


async def refused(url: str) -> ConfigError:
    """Open a pool that must be refused; return the error."""
    with pytest.raises(ConfigError) as caught:
        await open_pool(url)
    return caught.value


def told(error: BaseException) -> str:
    """Return all that a log could ever show of an error, its causes included."""
    return "".join(traceback.format_exception(error, chain=True))


async def test_a_pool_opens_and_keeps_time_in_utc(database_url: str) -> None:
    pool = await open_pool(database_url)
    try:
        async with acquired(pool) as connection:
            assert await connection.fetchval("SHOW timezone") == "UTC"
            assert await connection.fetchval("SHOW application_name") == "marginguard"
    finally:
        await close_pool(pool, timeout_s=PATIENCE_S)


async def test_a_wrong_password_is_the_operators_business_and_is_not_repeated(
    database_url: str,
) -> None:
    password = urlsplit(database_url).password
    assert password
    error = await refused(database_url.replace(password, "my-secret-guess"))
    assert "[database] url" in str(error)
    assert "my-secret-guess" not in told(error)


async def test_an_unknown_database_is_named(database_url: str) -> None:
    name = urlsplit(database_url).path.strip("/")
    error = await refused(database_url.replace(f"/{name}?", "/no_such_database?"))
    assert 'database "no_such_database" does not exist' in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:my-secret@localhost/db",
        "postgresql://me:my-secret/5@localhost/db",
        "postgresql://me:my-secret#5@localhost/db",
        "postgresql://me:my-secret@localhost:port/db",
        "postgresql://me:my-secret@localhost/db?sslmode=my-secret",
    ],
)
async def test_a_url_that_cannot_be_read_is_refused_without_showing_it(url: str) -> None:
    error = await refused(url)
    assert "[database] url cannot be read" in str(error)
    assert "my-secret" not in "".join(traceback.format_exception_only(error))
    assert error.__cause__ is None
    assert error.__suppress_context__


async def test_a_server_that_is_too_old_is_refused(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "MIN_SERVER_MAJOR", 99)
    error = await refused(database_url)
    assert "99 or newer" in str(error)


async def test_a_server_that_is_not_there_may_come_back(tmp_path: Path) -> None:
    """Failure 28: Postgres is down at start."""
    with pytest.raises(DatabaseUnavailable):
        await open_pool(f"postgresql://me:my-secret@/db?host={tmp_path}")


async def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """Failure 28: Postgres hangs at start."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(os.fspath(tmp_path / ".s.PGSQL.5432"))
        silent.listen()
        with pytest.raises(DatabaseUnavailable):
            await open_pool(f"postgresql://me@/db?host={tmp_path}", connect_timeout_s=0.05)


async def test_a_server_that_hangs_at_a_statement_is_given_up_and_used_again(
    database_url: str,
) -> None:
    """Failure 28: Postgres hangs in the middle of its work."""
    pool = await open_pool(database_url, command_timeout_s=0.1, connect_timeout_s=PATIENCE_S)
    async with acquired(pool) as connection:
        backend = connection.get_server_pid()

    async def ask() -> None:
        async with acquired(pool, timeout_s=0.1) as connection:
            assert connection.get_server_pid() == backend
            await connection.fetchval("SELECT 1")

    os.kill(backend, signal.SIGSTOP)
    try:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(DatabaseUnavailable, match="TimeoutError"):
                await ask()
            async with acquired(pool, timeout_s=PATIENCE_S) as connection:
                assert await connection.fetchval("SELECT 1", timeout=PATIENCE_S) == 1
    finally:
        os.kill(backend, signal.SIGCONT)
        await close_pool(pool, timeout_s=PATIENCE_S)


async def test_a_pool_whose_connections_are_all_lent_is_given_up(database_url: str) -> None:
    pool = await open_pool(database_url, max_connections=1)
    try:
        async with asyncio.timeout(PATIENCE_S), acquired(pool):
            with pytest.raises(DatabaseUnavailable, match="TimeoutError"):
                async with acquired(pool, timeout_s=0.05):
                    pass
    finally:
        await close_pool(pool, timeout_s=PATIENCE_S)


async def test_a_statement_that_the_server_refuses_never_ends_the_daemon(
    database_url: str,
) -> None:
    pool = await open_pool(database_url)
    try:
        with pytest.raises(DatabaseUnavailable, match=r"UndefinedTableError.*no_such_table"):
            async with acquired(pool) as connection:
                await connection.execute("SELECT * FROM no_such_table")
    finally:
        await close_pool(pool, timeout_s=PATIENCE_S)


async def test_the_pool_heals_when_its_server_was_killed_and_started_again(
    used_state_dir: Path,
) -> None:
    """Failure 31: every connection of the pool is cut at once."""
    async with EmbeddedServer(state_dir=used_state_dir) as server:
        pool = await open_pool(await server.start())

        async def ask() -> int:
            async with acquired(pool) as connection:
                answer: int = await connection.fetchval("SELECT 1")
                return answer

        async def ask_until_it_fails() -> None:
            while True:  # a backend notices the death of its server a moment later
                await ask()

        try:
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await server.wait_ended()
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(DatabaseUnavailable):
                    await ask_until_it_fails()
            with pytest.raises(DatabaseUnavailable):
                await ask()
            await server.start()
            assert await ask() == 1
        finally:
            await close_pool(pool, timeout_s=PATIENCE_S)


async def test_closing_does_not_wait_for_a_connection_that_is_never_given_back(
    database_url: str,
) -> None:
    pool = await open_pool(database_url)
    held = await pool.acquire()
    async with asyncio.timeout(PATIENCE_S):
        await close_pool(pool, timeout_s=0.05)
    with pytest.raises(asyncpg.InterfaceError):
        await held.fetchval("SELECT 1")


async def test_a_cancellation_is_not_mistaken_for_an_error_of_the_database() -> None:
    with pytest.raises(asyncio.CancelledError), database_errors():
        raise asyncio.CancelledError
