"""What the validation of accounts tells their owners: keys refused, a clock that is off."""

from collections.abc import Callable
from uuid import UUID

from marginguard.domain.notice import Notice, NoticeKind, Severity
from marginguard.domain.units import AccountId
from marginguard.lnmarkets.server_clock import CRITICAL_OFFSET_S, WARN_OFFSET_S
from marginguard.lnmarkets.validation import AccountValidation, Verdict
from marginguard.ports import Clock, Notifier


class AccountNotices:
    """Tells once when an account cannot be guarded or the clock is off, and when that is over.

    The clock is the machine's: it is spoken of once for all accounts, to every user.
    """

    def __init__(self, *, notifier: Notifier, clock: Clock, new_id: Callable[[], UUID]) -> None:
        self._notifier = notifier
        self._clock = clock
        self._new_id = new_id
        self._refused: set[AccountId] = set()
        self._offsets_s: dict[AccountId, float] = {}
        self._clock_told: Severity | None = None

    def heard(self, result: AccountValidation) -> None:
        """Take in the validation of one account; one that could not be asked says nothing."""
        account_id = result.account_id
        if result.verdict is Verdict.INVALID and account_id not in self._refused:
            self._refused.add(account_id)
            self._tell_refused(result)
        elif result.verdict is Verdict.VALID and account_id in self._refused:
            self._refused.discard(account_id)
            self._tell(
                NoticeKind.RECOVERED,
                Severity.INFO,
                f"The key of account {account_id} works again: its guards arm themselves. Nothing"
                " is to be done.",
                account_id=account_id,
            )
        if result.clock_offset_s is not None:
            self._offsets_s[account_id] = result.clock_offset_s
            self._look_at_clock()

    def _tell_refused(self, result: AccountValidation) -> None:
        self._tell(
            NoticeKind.CREDENTIALS_REFUSED,
            Severity.CRITICAL,
            f"Account {result.account_id} CANNOT BE GUARDED: {result.reason}. Watch its positions"
            f" on the exchange yourself, and {result.advice or 'see marginguard check --online'}.",
            account_id=result.account_id,
            status=result.verdict.value,
            code=result.code,
            error=result.reason,
        )

    def _look_at_clock(self) -> None:
        """Tell when the clock goes off, when it gets so bad that requests fail, and when over."""
        offset_s = max(self._offsets_s.values(), key=abs)
        severity = None
        if abs(offset_s) >= WARN_OFFSET_S:
            critical = abs(offset_s) >= CRITICAL_OFFSET_S
            severity = Severity.CRITICAL if critical else Severity.WARNING
        told, self._clock_told = self._clock_told, severity
        if severity is None:
            if told is not None:
                text = "This machine's clock agrees with the exchange's again."
                self._tell(NoticeKind.RECOVERED, Severity.INFO, f"{text} Nothing is to be done.")
        elif told is None or (told is Severity.WARNING and severity is Severity.CRITICAL):
            self._tell(
                NoticeKind.CLOCK_OFF,
                severity,
                f"The exchange's clock is {offset_s:+.1f} s off this machine's, and it refuses"
                " requests that are 30 s off. Set the machine's clock, for example with:"
                " timedatectl set-ntp true",
                offset_s=round(offset_s, 3),
            )

    def _tell(
        self,
        kind: NoticeKind,
        severity: Severity,
        text: str,
        *,
        account_id: AccountId | None = None,
        **data: str | float | None,
    ) -> None:
        self._notifier.tell(
            Notice(
                id=self._new_id(),
                kind=kind,
                severity=severity,
                text=text,
                at=self._clock.now(),
                account_id=account_id,
                data=data,
            )
        )
