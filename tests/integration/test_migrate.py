"""The migration runner against a real server."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from marginguard.domain.errors import ConfigError, DatabaseUnavailable
from marginguard.storage.database import acquired, close_pool, open_pool
from marginguard.storage.migrate import migrate

FIRST = "CREATE TABLE trades (id bigint PRIMARY KEY);\nINSERT INTO trades VALUES (1);\n"
SECOND = "ALTER TABLE trades ADD COLUMN margin bigint NOT NULL DEFAULT 0;\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "0001_trades.sql").write_text(FIRST)
    (tmp_path / "0002_margin.sql").write_text(SECOND)
    return tmp_path


async def run(url: str, directory: Path) -> tuple[int, ...]:
    pool = await open_pool(url, max_connections=1)
    try:
        return await migrate(pool, directory=directory)
    finally:
        await close_pool(pool, timeout_s=10.0)


async def query(url: str, statement: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def test_migrations_are_applied_in_order_and_once(database_url: str, directory: Path) -> None:
    assert await run(database_url, directory) == (1, 2)
    assert await run(database_url, directory) == ()
    assert await query(database_url, "SELECT id, margin FROM trades") == [(1, 0)]
    rows = await query(
        database_url, "SELECT version, name, length(checksum) FROM schema_migrations ORDER BY 1"
    )
    assert rows == [(1, "trades", 64), (2, "margin", 64)]


async def test_a_new_migration_is_added_to_an_older_database(
    database_url: str, directory: Path
) -> None:
    await run(database_url, directory)
    (directory / "0003_more.sql").write_text("CREATE TABLE more ();\n")
    assert await run(database_url, directory) == (3,)


async def test_daemons_that_migrate_an_empty_database_at_once_all_succeed(
    database_url: str, directory: Path
) -> None:
    async with asyncio.TaskGroup() as tasks:
        runs = [tasks.create_task(run(database_url, directory)) for _ in range(5)]
    applied = [version for done in runs for version in done.result()]
    assert sorted(applied) == [1, 2]
    assert await query(database_url, "SELECT id, margin FROM trades") == [(1, 0)]


async def test_a_migration_that_fails_leaves_nothing_of_itself_and_keeps_those_before(
    database_url: str, directory: Path
) -> None:
    (directory / "0002_margin.sql").write_text("CREATE TABLE half ();\nSELECT no_such_column;\n")
    with pytest.raises(DatabaseUnavailable, match="no_such_column"):
        await run(database_url, directory)
    assert await query(database_url, "SELECT version FROM schema_migrations") == [(1,)]
    assert await query(database_url, "SELECT to_regclass('half')") == [(None,)]
    (directory / "0002_margin.sql").write_text(SECOND)
    assert await run(database_url, directory) == (2,)


async def test_a_migration_that_changed_after_it_was_applied_is_refused(
    database_url: str, directory: Path
) -> None:
    await run(database_url, directory)
    (directory / "0001_trades.sql").write_text(FIRST + "-- changed\n")
    with pytest.raises(ConfigError, match=r"version 1 \(trades\).*0001_trades.sql.*install"):
        await run(database_url, directory)


async def test_a_database_newer_than_the_program_is_refused(
    database_url: str, directory: Path
) -> None:
    await run(database_url, directory)
    (directory / "0002_margin.sql").unlink()
    with pytest.raises(ConfigError, match=r"version 2 and this marginguard knows 1.*newer"):
        await run(database_url, directory)


async def test_a_user_who_may_not_create_tables_is_told_so(
    database_url: str, directory: Path
) -> None:
    role = "reader_" + database_url.partition("/test_")[2].partition("?")[0]
    await query(database_url, f"CREATE ROLE {role} LOGIN PASSWORD 'reader'")
    try:
        address = database_url.partition("@")[2]
        with pytest.raises(ConfigError, match="may not create tables"):
            await run(f"postgresql://{role}:reader@{address}", directory)
    finally:
        await query(database_url, f"DROP ROLE {role}")


async def test_the_schema_of_the_package_applies_to_an_empty_database(database_url: str) -> None:
    pool = await open_pool(database_url)
    try:
        applied = await migrate(pool)
        assert applied == tuple(range(1, len(applied) + 1))
        async with acquired(pool) as connection:
            assert await connection.fetchval("SELECT count(*) FROM schema_migrations") == len(
                applied
            )
        assert await migrate(pool) == ()
    finally:
        await close_pool(pool, timeout_s=10.0)
