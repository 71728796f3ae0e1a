"""Bringing a database's schema up to date: ordered files, each applied once, forward only."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import structlog

from marginguard.domain.errors import ConfigError
from marginguard.storage.database import Connection, Pool, acquired
from marginguard.storage.sql_files import DIRECTORY, statement

MIGRATIONS = DIRECTORY / "migrations"
TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Migration:
    """One step of the schema; `checksum` is the SHA-256 of its file, in hexadecimal."""

    version: int
    name: str
    sql: str
    checksum: str


def read_migrations(directory: Path) -> tuple[Migration, ...]:
    """Read the files `NNNN_name.sql` of a directory, numbered 1, 2, 3 and so on without a gap.

    Raises `ValueError` for a file of another name or a gap: the package is broken.
    """
    migrations = tuple(_read(path) for path in sorted(directory.glob("*.sql")))
    if [migration.version for migration in migrations] != list(range(1, len(migrations) + 1)):
        raise ValueError(f"the migrations in {directory} are not numbered 1, 2, 3 without a gap")
    return migrations


def _read(path: Path) -> Migration:
    named = re.fullmatch(r"(\d{4})_(\w+)\.sql", path.name)
    if named is None:
        raise ValueError(f"a migration must be named NNNN_name.sql: {path}")
    content = path.read_bytes()
    return Migration(
        version=int(named[1]),
        name=named[2],
        sql=content.decode(),
        checksum=hashlib.sha256(content).hexdigest(),
    )


async def migrate(
    pool: Pool, *, directory: Path = MIGRATIONS, timeout_s: float = TIMEOUT_S
) -> tuple[int, ...]:
    """Apply what the database lacks of the migrations in `directory`; return their versions.

    Each is one transaction, in which an advisory lock is taken first, so that any number of
    processes may do this at once. One statement, or the wait for another process, may take
    `timeout_s` seconds. Raises `ConfigError` when the database is newer than this program, was
    made from other files, or does not let its user create tables, and `DatabaseUnavailable`.
    """
    migrations = read_migrations(directory)
    applied: list[int] = []
    async with acquired(pool) as connection:
        try:
            while (migration := await _apply_next(connection, migrations, timeout_s)) is not None:
                applied.append(migration.version)
        except asyncpg.InsufficientPrivilegeError as error:
            raise ConfigError(
                "[database] url: its user may not create tables in the database "
                f"({error.args[0]}): make it the owner of the database, or name another user"
            ) from error
    return tuple(applied)


async def check_schema(connection: Connection) -> None:
    """Raise `ConfigError` unless the schema is the one that this program reads."""
    migrations = read_migrations(MIGRATIONS)
    rows = await connection.fetch(statement("schema_migrations/select"))
    _check_history(migrations, rows)
    if len(rows) < len(migrations):
        raise ConfigError(
            f"the database has schema version {len(rows)} and this marginguard reads "
            f"{len(migrations)}: restart the daemon, which brings the database up to date"
            " (systemctl restart marginguard)"
        )


async def _apply_next(
    connection: Connection, migrations: Sequence[Migration], timeout_s: float
) -> Migration | None:
    """Apply the first migration that is missing; None if there is none."""
    # Read committed: after the lock, what its last holder committed must be seen.
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(statement("schema_migrations/lock"), timeout=timeout_s)
        await connection.execute(statement("schema_migrations/create"), timeout=timeout_s)
        rows = await connection.fetch(statement("schema_migrations/select"), timeout=timeout_s)
        _check_history(migrations, rows)
        if len(rows) == len(migrations):
            return None
        migration = migrations[len(rows)]
        await connection.execute(migration.sql, timeout=timeout_s)
        await connection.execute(
            statement("schema_migrations/insert"),
            migration.version,
            migration.name,
            migration.checksum,
            timeout=timeout_s,
        )
    structlog.get_logger().info("database.migrated", version=migration.version, name=migration.name)
    return migration


def _check_history(migrations: Sequence[Migration], rows: Sequence[asyncpg.Record]) -> None:
    """Raise `ConfigError` unless the database holds a beginning of these very migrations."""
    if len(rows) > len(migrations):
        raise ConfigError(
            f"the database has schema version {rows[-1]['version']} and this marginguard knows "
            f"{len(migrations)}: a newer marginguard has used it, install that one or name another "
            "database in [database] url"
        )
    for row, migration in zip(rows, migrations, strict=False):
        if (row["version"], row["checksum"]) != (migration.version, migration.checksum):
            raise ConfigError(
                f"schema version {row['version']} ({row['name']}) of the database differs from "
                f"{migration.version:04}_{migration.name}.sql of this marginguard, which must have "
                "been changed: install the marginguard that made the database, or name another "
                "database in [database] url"
            )
