"""Records as JSON: what is read back is what was written, or it is refused."""

import json
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marginguard.domain.errors import ErrorCode, ErrorType, Malformed
from marginguard.domain.memory import (
    Backstop,
    DayOpening,
    Episode,
    GuardMemory,
    Lineage,
    Setback,
    Spend,
)
from marginguard.domain.model import ActionKind, Side
from marginguard.domain.pause import Pause
from marginguard.domain.records import (
    ActionRecord,
    ActionStatus,
    CommandRecord,
    ExecutionRecord,
    GuardState,
    PositionState,
    Reopening,
)
from marginguard.storage import codec
from tests import old_lines
from tests.records import NOON, a_command, a_guard_state, a_reduction, an_action, an_execution

offsets = st.integers(-12 * 60, 12 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(
    min_value=datetime(1, 1, 2),  # noqa: DTZ001 - Hypothesis adds the zone
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001 - Hypothesis adds the zone
    timezones=st.one_of(st.just(UTC), offsets),
)
figures = st.floats(allow_nan=False)  # NaN equals nothing, itself included

states = st.builds(
    PositionState,
    entry_price=figures,
    liquidation_price=st.none() | figures,
    price=st.none() | figures,
    stop_loss=st.none() | figures,
    side=st.none() | st.sampled_from(Side),
)
reopenings = st.builds(
    Reopening,
    stop_loss=st.none() | figures,
    take_profit=st.none() | figures,
    closed_price=st.none() | figures,
    closed_at=st.none() | moments,
    margin=...,
    leverage=st.none() | figures,
)
actions = st.builds(
    ActionRecord,
    level=figures,
    threshold=figures,
    before=states,
    after=st.none() | states,
    intended_at=moments,
    attempts=...,
    outcome=...,
    exchange_id=...,
    error=...,
    proof=...,
    frozen=...,
    sent_at=st.none() | moments,
    settled_at=st.none() | moments,
    client_id=...,
    quantity=...,
    stop_loss=st.none() | figures,
    reopening=st.none() | reopenings,
    successor=...,
)
executions = st.builds(
    ExecutionRecord,
    price=st.none() | figures,
    started_at=moments,
    finished_at=moments,
    duration_s=figures,
    results=st.dictionaries(st.text(), st.text()),
    phases=st.dictionaries(st.text(), figures),
    error_code=st.none() | st.sampled_from(ErrorCode),
    error_type=st.none() | st.sampled_from(ErrorType),
    error=st.none() | st.text(),
)
episodes = st.builds(
    Episode,
    threshold=figures,
    opened_at=moments,
    last_action_at=st.none() | moments,
    last_action_level=st.none() | figures,
    last_action_kind=...,
    setbacks=st.lists(st.builds(Setback, at=moments, level=figures), max_size=2).map(tuple),
)
backstops = st.builds(Backstop, prices=st.lists(figures, max_size=3).map(tuple), at=moments)
memories = st.builds(
    GuardMemory,
    episodes=st.lists(episodes, max_size=3).map(tuple),
    spends=st.lists(st.builds(Spend, at=moments), max_size=3).map(tuple),
    opening=st.none() | st.builds(DayOpening),
    lineages=st.lists(st.builds(Lineage, at=moments), max_size=2).map(tuple),
    backstops=st.lists(backstops, max_size=2).map(tuple),
)
pauses = st.builds(Pause, until=moments)
guard_states = st.builds(
    GuardState, since=moments, memory=memories, updated_at=moments, pause=st.none() | pauses
)
commands = st.builds(CommandRecord, at=moments)
records = st.one_of(actions, executions, guard_states, commands)


@settings(deadline=None)
@given(records)
def test_every_record_is_read_back_exactly_as_it_was_written(record):
    line = codec.encode(record)
    assert b"\n" not in line
    assert codec.decode(line) == record


@pytest.mark.parametrize("record", [an_action(), a_reduction(), an_execution(), a_guard_state()])
@pytest.mark.parametrize("fault", ["unknown", "missing", "text for a number", "kind", "cut"])
def test_a_line_that_is_not_exactly_a_record_is_refused(record, fault):
    line = json.loads(codec.encode(record))
    body = line["record"]
    if fault == "unknown":
        body["colour"] = "red"
    elif fault == "missing":
        del body["account_id"]
    elif fault == "text for a number":
        body["account_id"] = 5
    elif fault == "kind":
        line["kind"] = "other"
    text = json.dumps(line).encode()
    with pytest.raises(Malformed):
        codec.decode(text[:-3] if fault == "cut" else text)


def test_an_action_written_before_there_were_reductions_is_still_read():
    action = codec.decode(old_lines.ACTION)
    assert isinstance(action, ActionRecord)
    assert (action.kind, action.status) == (ActionKind.ADD_MARGIN, ActionStatus.DONE)
    assert (action.amount, action.after.margin) == (25_000, 125_000)
    assert (action.quantity, action.stop_loss, action.reopening, action.successor) == (
        (0, None, None, None)
    )
    assert (action.before.stop_loss, action.before.side) == (None, None)


def test_a_guard_state_written_when_episodes_had_a_refusal_is_still_read():
    state = codec.decode(old_lines.GUARD)
    assert isinstance(state, GuardState)
    (episode,) = state.memory.episodes
    assert (episode.opened_at, episode.last_action_level) == (NOON, 80.2)
    assert (episode.last_action_kind, episode.setbacks) == (None, ())
    (spend,) = state.memory.spends
    assert spend.amount == 25_000
    assert (state.memory.lineages, state.memory.backstops) == ((), ())


def test_a_guard_state_written_before_there_were_pauses_is_still_read():
    state = a_guard_state(pause=None)
    line = codec.encode(state).replace(b',"pause":null', b"")
    assert b"pause" not in line
    assert codec.decode(line) == state


def test_a_command_is_read_back_and_refused_where_it_lacks_something():
    command = a_command(guard_id=None)
    assert codec.decode(codec.encode(command)) == command
    line = codec.encode(command).replace(b'"accepted":true,', b"")
    with pytest.raises(Malformed, match="accepted"):
        codec.decode(line)


def test_a_retired_field_in_another_place_is_refused():
    line = old_lines.ACTION.replace(b'"frozen":', b'"refusal":"no","frozen":')
    with pytest.raises(Malformed, match="refusal"):
        codec.decode(line)


def test_a_number_written_as_text_is_refused():
    line = codec.encode(an_action(amount=25_000)).replace(b":25000,", b':"25000",')
    with pytest.raises(Malformed, match="amount"):
        codec.decode(line)


def test_rows_for_the_database_hold_no_nul_and_take_any_mapping():
    execution = an_execution(error="a\x00b", results=MappingProxyType({"trade-1": "added"}))
    (row,) = orjson.loads(codec.json_rows([execution]))
    assert row["error"] == "a\ufffdb"
    assert row["results"] == {"trade-1": "added"}
