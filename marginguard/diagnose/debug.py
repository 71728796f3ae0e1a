"""The six steps of a diagnosis on live data: what each found, how long it took, and the cure."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from marginguard.diagnose.account import AccountFacts, Cause, causes_of, causes_of_error
from marginguard.diagnose.debug_decision import Question, Why, whys_of
from marginguard.diagnose.debug_record import GuardRecord
from marginguard.domain import margin
from marginguard.domain.decision import Decision, Verdict
from marginguard.domain.errors import MarginguardError, StaleData
from marginguard.domain.model import Position, PriceQuote
from marginguard.domain.rules import Rules
from marginguard.domain.units import AccountId, GuardId, PositionId

_AGREES_WITHIN: Final = 0.005
"""The share by which our liquidation price may differ from the exchange's."""


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

    `faults` refuse it, each with its cure in `fault_causes` at the same place. `rules` None:
    refused. `summary` says in words what it would do. `dry_run` and `enabled` are its own.
    """

    guard_id: GuardId
    account_id: AccountId | None
    where: str
    summary: str = ""
    rules: Rules | None = None
    enabled: bool = True
    dry_run: bool = False
    causes: tuple[Cause, ...] = ()


class Live(Protocol):
    """The exchange, asked without changing anything there."""

    async def facts(self) -> AccountFacts:
        """Return what is known of the account; never raises for what the exchange does."""
        ...

    async def positions(self) -> tuple[Position, ...]:
        """Return every running position; raises what reads raise."""
        ...

    async def quote(self) -> PriceQuote:
        """Return the last price; raises what reads raise."""
        ...

    def remarks(self) -> tuple[Cause, ...]:
        """Return what else was noticed so far."""
        ...

    def question(self, rules: Rules, positions: tuple[Position, ...], quote: PriceQuote,
                 facts: AccountFacts | None, record: GuardRecord | None) -> Question:
        """Return what a guard would decide on."""
        ...
