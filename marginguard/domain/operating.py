"""What an operator sees of a running daemon, and may ask of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from marginguard.domain.margin import show_level
from marginguard.domain.model import RiskLevel
from marginguard.domain.pause import LONGEST_PAUSE, Pause
from marginguard.domain.records import ArmedState
from marginguard.domain.units import AccountId, GuardId, Percent, PositionId, Price

__all__ = ["LONGEST_PAUSE", "GuardNow", "Overview", "Pause", "PositionNow", "protected_words"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardNow:
    """A guard as it is at this moment; `looked_at` None where it has not looked yet.

    One that is armed and does not act only tells, for so its configuration says.
    """

    guard_id: GuardId
    account_id: AccountId
    armed: ArmedState
    reason: str
    since: datetime
    looked_at: datetime | None
    pause: Pause | None
    acts: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionNow:
    """A position as it was last seen; `guard_id` None where no armed guard covers it.

    One that is `unmet` is past where its guard acts, and the guard did not manage to.
    """

    position_id: PositionId
    account_id: AccountId
    guard_id: GuardId | None
    level: Percent
    risk: RiskLevel
    price: Price
    liquidation_price: Price | None
    seen_at: datetime
    unmet: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """The running daemon at one moment; `protected` says in one sentence whether it guards."""

    at: datetime
    protected: str
    guards: tuple[GuardNow, ...]
    positions: tuple[PositionNow, ...]


def protected_words(
    guards: Sequence[GuardNow],
    positions: Sequence[PositionNow],
    *,
    now: datetime,
    patience: timedelta,
) -> str:
    """Return one sentence that says whether all that runs is guarded, and if not why.

    A look older than `patience` says nothing. A disarmed guard that nothing lacks is no fault:
    it has looked, and others cover all that runs on its account.
    """
    faults = [
        f"guard {guard.guard_id} is {guard.armed.value}: {guard.reason}"
        for guard in guards
        if guard.armed is not ArmedState.ARMED
        and not _is_idle(guard, positions, now=now, patience=patience)
    ]
    faults += [
        f"guard {guard.guard_id} looked last at {guard.looked_at:%Y-%m-%d %H:%M:%S} UTC"
        for guard in guards
        if guard.armed is ArmedState.ARMED
        and guard.looked_at is not None
        and now - guard.looked_at > patience
    ]
    covering = {one.guard_id for one in positions}
    faults += [
        f"guard {guard.guard_id} only tells and never acts (auto_execution = false)"
        for guard in guards
        if not guard.acts and guard.guard_id in covering
    ]
    faults += [
        f"position {one.position_id} is UNPROTECTED at level {show_level(one.level)} %:"
        f" guard {one.guard_id} did not manage to act on it"
        for one in positions
        if one.unmet
    ]
    faults += [
        f"position {one.position_id} of account {one.account_id} has no armed guard"
        for one in positions
        if one.guard_id is None
    ]
    if not guards:
        faults.append("there is no guard")
    if faults:
        return f"NOT PROTECTED: {'; '.join(faults)}"
    if not positions:
        return "Nothing to protect: no position runs"
    if len(positions) == 1:
        return "PROTECTED: 1 position, with an armed guard"
    return f"PROTECTED: {len(positions)} positions, each with an armed guard"


def _is_idle(
    guard: GuardNow, positions: Sequence[PositionNow], *, now: datetime, patience: timedelta
) -> bool:
    if guard.armed is not ArmedState.DISARMED or guard.pause is not None:
        return False
    if guard.looked_at is None or now - guard.looked_at > patience:
        return False
    there = {one.guard_id for one in positions if one.account_id == guard.account_id}
    return not there & {None, guard.guard_id}
