"""A configuration that can be shown to strangers: what is secret or personal is left out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from marginguard.config.guards import EscalationSettings, GuardSettings, IndividualSettings
from marginguard.config.models import File
from marginguard.config.table import Table
from marginguard.config.users import PlanSettings
from marginguard.redaction import REDACTED

_PERSONAL: Final = frozenset(
    {
        *("email", "telegram_chat_id", "command_chats", "phone"),
        *("username", "sender", "account_sid"),
        *("headers", "body"),  # of a request of the owner's making, with a token in it perhaps
    }
)
_WORDS: Final = frozenset({"username", "body"})
"""What of it may be common words, and is not looked for elsewhere."""
_TELLING: Final = 8
"""From so many characters on a value that is left out is looked for elsewhere too."""
_REFERENCES: Final = ("env:", "file:", "credential:")
_NAMED_TABLES: Final = frozenset({"plans", "individual_configs"})
"""Tables whose keys are names that the owner gave."""


def without_secrets(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the file says, with `***` for every value that may be secret or personal.

    Shown are the values of keys that are known and hold neither, and references to where a
    secret is (`env:NAME`); whatever else stands there, a misspelt key's value too, is not.
    """
    shown = _shown_keys()
    return {key: _shown(key, value, shown) for key, value in data.items()}


def secrets_in(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts that `without_secrets` leaves out, for finding them elsewhere.

    Short ones and names of users are not among them: they may be words like any other.
    """
    shown = _shown_keys()
    for key, value in data.items():
        yield from _hidden_texts(key, value, shown)


def _shown(key: str, value: object, shown: frozenset[str]) -> object:
    if isinstance(value, Mapping) and (key in shown or key in _NAMED_TABLES):
        # In a table of names a key is not one of ours: its value, a table, is.
        names = key in _NAMED_TABLES
        return {
            inner: _shown(key if names and isinstance(held, Mapping) else inner, held, shown)
            for inner, held in value.items()
        }
    if isinstance(value, list) and key in shown:
        return [_shown(key, item, shown) for item in value]
    if isinstance(value, str) and value.startswith(_REFERENCES):
        return value
    if key not in shown or (isinstance(value, str) and "@" in value):
        return REDACTED
    return value


def _hidden_texts(key: str, value: object, shown: frozenset[str]) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner, held in value.items():
            yield from _hidden_texts(inner, held, shown)
    elif isinstance(value, list):
        for item in value:
            yield from _hidden_texts(key, item, shown)
    elif (
        _shown(key, value, shown) == REDACTED
        and key not in _WORDS
        and (len(str(value)) >= _TELLING or key in _PERSONAL)
    ):
        yield str(value)


def _shown_keys() -> frozenset[str]:
    known: set[str] = set()
    secret: set[str] = set()
    for table in _tables(File, GuardSettings, IndividualSettings, EscalationSettings, PlanSettings):
        for name, field in table.model_fields.items():
            known.add(name)
            if _is_secret(field):
                secret.add(name)
    return frozenset(known - secret - _PERSONAL)


def _tables(*roots: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield the tables and those within them."""
    for root in roots:
        yield root
        for field in root.model_fields.values():
            inner = [t for t in _types(field.annotation) if isinstance(t, type)]
            yield from _tables(*(t for t in inner if issubclass(t, Table)))


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in _types(field.annotation)


def _types(annotation: object) -> Sequence[object]:
    """Return the types that an annotation is made of."""
    return [annotation, *(found for part in get_args(annotation) for found in _types(part))]
