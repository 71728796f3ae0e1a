"""One daemon for an account: the lock on this machine, and the one that the database keeps."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from marginguard.aio import sleep_or_stop, unless_stopped
from marginguard.domain.errors import ConfigError, DatabaseUnavailable
from marginguard.domain.units import AccountId
from marginguard.ports import Clock
from marginguard.storage.holder import Holder
from marginguard.storage.host_lock import SHARED_DIRECTORY, HostLock
from marginguard.storage.lock_session import LockSession

_PAUSE_S: Final = 0.05
_LONGEST_LOOK: Final = 3
"""How often a look waits for an answer: of the session at hand, of a connection, of its session."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LockTimings:
    """Times of the locks in seconds.

    Held locks are looked at every `check_every_s`, and asked about again before anything is
    done on the strength of a look older than `stale_after_s`. A database that does not answer
    within `answer_within_s` is away. Whoever stands by takes a lock over once it has been free
    for `takeover_after_s`: by then its last holder, if it lives, has looked again and taken it
    back, or knows that it may not act. So `stale_after_s` must not be longer.
    """

    check_every_s: float = 5.0
    stale_after_s: float = 15.0
    answer_within_s: float = 2.0
    takeover_after_s: float = 15.0

    def __post_init__(self) -> None:
        """Refuse times with which two daemons could act at once."""
        if self.check_every_s + _LONGEST_LOOK * self.answer_within_s > self.stale_after_s:
            raise ValueError("a look must be over before the last one is stale")
        if self.stale_after_s > self.takeover_after_s:
            raise ValueError("a lock must not be taken over while its last holder trusts it")


