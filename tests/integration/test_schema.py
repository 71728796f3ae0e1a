"""The schema against the types and the code that rely on it."""

import re
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import get_args

import pytest

import marginguard.storage
from marginguard.domain.records import ActionRecord, CommandRecord, ExecutionRecord, GuardState
from marginguard.storage.database import acquired
from marginguard.storage.link import DatabaseLink
from marginguard.storage.reading import PositionView
from marginguard.storage.sql_files import DIRECTORY, statement

CODE = Path(marginguard.storage.__file__).parent


@pytest.fixture
async def connection(database_url):
    link = DatabaseLink(database_url)
    async with acquired(await link.connect()) as connection:
        yield connection
    await link.close(timeout_s=10.0)


@pytest.mark.parametrize(
    ("table", "record"),
    [
        ("executions", ExecutionRecord),
        ("actions", ActionRecord),
        ("guard_state", GuardState),
        ("commands", CommandRecord),
        ("positions", PositionView),
    ],
)
async def test_a_table_has_a_column_for_each_field_of_its_record(connection, table, record):
    rows = await connection.fetch(
        "SELECT column_name::text AS name, is_nullable = 'YES' AS nullable"
        " FROM information_schema.columns WHERE table_name = $1",
        table,
    )
    optional = {field.name: NoneType in get_args(field.type) for field in fields(record)}
    assert {row["name"]: row["nullable"] for row in rows} == optional


def test_the_statements_in_the_code_and_in_the_files_are_the_same():
    code = "".join(path.read_text() for path in CODE.glob("*.py"))
    used = set(re.findall(r'statement\("(\w+)"\)', code))
    used |= set(re.findall(r'\("(\w+)", (?:executions|commands|list\(\w+\.values\(\)\))\)', code))
    assert used == {path.stem for path in DIRECTORY.glob("*.sql")}


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (
            "SELECT * FROM executions WHERE guard_id = 'g' ORDER BY started_at DESC LIMIT 1",
            "executions_newest_of_guard",
        ),
        ("SELECT * FROM executions WHERE started_at < now()", "executions_by_time"),
        (
            "SELECT * FROM actions WHERE account_id = '' AND position_id = '' ORDER BY intended_at",
            "actions_of_position",
        ),
        (statement("select_unsettled_actions"), "actions_unsettled"),
        (
            statement("select_newest_actions").replace("$1", "20").replace("$2", "5"),
            "actions_by_time",
        ),
        (
            "SELECT * FROM margin_history WHERE account_id = '' AND position_id = ''",
            "margin_history_pkey",
        ),
        (statement("select_guards"), "executions_newest_of_guard"),
    ],
)
async def test_a_query_that_is_asked_often_has_its_index(connection, query, index):
    await connection.execute("SET enable_seqscan = off")
    await connection.execute("SET enable_bitmapscan = off")
    plan = await connection.fetch(f"EXPLAIN {query}")
    assert any(index in row[0] for row in plan)
