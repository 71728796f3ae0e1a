"""The SQL statements: a folder a module, a file a statement."""

from functools import cache
from pathlib import Path

_SQL = Path(__file__).with_name("sql")


@cache
def statement(folder: str, name: str) -> str:
    """Return the text of `sql/<folder>/<name>.sql`."""
    return (_SQL / folder / f"{name}.sql").read_text()
