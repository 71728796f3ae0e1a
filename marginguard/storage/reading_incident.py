"""The rows that a report of an incident is made of, as they stand in the tables."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from marginguard.storage.database import Connection
from marginguard.storage.sql_files import statement

MOST_ROWS: Final = 50_000
"""The most rows of a table, the newest."""


async def rows_since(connection: Connection, since: datetime) -> Mapping[str, tuple[str, ...]]:
    """Return the rows since then, one JSON object each, oldest first, by what they are of.

    At most `MOST_ROWS` of each. Guards come as they stand, whenever they changed. Notifications
    come without what they said and to whom.
    """
    statements = {
        "executions": statement("select_incident_executions"),
        "actions": statement("select_incident_actions"),
        "commands": statement("select_incident_commands"),
        "notifications": statement("select_incident_notifications"),
        "margin_history": statement("select_incident_margin_history"),
    }
    found = {
        name: tuple(reversed([row[0] for row in await connection.fetch(sql, since, MOST_ROWS)]))
        for name, sql in statements.items()
    }
    guards = await connection.fetch(statement("select_incident_guards"))
    return {**found, "guards": tuple(row[0] for row in guards)}


async def server_version(connection: Connection) -> str:
    """Return what the server says it is."""
    version: str = await connection.fetchval("SHOW server_version")
    return version
