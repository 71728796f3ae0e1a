"""The connection pool, and the one place where the database's errors become ours."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, TypeAlias

import asyncpg
import structlog
from asyncpg.pool import PoolConnectionProxy

from marginguard.domain.errors import ConfigError, DatabaseUnavailable

# asyncpg's classes are generic for the type checker alone.
if TYPE_CHECKING:
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = PoolConnectionProxy[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Connection = PoolConnectionProxy

MIN_SERVER_MAJOR = 14
COMMAND_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 4

_FAULTS_OF_THE_URL = (
    asyncpg.InvalidPasswordError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)


@contextlib.contextmanager
def database_errors() -> Iterator[None]:
    """Translate whatever the database or the way to it does into `DatabaseUnavailable`.

    A statement that the server refuses is among them: whatever is wrong there, the daemon
    guards on, keeps its records in the journal, and says so until they are accepted.
    """
    try:
        yield
    except (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
        TimeoutError,
    ) as error:
        if _being_cancelled():
            # It arose while the connection was wound up: whoever cancelled must not be ignored.
            raise asyncio.CancelledError from error
        what = str(error).partition("\n")[0] or "no answer in time"
        raise DatabaseUnavailable(f"the database: {type(error).__name__}: {what}") from error


async def open_pool(
    url: str,
    *,
    command_timeout_s: float = COMMAND_TIMEOUT_S,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    max_connections: int = MAX_CONNECTIONS,
) -> Pool:
    """Connect to the server at `url` and return a pool that has a connection.

    Raises `ConfigError` if the URL is no good (its form, the user, the password, the database,
    the server's version) and `DatabaseUnavailable` if trying again may work. No message and no
    chained error holds the password.
    """
    with database_errors(), _faults_of_the_url():
        pool = await asyncpg.create_pool(
            url,
            # With a least number asyncpg would itself try to restore it all through an outage,
            # and log the traceback of every attempt.
            min_size=0,
            max_size=max_connections,
            timeout=connect_timeout_s,
            command_timeout=command_timeout_s,
            server_settings={"application_name": "marginguard", "timezone": "UTC"},
        )
        try:
            connection = await pool.acquire(timeout=connect_timeout_s)
            _check_server(connection)
            await pool.release(connection, timeout=connect_timeout_s)
        except BaseException:
            pool.terminate()
            raise
    return pool


def _check_server(connection: Connection) -> None:
    major = connection.get_server_version().major
    if major < MIN_SERVER_MAJOR:
        raise ConfigError(
            f"[database] url: the server is PostgreSQL {major}, and marginguard needs "
            f"{MIN_SERVER_MAJOR} or newer: upgrade it or name another server"
        )


@contextlib.contextmanager
def _faults_of_the_url() -> Iterator[None]:
    try:
        yield
    except _FAULTS_OF_THE_URL as error:
        raise ConfigError(
            f"[database] url: the server refuses the connection ({error.args[0]}): correct the "
            "user, the password or the database in the URL, or create what is missing"
        ) from error
    except OSError:
        raise  # some of these, such as a certificate's, are also a ValueError
    except ValueError:
        # Without its cause, whose text may quote a part of the password.
        raise ConfigError(
            "[database] url cannot be read: it must look like "
            "postgresql://USER:PASSWORD@HOST:5432/DATABASE, with characters other than letters "
            "and digits in the password written as %XX"
        ) from None


async def close_pool(pool: Pool, *, timeout_s: float) -> None:
    """Close the pool once its connections are given back, by force after `timeout_s` seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            await pool.close()
    except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        structlog.get_logger().info("database.closed_by_force", error=type(error).__name__)
        pool.terminate()


@contextlib.asynccontextmanager
async def acquired(
    pool: Pool, *, timeout_s: float = CONNECT_TIMEOUT_S
) -> AsyncIterator[Connection]:
    """Lend a connection of the pool, with the errors in the block translated.

    Waits at most `timeout_s` for a connection, and as long to give it back. A connection that
    the server lets only read is not used again. Raises `DatabaseUnavailable`.
    """
    with database_errors():
        connection = await pool.acquire(timeout=timeout_s)
        try:
            yield connection
        except asyncpg.ReadOnlySQLTransactionError:
            connection.terminate()  # to a standby now: the next one may find the new primary
            raise
        finally:
            if _being_cancelled():
                connection.terminate()  # to give it back in order would wait for the server
            await pool.release(connection, timeout=timeout_s)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
