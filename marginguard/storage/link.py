"""The database, once it answers: opened and brought up to date at the first success."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from marginguard.storage.database import Pool, close_pool, open_pool
from marginguard.storage.migrate import migrate
from marginguard.storage.timing import OnWork, timed, unmeasured


class DatabaseLink:
    """Holds the pool that everybody shares, and is there before the database is.

    `url` may be a call that starts the database and returns its URL; it may be made again.
    `on_work` hears how long whoever shares the pool worked with the database.
    """

    def __init__(
        self, url: str | Callable[[], Awaitable[str]], *, on_work: OnWork = unmeasured
    ) -> None:
        self._url = url
        self._on_work = on_work
        self._connecting = asyncio.Lock()
        self._pool: Pool | None = None

    @property
    def pool(self) -> Pool | None:
        """The pool, or None as long as the database has never answered."""
        return self._pool

    async def connect(self) -> Pool:
        """Return the pool; the first time, connect and apply the migrations.

        Raises `DatabaseUnavailable` if trying again may work and `ConfigError` if it cannot.
        """
        async with self._connecting:
            if self._pool is None:
                url = self._url if isinstance(self._url, str) else await self._url()
                with self.timed("connect"):
                    pool = await open_pool(url)
                    try:
                        await migrate(pool)
                    except BaseException:
                        pool.terminate()
                        raise
                self._pool = pool
            return self._pool

    def timed(self, work: str) -> AbstractContextManager[None]:
        """Tell of the block as `work` on the database: how long it took, and if it went well."""
        return timed(self._on_work, work)

    async def close(self, *, timeout_s: float) -> None:
        """Close the pool, by force after `timeout_s` seconds."""
        if self._pool is not None:
            await close_pool(self._pool, timeout_s=timeout_s)
            self._pool = None
