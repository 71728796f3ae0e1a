"""What is wrong with an account, and what to do: from what the exchange proves, never its words."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from marginguard.diagnose.finding import Finding
from marginguard.domain.errors import (
    ErrorCode,
    Malformed,
    MarginguardError,
    RateLimited,
    Rejected,
    StaleData,
    Unauthorized,
    Unreachable,
)
from marginguard.domain.units import AccountId, Sats

_FORBIDDEN = "FORBIDDEN"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause(Finding):
    """Why something does not work, and what cures it.

    `proved` is False for a cause that would explain what was seen, while something else may. A
    cause that is only a `warning` keeps nothing from working now.
    """

    proved: bool = True
    warning: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class AccountFacts:
    """What asking the exchange about an account brought.

    `where` is its network or address. `needed` are the permissions that its guards need of the
    key, `missing` those of them that it lacks, `granted` what it may do (None: not told).
    `failure` is what ended the asking early. `clock_offset_s` is how far the exchange's clock is
    ahead of ours, None if it could not be measured. `spends` says that a guard may spend sats.
    `remarks` were found on the way.
    """

    account_id: AccountId
    where: str
    checked_at: datetime
    valid: bool
    code: ErrorCode | None = None
    balance: Sats | None = None
    needed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    granted: frozenset[str] | None = None
    clock_offset_s: float | None = None
    spends: bool = False
    failure: MarginguardError | None = None
    remarks: tuple[Cause, ...] = ()

    @property
    def status(self) -> str:
        """`active`, `error` (the exchange speaks against it), or `unknown` (nobody could say)."""
        if self.valid:
            return "active"
        return "error" if self.missing or self.code in _AGAINST_IT else "unknown"


_AGAINST_IT = frozenset({ErrorCode.INVALID_CREDENTIALS, ErrorCode.INVALID_ACCOUNT_STATUS})


def causes_of(facts: AccountFacts) -> tuple[Cause, ...]:
    """Return everything that is wrong with an account, what is proved first."""
    found = [*_of_account(facts), *facts.remarks]
    return tuple(sorted(found, key=lambda cause: (cause.warning, not cause.proved)))


def causes_of_error(
    error: MarginguardError,
    *,
    account_id: AccountId,
    where: str,
    clock_offset_s: float | None = None,
) -> tuple[Cause, ...]:
    """Return why a read of the exchange may have failed, what is proved first."""
    said = str(error)
    if isinstance(error, Unauthorized):
        if error.code == _FORBIDDEN:
            return (_missing_permission(said),)
        return tuple(_refused_key(said, account_id, where, clock_offset_s))
    if isinstance(error, Rejected):
        return tuple(_refused(error, where))
    return tuple(_no_use(error, where))


def _of_account(facts: AccountFacts) -> Iterator[Cause]:
    if facts.missing:
        yield _missing_permission(f"the key lacks the permission {', '.join(facts.missing)}")
    if facts.failure is not None:
        yield from causes_of_error(
            facts.failure,
            account_id=facts.account_id,
            where=facts.where,
            clock_offset_s=facts.clock_offset_s,
        )
    if facts.balance == 0:
        yield Cause(
            issue="the account has no sats to spend"
            + (", and a guard over it may have to add margin" if facts.spends else ""),
            solution="deposit funds to the account"
            + ("" if facts.spends else " if a guard is to add margin; closing needs none"),
            action="deposit_funds",
            warning=not facts.spends,
        )


def _missing_permission(said: str) -> Cause:
    return Cause(
        issue=said,
        solution="make a key with the missing permissions on the exchange and put its key, secret"
        " and passphrase into the configuration",
        action="update_permissions",
    )


def _refused_key(
    said: str, account_id: AccountId, where: str, clock_offset_s: float | None
) -> Iterator[Cause]:
    yield Cause(
        issue=f"the exchange does not accept the credentials ({said})",
        solution=f'compare key, secret and passphrase of account "{account_id}" with those on the'
        " exchange; if in doubt make a new key there and put its three parts into the"
        " configuration",
        action="update_api_key",
    )
    yield Cause(
        issue="the key may have expired, or have been deleted on the exchange",
        solution="see whether the exchange still lists it; if not, make a new one",
        action="update_api_key",
        proved=False,
    )
    yield Cause(
        issue=f"the key may belong to another network than {where}",
        solution="set network to the one on which the key was made",
        action="set_network",
        proved=False,
    )
    if clock_offset_s is None:
        yield Cause(
            issue="the time of the signature may be wrong: the exchange's clock could not be"
            " measured",
            solution="set the machine's clock, for example with: timedatectl set-ntp true",
            action="sync_clock",
            proved=False,
        )


def _refused(error: Rejected, where: str) -> Iterator[Cause]:
    """Yield what a refusal with another code than the key's may mean."""
    if error.code is None or error.status == HTTPStatus.NOT_FOUND:
        yield Cause(
            issue=f"what answers at {where} does not answer as the exchange does ({error})",
            solution="set network, or correct rest_url; then see that no proxy answers in the"
            " exchange's place",
            action="fix_rest_url",
        )
        return
    yield Cause(
        issue=f"the exchange refuses to read the account ({error})",
        solution="sign in on the exchange and see what it says of the account",
        action="contact_support",
    )
    for issue, solution, action in (
        (
            "the account may be suspended or disabled",
            "contact the exchange's support to have it reactivated",
            "contact_support",
        ),
        (
            "the exchange may want the owner's identity verified",
            "complete the verification on the exchange",
            "complete_kyc",
        ),
    ):
        yield Cause(issue=issue, solution=solution, action=action, proved=False)


def _no_use(error: MarginguardError, where: str) -> Iterator[Cause]:
    """Yield why there is no answer, or none of use."""
    said = str(error)
    match error:
        case RateLimited():
            yield Cause(
                issue=f"the exchange gets too many calls of this key or this address ({said})",
                solution="wait a minute; give every other program that uses the key one of its own,"
                " or ask the exchange for a higher limit",
                action="wait_or_upgrade",
            )
        case Unreachable() | StaleData():
            yield Cause(
                issue=f"{where} cannot be reached, or not in time: {said}",
                solution="see that this machine can reach it (network, DNS, firewall), and that"
                " the address is right",
                action="check_network",
            )
            yield Cause(
                issue="the exchange may be down",
                solution="see the exchange's own announcements; guards go on as soon as it answers",
                action="wait_and_retry",
                proved=False,
            )
        case Malformed():
            yield Cause(
                issue=f"what {where} answers cannot be used: {said}",
                solution="see that the address is the exchange's; if it is, update marginguard, or"
                " report this with: marginguard incident -o FILE",
                action="update_marginguard",
            )
        case _:
            yield Cause(
                issue=f"{where} answers with an error of its own: {said}",
                solution="wait until the exchange works again, and see its own announcements;"
                " guards go on as soon as it answers",
                action="wait_and_retry",
            )
