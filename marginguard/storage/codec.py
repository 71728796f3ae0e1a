"""Records as JSON: one line each in the journal, and read back exactly as they were."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import orjson
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from marginguard.domain.errors import Malformed
from marginguard.domain.records import (
    ActionRecord,
    CommandRecord,
    ExecutionRecord,
    GuardState,
    Record,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _ActionLine:
    record: ActionRecord
    kind: Literal["action"] = "action"


@dataclass(frozen=True, kw_only=True, slots=True)
class _ExecutionLine:
    record: ExecutionRecord
    kind: Literal["execution"] = "execution"


@dataclass(frozen=True, kw_only=True, slots=True)
class _GuardLine:
    record: GuardState
    kind: Literal["guard"] = "guard"


@dataclass(frozen=True, kw_only=True, slots=True)
class _CommandLine:
    record: CommandRecord
    kind: Literal["command"] = "command"


_Line = _ActionLine | _ExecutionLine | _GuardLine | _CommandLine

_EXACT = ConfigDict(strict=True, extra="forbid", ser_json_inf_nan="constants")
_LINE: TypeAdapter[_Line] = TypeAdapter(
    Annotated[_Line, Field(discriminator="kind")], config=_EXACT
)
_ACTIONS: TypeAdapter[tuple[ActionRecord, ...]] = TypeAdapter(
    tuple[ActionRecord, ...], config=_EXACT
)
_GUARDS: TypeAdapter[tuple[GuardState, ...]] = TypeAdapter(tuple[GuardState, ...], config=_EXACT)


def encode(record: Record) -> bytes:
    """Return the record as JSON without a line break.

    Raises `ValueError` for a text that is not Unicode (a lone surrogate).
    """
    match record:
        case ActionRecord():
            line: _Line = _ActionLine(record=record)
        case ExecutionRecord():
            line = _ExecutionLine(record=record)
        case GuardState():
            line = _GuardLine(record=record)
        case CommandRecord():
            line = _CommandLine(record=record)
    return _LINE.dump_json(line)


def decode(line: bytes) -> Record:
    """Return the record that `encode` made the line of, in this version or an earlier one.

    Raises `Malformed` for anything else: a wrong type, a missing or an unknown field.
    """
    try:
        return _LINE.validate_json(_without_retired(line)).record
    except ValidationError as error:
        raise Malformed(f"not a record: {_first_fault(error)}") from error


def decode_actions(rows: str) -> tuple[ActionRecord, ...]:
    """Return the actions of a JSON array of rows of `actions`; raises `Malformed`."""
    try:
        return _ACTIONS.validate_json(rows)
    except ValidationError as error:
        raise Malformed(f"not actions: {_first_fault(error)}") from error


def decode_guard_states(rows: str) -> tuple[GuardState, ...]:
    """Return the states of a JSON array of rows of `guard_state`; raises `Malformed`."""
    try:
        return _GUARDS.validate_json(rows)
    except ValidationError as error:
        raise Malformed(f"not guard states: {_first_fault(error)}") from error


def json_rows(rows: Sequence[object]) -> str:
    """Return dataclasses or dictionaries as a JSON array that PostgreSQL's `jsonb` accepts.

    `jsonb` holds every character but NUL, which becomes the replacement character: a text from
    outside must not keep a record out of the database. Raises `Malformed` for a number beyond 64
    bits.
    """
    try:
        return orjson.dumps(rows, default=_as_dict).decode().replace("\\u0000", "\\ufffd")
    except orjson.JSONEncodeError as error:
        raise Malformed(f"no form in JSON: {error}") from error


def _without_retired(line: bytes) -> bytes:
    """Return the line without what earlier versions wrote and no record has any more.

    An episode had a `refusal`: why its newest action did not take effect.
    """
    if b'"refusal":' not in line:
        return line
    try:
        written = json.loads(line)  # orjson would refuse an infinite number
        for episode in written["record"]["memory"]["episodes"]:
            del episode["refusal"]
    except (ValueError, LookupError, TypeError):
        return line  # not such a line; what it lacks is said when it is validated
    return json.dumps(written).encode()


def _as_dict(value: object) -> object:
    # orjson knows dict alone; a record may hold any Mapping.
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
