"""What is wrong with a configuration, in one line a fault that a trader can act on.

Tables in a list are counted from 1, as people do: `guards[2] "long".margin_threshold`.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_origin

import durationpy
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from marginguard.config.fields import TOLD, FromEnvironment

Loc = tuple[int | str, ...]
"""The way to a value: names of tables and keys, and places (from 0) in a list."""

ENVIRONMENT_PREFIX = "MARGINGUARD_"
NESTED = "__"

_MISSING = object()
_LONGEST_SHOWN = 60
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_USERINFO = re.compile(r"//[^/@]*@")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One value that is not allowed. `shown` is False where the value might be a secret."""

    loc: Loc
    rule: str
    shown: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """Where faults are found: the file, the values as written, and what they became.

    `prefix` names the table that `data` is, when it is not the whole file.
    """

    path: Path
    data: Any
    model: BaseModel | None = None
    prefix: str = ""

    def line(self, fault: Fault) -> str:
        """Return the fault as one line: file, key, value, and what is allowed."""
        value = _value_at(self.data, fault.loc)
        if isinstance(value, FromEnvironment):
            name = ENVIRONMENT_PREFIX + NESTED.join(str(part).upper() for part in fault.loc)
            where = f"environment variable {name}"
        else:
            where = f"{self.path}: {key_text(fault.loc, self.data, prefix=self.prefix)}"
        if not fault.shown:
            return f"{where}: {fault.rule}"
        if value is not _MISSING:
            return f"{where} = {_shown(value)}: {fault.rule}"
        default = _value_at(self.model, fault.loc)
        if default is _MISSING:
            return f"{where}: {fault.rule}"
        return f"{where} = {_shown(default)} (the default): {fault.rule}"


def key_text(loc: Loc, data: object = None, *, prefix: str = "") -> str:
    """Return a key as the reader knows it, `escalation[1].action` say.

    `data` is what `loc` leads through: tables in a list are named by their id too.
    """
    parts = [prefix] if prefix else []
    for part in loc:
        data = _value_at(data, (part,))
        if isinstance(part, int):
            parts[-1] += label(part, data)
        else:
            parts.append(part if _BARE_KEY.fullmatch(part) else _shown(part))
    return ".".join(parts)


def label(index: int, table: object) -> str:
    """Return how a table in a list is named: its place, and its id if it has one."""
    name = table.get("id") if isinstance(table, Mapping) else None
    return f"[{index + 1}] {_shown(name)}" if isinstance(name, str) else f"[{index + 1}]"


def faults_of(error: ValidationError, model: type[BaseModel]) -> tuple[Fault, ...]:
    """Return what a validation found, in the file's order and each fault once."""
    return tuple(dict.fromkeys(_fault(details, model) for details in error.errors()))


def _fault(details: ErrorDetails, model: type[BaseModel]) -> Fault:
    loc, field, owner = _resolve(model, details["loc"])
    if details["type"] == "extra_forbidden":
        key = str(details["loc"][-1])
        return Fault(loc=(*loc, key), rule=_unknown_key(key, owner))
    allowed = (field.description if field is not None else None) or "a table"
    if details["type"] == "missing":
        return Fault(loc=loc, rule=f"is missing: it must be {allowed}")
    shown = field is not None and not _may_hold_secrets(field.annotation)
    if details["type"] == TOLD:
        return Fault(loc=loc, rule=details["msg"], shown=shown)
    return Fault(loc=loc, rule=f"must be {allowed}", shown=shown)


def _unknown_key(key: str, owner: type[BaseModel]) -> str:
    known = list(owner.model_fields)
    if close := difflib.get_close_matches(key, known, n=1):
        return f"unknown key; did you mean {close[0]}?"
    return f"unknown key; known here are {', '.join(known)}"


def _resolve(model: type[BaseModel], loc: Loc) -> tuple[Loc, FieldInfo | None, type[BaseModel]]:
    """Follow `loc` as far as the models know it.

    Returns that part of it, the field found there (None for a table in a list or under a name
    that is the user's) and the innermost model. pydantic's own additions for unions and list
    items are left off.
    """
    known: list[int | str] = []
    owner, field, leaf, named = model, None, False, False
    for part in loc:
        if leaf:
            break
        if isinstance(part, str) and not named:
            if part not in owner.model_fields:
                break
            field = owner.model_fields[part]
            inner = next(_models_in(field.annotation), None)
            owner, leaf = (owner, True) if inner is None else (inner, False)
            named = not leaf and _is_mapping(field.annotation)
        else:
            field, named = None, False
        known.append(part)
    return tuple(known), field, owner


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401 - any type form
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _is_mapping(annotation: Any) -> bool:  # noqa: ANN401 - any type form
    origin = get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _may_hold_secrets(annotation: Any) -> bool:  # noqa: ANN401 - any type form
    """Whether a value meant for this type might be, or hold, a secret.

    A table counts: whatever stands in its place may be a secret put one level too high.
    """
    if annotation is SecretStr or annotation is Any:
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(_may_hold_secrets(argument) for argument in get_args(annotation))


def _value_at(data: object, loc: Loc) -> object:
    for part in loc:
        if isinstance(data, Mapping):
            data = data.get(part, _MISSING)
        elif isinstance(data, BaseModel):
            data = getattr(data, str(part), _MISSING)
        elif isinstance(data, Sequence) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return _MISSING
    return data


def _shown(value: object) -> str:
    """Return a value as the file would have it, on one line and not too long."""
    if isinstance(value, str):
        text = json.dumps(_USERINFO.sub("//***@", value), ensure_ascii=not value.isprintable())
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, int | float):
        text = f"{value:g}" if isinstance(value, float) else str(value)
    elif isinstance(value, timedelta):
        text = json.dumps(durationpy.to_str(value))
    elif isinstance(value, list):
        text = f"[{', '.join(_shown(item) for item in value)}]"
    elif isinstance(value, Mapping):
        text = "a table"
    else:
        text = str(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
