"""What the daemon has written down about a guard, where a database can be reached."""

import asyncio
from datetime import UTC, datetime
from typing import Final

from marginguard.config import Config
from marginguard.diagnose.account import Cause
from marginguard.diagnose.debug_record import GuardRecord, causes_in
from marginguard.domain.errors import ConfigError, DatabaseUnavailable, Malformed
from marginguard.domain.units import GuardId
from marginguard.storage.database import Connection, acquired, close_pool, open_pool
from marginguard.storage.embedded import running_server
from marginguard.storage.migrate import check_schema
from marginguard.storage.reading import guards, has_records
from marginguard.storage.records import load_guard_states, load_unsettled_actions

RECORD_PATIENCE_S: Final = 5.0
"""How long to wait for a database that can be done without."""


async def guard_record(
    config: Config, guard_id: GuardId
) -> tuple[GuardRecord | None, tuple[Cause, ...]]:
    """Return the guard's record (None: it cannot be read), and what that or its absence means.

    Starts no server: the embedded one is there only while the daemon runs.
    """
    try:
        url = _url(config)
        if url is None:
            return None, (_no_server(config),)
        async with asyncio.timeout(RECORD_PATIENCE_S):
            record = await _read(url, guard_id)
    except (ConfigError, DatabaseUnavailable, Malformed, TimeoutError) as error:
        return None, (_unreadable(error),)
    if record is None:
        return None, (_empty(),)
    patience = config.daemon.look_counts_for
    return record, tuple(causes_in(record, now=datetime.now(UTC), patience=patience))


def _url(config: Config) -> str | None:
    if config.database.url is not None:
        return config.database.url.get_secret_value()
    return running_server(config.daemon.state_dir)


async def _read(url: str, guard_id: GuardId) -> GuardRecord | None:
    """Return the record, or None where no daemon has ever written one."""
    pool = await open_pool(url, max_connections=1, connect_timeout_s=RECORD_PATIENCE_S)
    try:
        async with acquired(pool) as connection:
            if not await has_records(connection):
                return None
            await check_schema(connection)
            return await _record(connection, guard_id)
    finally:
        await close_pool(pool, timeout_s=1.0)


async def _record(connection: Connection, guard_id: GuardId) -> GuardRecord:
    states = {state.guard_id: state for state in await load_guard_states(connection)}
    views = {view.guard_id: view for view in await guards(connection)}
    state, view = states.get(guard_id), views.get(guard_id)
    if state is None:
        return GuardRecord(guard_id=guard_id)
    unsettled = await load_unsettled_actions(connection)
    return GuardRecord(
        guard_id=guard_id,
        armed=state.armed,
        reason=state.reason,
        since=state.since,
        pause=state.pause,
        memory=state.memory,
        unsettled=tuple(action for action in unsettled if action.guard_id == guard_id),
        looked_at=None if view is None else view.last_checked_at,
        execution_at=None if view is None else view.last_execution_at,
        execution_status=None if view is None else view.last_execution_status,
        execution_error=None if view is None else view.last_execution_error,
    )


def _no_server(config: Config) -> Cause:
    return Cause(
        issue=f"no daemon runs with the state directory {config.daemon.state_dir}, as far as this"
        " user can see: nothing guards then, and what the guard did before is not known",
        solution="start it: systemctl start marginguard (or: marginguard run)",
        action="start_daemon",
        warning=True,
    )


def _unreadable(error: Exception) -> Cause:
    return Cause(
        issue="the record cannot be read, so that armed state, cooldown and budget are not known:"
        f" {str(error) or 'no answer in time'}",
        solution="see that PostgreSQL runs and that [database] url is right; guarding goes on"
        " without it, and what is written down meanwhile is kept on the disk",
        action="check_database",
        warning=True,
    )


def _empty() -> Cause:
    return Cause(
        issue="the database holds no records: no daemon has run with it yet",
        solution="start the daemon: systemctl start marginguard (or: marginguard run)",
        action="start_daemon",
        warning=True,
    )