class AccountLocks:
    """Holds the locks on the daemon's accounts, and says which accounts it must not act on.

    `accounts` has each account's `account_digest`. `url` is the database that daemons of several
    machines share; None for the embedded one, which no other daemon can use. `on_change` is
    called, from `start` and `run`, with an account and the reason why this daemon stands by, or
    None once it may act.

    The lock on this machine must be ours; without lock files there is a loud warning, and the
    database's lock alone. The database's lock says no only when another daemon is known to hold
    it: a database that is away stops nobody who was not standing by. While it is away two
    machines that cannot see each other may thus both act, the one that held the lock and one
    that is started meanwhile; they learn of each other within seconds of its return.
    """

    def __init__(
        self,
        accounts: Mapping[AccountId, str],
        *,
        directory: Path,
        url: str | None,
        ourselves: Holder,
        clock: Clock,
        on_change: Callable[[AccountId, str | None], None],
        timings: LockTimings | None = None,
    ) -> None:
        self._log = structlog.get_logger()
        self._files = {
            account_id: HostLock(directory, digest, ourselves)
            for account_id, digest in accounts.items()
        }
        self._keys = {account_id: _lock_key(digest) for account_id, digest in accounts.items()}
        self._directory = directory
        self._url = url
        self._ourselves = ourselves
        self._clock = clock
        self._on_change = on_change
        self._timings = timings or LockTimings()
        self._wake = asyncio.Event()
        self._looked = asyncio.Event()  # set, and replaced, after every look
        self._looked_s = float("-inf")
        self._file_reasons: dict[AccountId, str] = {}
        self._unusable = False
        self._session: LockSession | None = None
        self._database_down = False
        self._held_by_others: dict[int, Holder] = {}
        self._free_since_s: dict[int, float] = {}
        self._told: dict[AccountId, str | None] = {}

    async def start(self) -> None:
        """Take the locks that are free; with a database that is away it takes some seconds."""
        if self._directory != SHARED_DIRECTORY:
            self._log.warning(
                "account.lock_directory",
                directory=str(self._directory),
                advice=f"{SHARED_DIRECTORY} cannot be used, so daemons that keep their locks there"
                f" are not seen; under systemd allow it with ReadWritePaths={SHARED_DIRECTORY}",
            )
        await self._look()

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the locks, and take over those that become free, until `stop` is set.

        They are held until `close`: `stop` may be set as soon as nothing more will be sent.
        """
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timings.check_every_s):
                    await unless_stopped(self._woken(), stop)
            self._wake.clear()
            if stop.is_set():
                return
            await self._look()
            await sleep_or_stop(_PAUSE_S, stop)  # however often the database ends the session

    async def barred(self, account_id: AccountId) -> str | None:
        """Return why nothing may be sent for the account now, or None if this daemon may act.

        To be asked right before each request that changes something. It answers at once, unless
        the last look at the database is stale (the process was frozen): then it waits for
        another one, which is bounded, for the lock may have been lost meanwhile.
        """
        asked_s = self._clock.monotonic()
        patience_s = 2 * _LONGEST_LOOK * self._timings.answer_within_s
        if self._url is not None and asked_s - self._looked_s > self._timings.stale_after_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    while self._looked_s < asked_s:
                        self._wake.set()
                        await self._looked.wait()
        if self._told.get(account_id) is None:  # to end standing by takes a look at both locks
            self._look_at_file(account_id)
            self._tell(account_id)
        return self._told.get(account_id)

    def close(self) -> None:
        """Let go of all locks."""
        self._drop_session()
        for file in self._files.values():
            file.release()

    async def _woken(self) -> None:
        await self._wake.wait()

    async def _look(self) -> None:
        began_s = self._clock.monotonic()
        for account_id in self._files:
            self._look_at_file(account_id)
        if self._url is not None:
            await self._look_at_database(self._url)
        # An answer may be as old as its question: a process can be frozen between the two.
        self._looked_s = began_s
        for account_id in self._files:
            self._tell(account_id)
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()

    def _look_at_file(self, account_id: AccountId) -> None:
        self._file_reasons.pop(account_id, None)
        try:
            holder = self._files[account_id].hold()
        except OSError as error:
            if not self._unusable:
                self._unusable = True
                self._log.error(
                    "account.lock_unusable",
                    file=str(self._files[account_id].path),
                    error=str(error),
                    advice=f"make {self._directory} a directory that this user may write to; until"
                    " then another daemon of this machine could act on the same account",
                )
            return
        if holder is not None:
            self._file_reasons[account_id] = (
                f"another marginguard of this machine guards it ({holder})"
            )

    async def _look_at_database(self, url: str) -> None:
        """Ask the session that there is; where it fails, only a new one tells what is the case.

        That the session was cut does not mean that the database is away.
        """
        if self._session is not None:
            with contextlib.suppress(DatabaseUnavailable, ConfigError, TimeoutError):
                async with asyncio.timeout(self._timings.answer_within_s):
                    await self._follow(await self._connected(url))
                return
            self._drop_session()
        try:
            async with asyncio.timeout(2 * self._timings.answer_within_s):
                await self._follow(await self._connected(url))
        except (DatabaseUnavailable, ConfigError, TimeoutError) as error:
            # Whether it is a fault of the URL is told by those who store records.
            if not self._database_down:
                self._database_down = True
                self._log.info("account.lock_database_away", error=type(error).__name__)
            self._drop_session()
        else:
            self._database_down = False

    async def _connected(self, url: str) -> LockSession:
        if self._session is not None and (
            self._session.ended or self._session.locked - self._wanted_keys()
        ):
            self._drop_session()
        if self._session is None:
            self._session = await LockSession.open(
                url,
                self._ourselves,
                timeout_s=self._timings.answer_within_s,
                on_end=self._wake.set,
            )
        return self._session

    async def _follow(self, session: LockSession) -> None:
        """See who holds the locks, and take those that we may take."""
        wanted = self._wanted_keys()
        missing = wanted - session.locked
        holders = await session.holders(missing)  # an answer in itself proves the locks we hold
        free = {key for key in missing - holders.keys() if self._may_take(key)}
        if free:
            await session.take(free)
        for key in session.locked:
            self._held_by_others.pop(key, None)
            self._free_since_s.pop(key, None)
        for key, holder in holders.items():
            if holder.token == self._ourselves.token:
                self._wake.set()  # an earlier session of ours, which is about to end
                continue
            self._free_since_s.pop(key, None)
            self._held_by_others[key] = holder
        if free - session.locked:
            self._wake.set()  # another was faster: see who

    def _wanted_keys(self) -> frozenset[int]:
        """Return the locks of the accounts that this machine's lock does not bar.

        Two daemons of one machine must not each hold one of the two locks.
        """
        return frozenset(
            key for account_id, key in self._keys.items() if account_id not in self._file_reasons
        )

    def _may_take(self, key: int) -> bool:
        """Whether a lock that is free may be taken; by one who stood by only after a while."""
        if key not in self._held_by_others:
            return True
        now_s = self._clock.monotonic()
        free_since_s = self._free_since_s.setdefault(key, now_s)
        return now_s - free_since_s >= self._timings.takeover_after_s

    def _drop_session(self) -> None:
        session, self._session = self._session, None
        self._free_since_s.clear()  # nobody watches meanwhile
        if session is not None:
            session.terminate()

    def _reason(self, account_id: AccountId) -> str | None:
        if (reason := self._file_reasons.get(account_id)) is not None:
            return f"{reason}; this one stands by until that one ends"
        holder = self._held_by_others.get(self._keys[account_id])
        if holder is None:
            return None
        return (
            f"another marginguard guards it: {holder.in_words()} (as the database says); this one"
            " stands by until that one ends"
        )

    def _tell(self, account_id: AccountId) -> None:
        """Tell of the account's state if it has changed."""
        reason, known = self._reason(account_id), account_id in self._told
        before = self._told.get(account_id)
        if known and before == reason:
            return
        self._told[account_id] = reason
        if reason is None:
            self._log.info(
                "account.taken_over" if known else "account.lock_taken", account=account_id
            )
        elif known and before is None:
            self._log.critical(
                "account.lock_lost",
                account=account_id,
                reason=reason,
                advice="run one daemon for an account: stop one of the two",
            )
        else:
            self._log.warning(
                "account.standing_by",
                account=account_id,
                reason=reason,
                advice="it guards nothing on this account; stop the other one to have it act",
            )
        self._on_change(account_id, reason)


def _lock_key(digest: str) -> int:
    """Return the number of an account's advisory lock: 64 bits, as PostgreSQL has them."""
    return int.from_bytes(bytes.fromhex(digest)[:8], "big", signed=True)
