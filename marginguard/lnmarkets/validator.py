"""When accounts are validated: at start, every hour, and when something speaks against one."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final

import structlog

from marginguard.aio import sleep_or_stop
from marginguard.domain.units import AccountId
from marginguard.lnmarkets.client import AccountClient
from marginguard.lnmarkets.validation import (
    AccountValidation,
    Candidate,
    Needs,
    Severity,
    Validations,
    Verdict,
    validate_all,
)
from marginguard.ports import Clock

VALIDATE_EVERY_S: Final = 3600.0
STREAM_PATIENCE_S: Final = 5.0
_AT_MOST_EVERY_S: Final = 30.0


class Validator:
    """Validates all accounts, and tells `on_result` of each.

    `permissions` come from the stream, which alone tells them; until it has, what the key may do
    is found out by trying the reads. `streamed` are the accounts that have a stream.
    """

    def __init__(
        self,
        accounts: Sequence[tuple[AccountClient, Needs]],
        *,
        clock: Clock,
        on_result: Callable[[AccountValidation], None],
        streamed: Collection[AccountId] = (),
    ) -> None:
        self._accounts = tuple(accounts)
        self._clock = clock
        self._on_result = on_result
        self._permissions: dict[AccountId, frozenset[str]] = {}
        self._untold = set(streamed)
        self._asked = asyncio.Event()
        self._told: dict[AccountId, tuple[object, ...]] = {}

    def permissions(self, account_id: AccountId, permissions: frozenset[str]) -> None:
        """Take note of what a key may do; news is validated soon."""
        self._untold.discard(account_id)
        if self._permissions.get(account_id) != permissions:
            self._permissions[account_id] = permissions
            self._asked.set()

    def ask(self) -> None:
        """Validate soon: an account was refused."""
        self._asked.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Validate now, every hour and when asked, until `stop` is set.

        The first time the streams get a few seconds to tell what the keys may do.
        """
        waited_until_s = self._clock.monotonic() + STREAM_PATIENCE_S
        while self._untold and self._clock.monotonic() < waited_until_s:
            if await self._sleep(waited_until_s - self._clock.monotonic(), stop):
                return
            self._asked.clear()
        while not stop.is_set():
            self._asked.clear()
            result = await validate_all(
                [
                    Candidate(
                        account=account,
                        needs=needs,
                        permissions=self._permissions.get(account.account_id),
                    )
                    for account, needs in self._accounts
                ],
                self._clock,
            )
            self._tell(result)
            if await sleep_or_stop(_AT_MOST_EVERY_S, stop):
                return
            await self._sleep(VALIDATE_EVERY_S, stop)

    async def _sleep(self, seconds: float, stop: asyncio.Event) -> bool:
        """Wait until asked, or for `seconds`, or until `stop` is set; return whether it is."""
        waits = [asyncio.create_task(self._asked.wait()), asyncio.create_task(stop.wait())]
        try:
            await asyncio.wait(
                waits, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
        return stop.is_set()

    def _tell(self, result: Validations) -> None:
        log = structlog.get_logger()
        log.info(
            "accounts.validated",
            valid=result.count(Verdict.VALID),
            invalid=result.count(Verdict.INVALID),
            unknown=result.count(Verdict.UNKNOWN),
        )
        for account in result.accounts:
            self._on_result(account)
            news = (account.verdict, account.reason, account.findings)
            if self._told.get(account.account_id) == news:
                continue
            self._told[account.account_id] = news
            if account.verdict is not Verdict.VALID:
                log.warning(
                    "account.not_valid",
                    account=account.account_id,
                    code=account.code,
                    reason=account.reason,
                    advice=account.advice,
                )
            for finding in account.findings:
                critical = finding.severity is Severity.CRITICAL
                (log.critical if critical else log.warning)(
                    "account.finding",
                    account=account.account_id,
                    issue=finding.issue,
                    advice=finding.solution,
                )
