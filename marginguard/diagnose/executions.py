"""How the executions of some time went."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from marginguard.diagnose.figures import (
    CommonError,
    Slice,
    Timing,
    common_errors,
    pattern,
    success_rate,
    timing,
)
from marginguard.diagnose.finding import Finding
from marginguard.domain.errors import ErrorCode, ErrorType
from marginguard.domain.history import Run
from marginguard.domain.records import ExecutionStatus

SLOW_AVERAGE_S: Final = 30.0
NEAR_TIMEOUT: Final = 0.5
"""The share of the time-out from which an average is slow: half of them may be slower."""

_SUCCEEDED: Final = {
    ExecutionStatus.COMPLETED: True,
    ExecutionStatus.PARTIAL: False,
    ExecutionStatus.FAILED: False,
    ExecutionStatus.SKIPPED: None,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionAnalysis:
    """The executions from `since` to `until`.

    What was skipped (a dry run, or nothing that could be done) is neither a success nor a
    failure: `success_rate` (0 to 1) leaves it out, and what was done in part counts against it.
    `duration` is that of the completed ones.
    """

    since: datetime
    until: datetime
    total: int
    completed: int
    partial: int
    failed: int
    skipped: int
    success_rate: float | None
    duration: Timing | None
    common_errors: Sequence[CommonError]
    pattern: Sequence[Slice]
    recommendations: Sequence[Finding]


def analyze(
    runs: Sequence[Run], *, since: datetime, until: datetime, timeout_s: float, slices: int = 24
) -> ExecutionAnalysis:
    """Return what the runs of a time show; `timeout_s` is the longest that one may take."""
    counts = Counter(run.status for run in runs)
    completed = counts[ExecutionStatus.COMPLETED]
    unmet = [run for run in runs if _SUCCEEDED[run.status] is False]
    duration = timing(run.duration_s for run in runs if run.status is ExecutionStatus.COMPLETED)
    return ExecutionAnalysis(
        since=since,
        until=until,
        total=len(runs),
        completed=completed,
        partial=counts[ExecutionStatus.PARTIAL],
        failed=counts[ExecutionStatus.FAILED],
        skipped=counts[ExecutionStatus.SKIPPED],
        success_rate=success_rate(completed, len(unmet)),
        duration=duration,
        common_errors=common_errors(run.error for run in unmet),
        pattern=pattern(
            ((run.started_at, _SUCCEEDED[run.status]) for run in runs),
            since=since,
            until=until,
            slices=slices,
        ),
        recommendations=tuple(_recommendations(completed, unmet, duration, timeout_s)),
    )


def _recommendations(
    completed: int, unmet: Sequence[Run], duration: Timing | None, timeout_s: float
) -> Iterator[Finding]:
    if len(unmet) > completed:
        yield _mostly_failing(completed, unmet)
    slow_s = min(SLOW_AVERAGE_S, NEAR_TIMEOUT * timeout_s)
    if duration is not None and duration.average_s > slow_s:
        yield Finding(
            issue=f"an execution takes {duration.average_s:.1f} s on average, of the"
            f" {timeout_s:g} s that it may take",
            solution="see which phase takes the time: marginguard profile",
            action="profile_executions",
        )
    stalled = sum(run.error_code == ErrorCode.STALLED for run in unmet)
    if stalled:
        yield Finding(
            issue=f"{stalled} of the executions ran into their time-out ({timeout_s:g} s)",
            solution="see which phase takes the time: marginguard profile; then look at the"
            " network and the exchange, or raise [daemon] timeout",
            action="raise_timeout",
        )


def _mostly_failing(completed: int, unmet: Sequence[Run]) -> Finding:
    kinds = Counter(run.error_type for run in unmet if run.error_type is not None)
    commonest = max(sorted(kinds), key=lambda kind: kinds[kind], default=None)
    solution, action = _CURES.get(commonest, _ANY_CURE)
    because = f", mostly with {commonest.value}" if commonest is not None else ""
    return Finding(
        issue=f"{len(unmet)} executions did not do all they had to{because}, and {completed} did",
        solution=solution,
        action=action,
    )


_ANY_CURE: Final = (
    (
        "check configuration and credentials: marginguard check; then marginguard explain with the"
        " id of one of them"
    ),
    "check_configuration",
)
_CURES: Final[dict[ErrorType | None, tuple[str, str]]] = {
    ErrorType.CONFIGURATION: ("run marginguard check and change what it names", "fix_config"),
    ErrorType.ACCOUNT: (
        "check the API key on the exchange: that it exists, has not expired, and may trade futures",
        "update_api_key",
    ),
    ErrorType.API: (
        "check whether the exchange has an incident, and the API key",
        "verify_api_credentials",
    ),
    ErrorType.NETWORK: (
        "check this machine's network and name resolution, and its way to the exchange",
        "check_network",
    ),
}
