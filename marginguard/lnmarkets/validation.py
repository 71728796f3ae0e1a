"""Whether an account can be guarded: its key, its permissions, its balance, the clock."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from marginguard.domain.errors import ErrorCode, MarginguardError, Rejected, Unauthorized
from marginguard.domain.model import Balance, MarginMode
from marginguard.domain.units import AccountId
from marginguard.lnmarkets.client import AccountClient
from marginguard.lnmarkets.server_clock import CRITICAL_OFFSET_S, WARN_OFFSET_S, ServerClock
from marginguard.ports import Clock

ACCOUNT_READ: Final = "account:read"

_FORBIDDEN: Final = "FORBIDDEN"

_AT_ONCE: Final = 32
"""How many accounts are validated at a time: guards must not wait for a connection meanwhile."""


class Verdict(StrEnum):
    """What is known of an account. `unknown`: it could not be asked, which says nothing of it."""

    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN = "unknown"


class Severity(StrEnum):
    """How much a finding matters."""

    CRITICAL = "critical"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that is not as it should be, what to do, and a stable name for doing it."""

    severity: Severity
    issue: str
    solution: str
    action: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AccountValidation:
    """What was found of one account, `last_validated` by our clock.

    `code` and `reason` say why it is not valid: the key lacks what is `missing`, or `failure` is
    what a read met. `balance` is None where it could not be read, `permissions` where the
    exchange did not tell them. `clock_offset_s` is how far the exchange's clock is ahead of ours,
    None where it could not be measured.
    """

    account_id: AccountId
    verdict: Verdict
    last_validated: datetime
    code: ErrorCode | None = None
    reason: str | None = None
    advice: str | None = None
    balance: Balance | None = None
    permissions: frozenset[str] | None = None
    findings: tuple[Finding, ...] = ()
    missing: tuple[str, ...] = ()
    failure: MarginguardError | None = None
    clock_offset_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Validations:
    """What was found of several accounts."""

    accounts: tuple[AccountValidation, ...]

    @property
    def code(self) -> ErrorCode | None:
        """Why nothing at all can be guarded, if there is no account."""
        return None if self.accounts else ErrorCode.NO_EXCHANGE_ACCOUNTS

    def count(self, verdict: Verdict) -> int:
        """Return how many accounts have this verdict."""
        return sum(account.verdict is verdict for account in self.accounts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What the guards of an account need its key for.

    `modes` are the margin modes that they look at, `acts` whether any may do something.
    """

    modes: frozenset[MarginMode]
    acts: bool

    @property
    def permissions(self) -> tuple[str, ...]:
        """The permissions of the exchange that cover the needs, the least there are."""
        rights = ("read", "write") if self.acts else ("read",)
        return (
            ACCOUNT_READ,
            *(f"futures:{mode}:{right}" for mode in sorted(self.modes) for right in rights),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judgement:
    """The verdict on an account, and what led to it."""

    verdict: Verdict
    code: ErrorCode | None = None
    reason: str | None = None
    advice: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An account to be validated; `permissions` as the stream told them, None if it did not."""

    account: AccountClient
    needs: Needs
    permissions: frozenset[str] | None = None


async def validate_all(candidates: Sequence[Candidate], clock: Clock) -> Validations:
    """Validate accounts side by side; what one of them meets does not hurt the others."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def validate_in_turn(candidate: Candidate) -> AccountValidation:
        async with slots:
            return await validate(candidate, clock)

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(validate_in_turn(candidate)) for candidate in candidates]
    return Validations(accounts=tuple(task.result() for task in running))


async def validate(candidate: Candidate, clock: Clock) -> AccountValidation:
    """Read what the guards of an account need, and say whether its key lets them guard.

    Never raises for what the exchange or the network does.
    """
    account = candidate.account
    balance: Balance | None = None
    refusal: MarginguardError | None = None
    missing = _not_granted(candidate)
    for permission, read in _reads(account, candidate.needs):
        try:
            result = await read()
        except Unauthorized as error:
            if error.code != _FORBIDDEN:
                refusal = error
                break
            missing.append(permission)
        except MarginguardError as error:
            refusal = error
            break
        else:
            balance = result if isinstance(result, Balance) else balance
    missing = list(dict.fromkeys(missing))
    verdict = _judge(refusal, missing)
    return AccountValidation(
        account_id=account.account_id,
        last_validated=clock.now(),
        verdict=verdict.verdict,
        code=verdict.code,
        reason=verdict.reason,
        advice=verdict.advice,
        balance=balance,
        permissions=candidate.permissions,
        findings=(*_of_clock(account.server_clock), *_of_permissions(candidate)),
        missing=tuple(missing),
        failure=refusal,
        clock_offset_s=account.server_clock.offset_s,
    )


def _reads(
    account: AccountClient, needs: Needs
) -> list[tuple[str, Callable[[], Awaitable[object]]]]:
    """Return what must be readable, each with the permission that it takes."""
    reads: list[tuple[str, Callable[[], Awaitable[object]]]] = [(ACCOUNT_READ, account.balance)]
    if MarginMode.ISOLATED in needs.modes:
        reads.append(("futures:isolated:read", account.isolated.running))
    if MarginMode.CROSS in needs.modes:
        reads.append(("futures:cross:read", account.cross.position))
    return reads


def _not_granted(candidate: Candidate) -> list[str]:
    """Return the needed permissions that the key lacks, as far as the exchange told them."""
    granted = candidate.permissions
    if granted is None:
        return []
    return [p for p in candidate.needs.permissions if not _covered(p, granted)]


def _covered(permission: str, granted: Collection[str]) -> bool:
    area, *_, right = permission.split(":")
    return permission in granted or f"{area}:{right}" in granted


def _judge(refusal: MarginguardError | None, missing: Sequence[str]) -> _Judgement:
    if isinstance(refusal, Unauthorized):
        return _Judgement(
            verdict=Verdict.INVALID,
            code=ErrorCode.INVALID_CREDENTIALS,
            reason=str(refusal),
            advice="check key, secret and passphrase, and that they belong to the account's"
            " network (mainnet or signet)",
        )
    if missing:
        return _Judgement(
            verdict=Verdict.INVALID,
            code=ErrorCode.INVALID_ACCOUNT_STATUS,
            reason=f"the key lacks the permission {', '.join(missing)}",
            advice="make a key with the missing permissions on the exchange and put it into the"
            " configuration",
        )
    if refusal is None:
        return _Judgement(verdict=Verdict.VALID)
    if isinstance(refusal, Rejected) and refusal.code is not None:
        return _Judgement(
            verdict=Verdict.INVALID,
            code=ErrorCode.INVALID_ACCOUNT_STATUS,
            reason=str(refusal),
            advice="see on the exchange whether the account may trade futures",
        )
    return _Judgement(
        verdict=Verdict.UNKNOWN,
        code=ErrorCode.ACCOUNT_FETCH_ERROR,
        reason=str(refusal),
        advice="see that the exchange can be reached from this machine; the account is read again",
    )


def _of_clock(server_clock: ServerClock) -> list[Finding]:
    offset_s = server_clock.offset_s
    if offset_s is None:
        return [
            Finding(
                severity=Severity.WARNING,
                issue="how far this machine's clock is off the exchange's could not be measured",
                solution="see that the exchange can be reached from this machine",
                action="check_network",
            )
        ]
    if abs(offset_s) < WARN_OFFSET_S:
        return []
    return [
        Finding(
            severity=Severity.CRITICAL if abs(offset_s) >= CRITICAL_OFFSET_S else Severity.WARNING,
            issue=f"the exchange's clock is {offset_s:+.1f} s off this machine's",
            solution="set the machine's clock, for example with: timedatectl set-ntp true",
            action="sync_clock",
        )
    ]


def _of_permissions(candidate: Candidate) -> list[Finding]:
    granted = candidate.permissions
    if granted is None:
        if not candidate.needs.acts:
            return []
        return [
            Finding(
                severity=Severity.WARNING,
                issue="whether the key may close positions and add margin is not known, because"
                " only the exchange's stream tells it and has not yet",
                solution="set stream_url if there is none, and see that it can be reached",
                action="check_network",
            )
        ]
    # The exchange documents no permission to withdraw; by their names, these could be it.
    more = sorted(p for p in granted if p.startswith("account:") and p != ACCOUNT_READ)
    more += sorted(p for p in granted if "withdraw" in p and p not in more)
    if not more:
        return []
    return [
        Finding(
            severity=Severity.WARNING,
            issue=f"the key may do more than guarding needs: {', '.join(more)}; whoever gets hold"
            " of it may be able to withdraw",
            solution=f"make a key with no more than {', '.join(candidate.needs.permissions)}",
            action="update_api_key",
        )
    ]
