"""The SQL that the code uses: one statement a file, in `sql/`."""

from functools import cache
from pathlib import Path

DIRECTORY = Path(__file__).with_name("sql")


@cache
def statement(name: str) -> str:
    """Return the statement in `sql/<name>.sql`, read once."""
    return (DIRECTORY / f"{name}.sql").read_text(encoding="utf-8")
