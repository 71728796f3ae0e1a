"""What a start takes over from the database: what it alone remembers, what nobody was told of."""

import asyncio
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

import structlog
from uuid_utils.compat import uuid7

from marginguard.domain.errors import ConfigError, DiskFull, Transient
from marginguard.domain.units import AccountId
from marginguard.engine import telling
from marginguard.ports import Notifier
from marginguard.storage.journal import FileJournal
from marginguard.storage.keeper import DatabaseKeeper

UNTOLD_PATIENCE_S: Final = 30.0
UNTOLD_SINCE: Final = timedelta(hours=1)
"""How far back to look, and for how long to wait, for actions that nobody was told of."""

MEMORY_PATIENCE_S: Final = 2.0
"""How long a start with an empty state directory waits for what the database remembers."""


async def tell_what_was_not(
    database: DatabaseKeeper, notifier: Notifier, started_at: datetime
) -> None:
    """Tell of actions that ended just before an earlier daemon did; returns then.

    Only the database knows that nobody was told: without it they are in the log alone.
    """
    try:
        async with asyncio.timeout(UNTOLD_PATIENCE_S):
            untold = await database.untold(started_at - UNTOLD_SINCE)
    except (TimeoutError, Transient, ConfigError) as error:
        log = structlog.get_logger()
        log.debug("untold.unknown", error=str(error) or "no answer in time")
        return
    for record in untold:
        if record.settled_at is not None and record.settled_at < started_at:
            notifier.tell(telling.of_action(record, notice_id=uuid7(), at=record.settled_at))


async def recall(
    database: DatabaseKeeper,
    journal: FileJournal,
    account_ids: Collection[AccountId] | None = None,
) -> None:
    """Take over what only the database remembers.

    That is so where the state directory is new, and for accounts (`account_ids`) that another
    daemon has guarded meanwhile.
    """
    log = structlog.get_logger()
    try:
        async with asyncio.timeout(MEMORY_PATIENCE_S):
            records = await database.remembered()
    except (TimeoutError, Transient, ConfigError) as error:
        log.warning(
            "memory.empty",
            error=str(error) or "no answer in time",
            advice="what only the database remembers cannot be read: guards begin without what"
            " they spent and did before",
        )
        return
    if account_ids is not None:
        records = tuple(r for r in records if r.account_id in account_ids)
    if not records:
        return
    try:
        await journal.append(*records)
    except DiskFull as error:
        log.critical(
            "memory.not_kept",
            error=str(error),
            advice="free space in the state directory and restart; what guards spent and did"
            " before is in the database alone",
        )
        return
    log.info("memory.recalled", records=len(records))
