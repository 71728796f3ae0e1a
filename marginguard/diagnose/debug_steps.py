"""What a diagnosis is made of."""

from dataclasses import dataclass
from enum import StrEnum

from marginguard.diagnose.account import Cause
from marginguard.diagnose.debug_decision import Why
from marginguard.diagnose.debug_record import GuardRecord
from marginguard.domain.rules import Rules
from marginguard.domain.units import AccountId


class StepName(StrEnum):
    """The steps, in order."""

    CONFIGURATION = "configuration_validation"
    ACCOUNT = "account_status"
    POSITIONS = "position_data"
    MARKET = "market_data"
    MARGINS = "margin_calculations"
    THRESHOLDS = "threshold_checks"


class StepStatus(StrEnum):
    """How a step ended; `skipped`: what it needs was not there."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step. A failed one has an `error` and its `solution`; `seconds` is what it took."""

    step: StepName
    status: StepStatus
    message: str | None = None
    error: str | None = None
    solution: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Conclusion:
    """What it all comes to: `summary` in one sentence, and every cause with its cure.

    `positions` says of each covered position why the guard does or does not act on it; `record`
    what the daemon has written down, None if that cannot be read. `well` is whether every step
    passed and nothing but warnings was found.
    """

    summary: str
    well: bool
    causes: tuple[Cause, ...] = ()
    positions: tuple[Why, ...] = ()
    record: GuardRecord | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """The steps of one guard's diagnosis, and what they come to."""

    guard: str
    steps: tuple[Step, ...]
    verdict: Conclusion


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What the configuration says of a guard.

    `causes` are what speaks against it; `rules` None: it is refused, or there is none. `summary`
    says what it is. `where` is the network or address of its account.
    """

    guard_id: str
    account_id: AccountId | None = None
    where: str = ""
    summary: str = ""
    rules: Rules | None = None
    dry_run: bool = False
    causes: tuple[Cause, ...] = ()
