"""One daemon for an account: which accounts of the configuration this one may guard."""

import asyncio
from collections.abc import Callable

import structlog

from marginguard.config import Config
from marginguard.domain.units import AccountId
from marginguard.ports import Clock
from marginguard.storage.account_lock import AccountLocks
from marginguard.storage.holder import Holder
from marginguard.storage.host_lock import account_digest, lock_directory


class Claims:
    """The locks on the accounts of the configuration in force.

    `on_change` is called when an account has to be left to another daemon, or need not any more.
    """

    def __init__(self, *, clock: Clock, on_change: Callable[[], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        self._since = clock.now()
        self._digests: dict[AccountId, str] = {}
        self._locks: AccountLocks | None = None
        self._left: dict[AccountId, str] = {}
        self._settled = False

    @property
    def left_to_others(self) -> dict[AccountId, str]:
        """The accounts that another daemon guards, each with who holds it."""
        return dict(self._left)

    async def take(self, config: Config) -> None:
        """Take the locks on the configured accounts; those of others are let go of."""
        digests = {
            account.id: account_digest(account.rest_url, account.key.get_secret_value())
            for account in config.accounts
        }
        if self._locks is not None and digests == self._digests:
            return
        self.close()
        self._digests, self._left, self._settled = digests, {}, False
        url = config.database.url
        self._locks = AccountLocks(
            digests,
            directory=lock_directory(),
            url=url.get_secret_value() if url else None,
            ourselves=Holder.ourselves(config=config.path, since=self._since),
            clock=self._clock,
            on_change=self._changed,
        )
        await self._locks.start()
        self._settled = True

    async def barred(self, account_id: AccountId) -> str | None:
        """Return why nothing may be sent for an account at this moment, or None."""
        return None if self._locks is None else await self._locks.barred(account_id)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the locks until `stop` is set."""
        if self._locks is not None:
            await self._locks.run(stop)

    def close(self) -> None:
        """Let go of all locks."""
        if self._locks is not None:
            self._locks.close()
            self._locks = None

    def _changed(self, account_id: AccountId, reason: str | None) -> None:
        before = self._left.pop(account_id, None)
        if reason is not None:
            self._left[account_id] = reason
        if self._settled and (before is None) != (reason is None):
            structlog.get_logger().info(
                "account.claim_changed", account=account_id, left_to_others=reason is not None
            )
            self._on_change()
