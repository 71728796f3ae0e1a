"""The migration runner against a real server."""

import asyncio
import shutil
from pathlib import Path

import asyncpg
import pytest

from marginguard.domain.errors import ConfigError, DatabaseUnavailable
from marginguard.storage import codec, reading, records
from marginguard.storage.database import acquired, close_pool, open_pool
from marginguard.storage.migrate import MIGRATIONS, check_schema, migrate
from tests import old_lines
from tests.records import a_reduction

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


A_POSITION = """
INSERT INTO positions (
    account_id, position_id, guard_id, mode, side, quantity, margin, entry_price, leverage,
    price, level, risk, trigger_price, liquidation_price, liquidation_distance, pl, seen_at
) VALUES (
    'main', 'trade-1', 'guard-1', 'isolated', 'long', 1000, 100000, 100000.0, 10.0,
    98000.0, 20.4, 'safe', 94339.6, 90909.1, 7.2, -20408, '2026-03-14 12:00:00Z'
)
"""


async def make_first_schema(url: str, directory: Path) -> None:
    """Make the database that the first version made, with a row of everything that changed."""
    shutil.copy(MIGRATIONS / "0001_initial.sql", directory)
    assert await run(url, directory) == (1,)
    connection = await asyncpg.connect(url)
    try:
        for table, line in (("actions", old_lines.ACTION), ("guard_state", old_lines.GUARD)):
            await connection.execute(
                f"INSERT INTO {table} SELECT * FROM"
                f" jsonb_populate_record(NULL::{table}, $1::text::jsonb -> 'record')",
                line.decode(),
            )
        await connection.execute(A_POSITION)
    finally:
        await connection.close()


async def test_rows_of_the_first_schema_are_read_and_added_to_after_the_second(
    database_url: str, tmp_path: Path
) -> None:
    await make_first_schema(database_url, tmp_path)
    pool = await open_pool(database_url)
    try:
        assert 2 in await migrate(pool)
        reduction = a_reduction(intended_at=codec.decode(old_lines.ACTION).intended_at)
        await records.apply(pool, [reduction])
        async with acquired(pool) as connection:
            actions = await reading.newest_actions(connection, 10)
            assert set(actions) == {codec.decode(old_lines.ACTION), reduction}
            assert await records.load_guard_states(connection) == (codec.decode(old_lines.GUARD),)
            (position,) = await reading.positions(connection)
        assert (position.position_id, position.level) == ("trade-1", 20.4)
        assert (position.stop_loss, position.take_profit) == (None, None)
        assert (position.backstop, position.original_margin) == (None, None)
    finally:
        await close_pool(pool, timeout_s=10.0)


async def test_a_schema_that_the_daemon_has_yet_to_bring_up_to_date_is_told_from_a_current_one(
    database_url: str, tmp_path: Path
) -> None:
    await make_first_schema(database_url, tmp_path)
    pool = await open_pool(database_url)
    try:
        async with acquired(pool) as connection:
            with pytest.raises(ConfigError, match=r"schema version 1 .* restart the daemon"):
                await check_schema(connection)
            await migrate(pool)
            await check_schema(connection)
            await connection.execute(
                "INSERT INTO schema_migrations (version, name, checksum)"
                " SELECT max(version) + 1, 'later', '' FROM schema_migrations"
            )
            with pytest.raises(ConfigError, match="a newer marginguard has used it"):
                await check_schema(connection)
    finally:
        await close_pool(pool, timeout_s=10.0)
