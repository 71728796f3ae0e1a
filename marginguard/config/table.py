"""What the tables of the file have in common."""

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
NAME = Field(pattern=NAME_PATTERN)
NAMED: Final = "a name of up to 64 letters, digits, dots, dashes and underscores"
SECRET: Final = "env:NAME, file:PATH, credential:NAME or the value itself"  # noqa: S105 - a description


class Table(BaseModel):
    """A table of the file: frozen, refusing unknown keys, silent about its values in errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
