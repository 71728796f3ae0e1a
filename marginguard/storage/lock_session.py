"""A database session that holds locks on accounts, which daemons on other machines see."""

from collections.abc import Callable, Collection, Mapping
from typing import Self

from marginguard.storage.database import Connection, Pool, database_errors, open_pool
from marginguard.storage.holder import Holder
from marginguard.storage.sql_files import statement


class LockSession:
    """A connection of its own: its advisory locks last exactly as long as it does.

    What the database answers is proof that the session lived, and so that its locks were held,
    when it was asked. It needs a session of the server's: a pooler that lends its connections for
    a transaction only (PgBouncer in transaction mode) cannot stand in between.
    """

    def __init__(self, pool: Pool, connection: Connection, *, on_end: Callable[[], None]) -> None:
        self._pool = pool
        self._connection = connection
        self._on_end = on_end
        self.ended = False
        """Whether the connection has ended, as far as it is known here."""
        self.locked: frozenset[int] = frozenset()
        """The keys of the locks that it holds."""

    @classmethod
    async def open(
        cls, url: str, ourselves: Holder, *, timeout_s: float, on_end: Callable[[], None]
    ) -> Self:
        """Connect, and end what is left of earlier sessions of this process.

        `on_end` is called when the connection ends, whoever ended it. Raises as `open_pool` does.
        """
        pool = await open_pool(
            url, command_timeout_s=timeout_s, connect_timeout_s=timeout_s, max_connections=1
        )
        try:
            with database_errors():
                connection = await pool.acquire(timeout=timeout_s)
                await connection.execute(
                    statement("begin_lock_session"), ourselves.application_name
                )
                session = cls(pool, connection, on_end=on_end)
                connection.add_termination_listener(session._note_end)
        except BaseException:
            pool.terminate()
            raise
        return session

    async def take(self, keys: Collection[int]) -> None:
        """Lock what is free of `keys`, and add it to `locked`. Raises `DatabaseUnavailable`."""
        with database_errors():
            rows = await self._connection.fetch(statement("try_account_locks"), sorted(keys))
        self.locked |= {row["key"] for row in rows}

    async def holders(self, keys: Collection[int]) -> Mapping[int, Holder]:
        """Return who holds those of the locks `keys` that are held.

        Raises `DatabaseUnavailable`.
        """
        with database_errors():
            rows = await self._connection.fetch(
                statement("select_account_lock_holders"), sorted(keys)
            )
        return {
            row["key"]: Holder.of_session(row["application_name"], row["backend_start"])
            for row in rows
        }

    def terminate(self) -> None:
        """Cut the connection, which gives the locks back at once."""
        self._pool.terminate()

    def _note_end(self, _: object) -> None:
        self.ended = True
        self._on_end()
