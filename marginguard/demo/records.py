"""What the daemon's database says at the end of the demo."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from marginguard.domain.records import ActionRecord
from marginguard.domain.units import AccountId
from marginguard.storage.database import acquired, close_pool, open_pool
from marginguard.storage.embedded import server_for_reading
from marginguard.storage.reading import count_executions, proved_actions

_PATIENCE_S = 10.0
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Records:
    """The proved actions by account, the oldest first, and how many executions there are."""

    actions: Mapping[str, Sequence[ActionRecord]]
    executions: int

    @property
    def proved(self) -> int:
        """How many actions are done and carry their proof."""
        return sum(1 for rows in self.actions.values() for row in rows if row.proof)


async def read_records(state_dir: Path, accounts: Sequence[str], *, expected: int) -> Records:
    """Read the running daemon's database, waiting a while for `expected` proved actions.

    Raises `ConfigError` or `DatabaseUnavailable` if there is none.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + _PATIENCE_S
    async with server_for_reading(state_dir) as url:
        pool = await open_pool(url)
        try:
            while True:
                async with acquired(pool) as connection:
                    actions = {
                        name: await proved_actions(connection, AccountId(name)) for name in accounts
                    }
                    records = Records(
                        actions=actions, executions=await count_executions(connection)
                    )
                if records.proved >= expected or loop.time() > until:
                    return records
                # The daemon drains its journal by itself; there is no event to wait for here.
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            await close_pool(pool, timeout_s=1.0)
