"""`marginguard explain`: the story of one execution, or of one position's life."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import click

from marginguard.cli.common import config_option, json_option
from marginguard.cli.record import (
    WrongUse,
    account_of,
    account_option,
    echo_json,
    read,
    say,
    unknown,
    when,
)
from marginguard.config import Config
from marginguard.diagnose.failures import FailureReason, failure_reasons
from marginguard.diagnose.nearest import nearest
from marginguard.diagnose.story import (
    Moment,
    headline_of_execution,
    story_of_execution,
    story_of_position,
)
from marginguard.domain.history import Delivery
from marginguard.domain.margin import show_level
from marginguard.domain.records import ActionRecord, ActionStatus, ExecutionRecord
from marginguard.domain.units import AccountId, PositionId
from marginguard.storage import reading_positions
from marginguard.storage.database import Connection
from marginguard.storage.reading import PositionView
from marginguard.storage.reading_executions import (
    actions_of_execution,
    deliveries_of_execution,
    execution,
    execution_ids,
    known_ids,
)

_SHORTEST_BEGINNING: Final = 8
_NEWEST_IDS: Final = 500
_MOST_ACTIONS: Final = 200
_MOST_SAMPLES: Final = 100_000
_EVER: Final = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Execution:
    """All that the record has of an execution; no `execution` where it left no end."""

    id: UUID
    headline: str
    execution: ExecutionRecord | None
    actions: Sequence[ActionRecord]
    reasons: Sequence[FailureReason]
    notifications: Sequence[Delivery]
    timeline: Sequence[Moment]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Position:
    """All that the record has of a position, under each id that it has had."""

    account_id: AccountId
    ids: Sequence[PositionId]
    headline: str
    position: PositionView | None
    actions: Sequence[ActionRecord]
    reasons: Sequence[FailureReason]
    notifications: Sequence[Delivery]
    timeline: Sequence[Moment]


@click.command()
@click.argument("id_", metavar="EXECUTION|POSITION")
@account_option
@config_option
@json_option
def explain(
    config_path: Path, *, id_: PositionId, account_id: AccountId | None, as_json: bool
) -> None:
    """Tell the story of an execution or a position: what happened when, why, and what to do.

    EXECUTION is the id of an execution or of one of its actions, or at least the first eight
    characters of it; POSITION is the exchange's id of a trade, or "cross". Reads the database
    alone, whether the daemon runs or not.
    """

    async def query(connection: Connection, _: Config) -> _Execution | _Position:
        account = await account_of(connection, id_, account_id)
        if account is not None:
            return await _position(connection, account, id_)
        if account_id is None and (found := await _execution_id(connection, id_)) is not None:
            return await _execution(connection, found)
        of_account = "" if account_id is None else f" of account {account_id}"
        known = await known_ids(connection, newest=_NEWEST_IDS)
        raise unknown(
            f"the record holds no execution and no position {id_}{of_account}",
            nearest(id_, known) or "marginguard executions lists executions",
        )

    found = read(config_path, query)
    if as_json:
        echo_json(asdict(found))
    else:
        _print(found)


async def _execution_id(connection: Connection, id_: str) -> UUID | None:
    if len(id_.replace("-", "")) < _SHORTEST_BEGINNING:
        return None
    ids = await execution_ids(connection, id_)
    if len(ids) > 1:
        several = " and ".join(str(one) for one in ids[:2])
        raise WrongUse(f"several executions begin with {id_}, such as {several}: write more of it")
    return ids[0] if ids else None


async def _execution(connection: Connection, id_: UUID) -> _Execution:
    record = await execution(connection, id_)
    actions = await actions_of_execution(connection, id_)
    deliveries = await deliveries_of_execution(connection, id_)
    return _Execution(
        id=id_,
        headline=headline_of_execution(record, actions),
        execution=record,
        actions=actions,
        reasons=failure_reasons(record, actions),
        notifications=deliveries,
        timeline=story_of_execution(record, actions, deliveries),
    )


async def _position(connection: Connection, account: AccountId, id_: PositionId) -> _Position:
    ids = await reading_positions.lineage(connection, account, id_)
    running = await reading_positions.running(connection, account, ids)
    actions = await reading_positions.actions_of(connection, account, ids, limit=_MOST_ACTIONS)
    deliveries = await reading_positions.deliveries_of(
        connection, account, ids, limit=_MOST_ACTIONS
    )
    samples = await reading_positions.levels(
        connection, account, ids, since=_EVER, limit=_MOST_SAMPLES
    )
    return _Position(
        account_id=account,
        ids=ids,
        headline=_headline(account, id_, running, actions),
        position=running,
        actions=actions,
        reasons=failure_reasons(None, actions),
        notifications=deliveries,
        timeline=story_of_position(samples, actions, deliveries),
    )


def _headline(
    account: AccountId,
    id_: PositionId,
    running: PositionView | None,
    actions: Sequence[ActionRecord],
) -> str:
    if running is None:
        now = "does not run any more"
    else:
        called = "" if running.position_id == id_ else f" as {running.position_id}"
        guard = "NO guard" if running.guard_id is None else f"guard {running.guard_id}"
        now = (
            f"runs{called} at level {show_level(running.level)} % with {guard}"
            f" (seen {when(running.seen_at)} UTC)"
        )
    protective = [action for action in actions if action.kind.protects and not action.dry_run]
    done = sum(action.status is ActionStatus.DONE for action in protective)
    acted = f"{done} of {len(protective)} actions worked" if protective else "no action on record"
    return f"Position {id_} of account {account} {now}: {acted}"


def _print(found: _Execution | _Position) -> None:
    say(found.headline)
    if found.timeline:
        click.echo("\nWhat happened (UTC)")
        for moment in found.timeline:
            say(moment.text, f"{when(moment.at)} ", "    ")
    else:
        say("The record holds nothing else about it")
    if isinstance(found, _Execution) and found.execution is not None and found.execution.results:
        click.echo("\nEach position")
        for position, result in found.execution.results.items():
            say(f"{position}: {result}", "- ")
    if found.reasons:
        click.echo("\nWhy it failed")
        for reason in found.reasons:
            say(f"{reason.type}: {reason.issue}: {reason.detail}", "- ")
            say(reason.solution, "  ")
    if not found.notifications:
        click.echo()
        say("Nobody was told of it on any channel, as far as the record goes")
