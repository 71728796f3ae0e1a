"""Where the time of the executions goes, and what to change."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from marginguard.diagnose.figures import Timing, timing
from marginguard.diagnose.finding import Finding
from marginguard.domain.errors import ErrorCode
from marginguard.domain.history import Run
from marginguard.domain.records import ExecutionStatus

SLOW_AVERAGE_S: Final = 30.0
VERY_SLOW_S: Final = 60.0
SLOW_SHARE: Final = 0.5
VERY_SLOW_SHARE: Final = 0.9
PHASE_SHARE: Final = 0.25
"""Shares of the time-out, which no run outlives: with one of 30 s a limit of 60 s says nothing."""

PHASES: Final[Mapping[str, tuple[str, str, str]]] = {
    "positions": (
        "reading positions and balance",
        (
            "the exchange answers slowly or the way there is slow: measure it (curl -w"
            " '%{time_total}' on its address), and run the daemon on a machine nearer to it"
        ),
        "check_network",
    ),
    "settling": (
        "settling earlier actions",
        (
            "actions are left with an unknown outcome: see them with marginguard executions, and"
            " why with marginguard explain"
        ),
        "explain_executions",
    ),
    "price": (
        "waiting for a price",
        (
            "the price feed was silent and the price had to be read: give the account a stream_url,"
            " and look for price warnings in the log"
        ),
        "check_price_feed",
    ),
    "decision": (
        "deciding",
        (
            "that is arithmetic: the machine has too little processor time for it; see what else"
            " runs there, and the daemon's CPUQuota"
        ),
        "free_processor",
    ),
    "actions": (
        "acting and proving",
        (
            "see the attempts of each action with marginguard explain; [actions] retry_attempts,"
            " settle_delay and verify_within bound what one may take"
        ),
        "tune_actions",
    ),
}
"""What each phase does, and what to change where it takes too long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Where the time of some runs went.

    `completed` is the duration of those that completed, `every` that of all, `phases` that of
    each phase in whichever run came to it.
    """

    runs: int
    timeout_s: float
    completed: Timing | None
    every: Timing | None
    phases: Mapping[str, Timing]
    bottlenecks: Sequence[Finding]


def profile(runs: Sequence[Run], *, timeout_s: float) -> Profile:
    """Return where the time of `runs` went; `timeout_s` is the longest that one may take."""
    completed = timing(run.duration_s for run in runs if run.status is ExecutionStatus.COMPLETED)
    every = timing(run.duration_s for run in runs)
    seconds: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for phase, spent_s in run.phases.items():
            seconds[phase].append(spent_s)
    # In the order in which they happen; those of another version after them.
    order = [*(name for name in PHASES if name in seconds), *sorted(seconds.keys() - PHASES.keys())]
    phases = {name: taken for name in order if (taken := timing(seconds[name])) is not None}
    stalled = sum(run.error_code == ErrorCode.STALLED for run in runs)
    return Profile(
        runs=len(runs),
        timeout_s=timeout_s,
        completed=completed,
        every=every,
        phases=phases,
        bottlenecks=(
            *_slow_runs(completed, every, stalled, timeout_s),
            *_slow_phases(phases, timeout_s),
        ),
    )


def _slow_runs(
    completed: Timing | None, every: Timing | None, stalled: int, timeout_s: float
) -> Iterator[Finding]:
    limit_s = min(SLOW_AVERAGE_S, SLOW_SHARE * timeout_s)
    typical = completed or every
    if typical is not None and typical.average_s > limit_s:
        yield Finding(
            issue=f"the average execution takes {typical.average_s:.1f} s, over {limit_s:g} s",
            solution="look at the phase that takes the most of it, named here",
            action="find_slow_phase",
        )
    limit_s = min(VERY_SLOW_S, VERY_SLOW_SHARE * timeout_s)
    if every is not None and every.slowest_s > limit_s:
        yield Finding(
            issue=f"the slowest execution took {every.slowest_s:.1f} s, over {limit_s:g} s"
            f" ({stalled} ran into the time-out of {timeout_s:g} s)",
            solution="look at the network and the exchange at that time; raise [daemon] timeout"
            " if actions need longer",
            action="raise_timeout",
        )


def _slow_phases(phases: Mapping[str, Timing], timeout_s: float) -> Iterator[Finding]:
    limit_s = PHASE_SHARE * timeout_s
    for name, taken in phases.items():
        if taken.average_s > limit_s and name in PHASES:
            what, solution, action = PHASES[name]
            yield Finding(
                issue=f"{what} takes {taken.average_s:.1f} s on average, over a quarter of the"
                f" time-out of {timeout_s:g} s",
                solution=solution,
                action=action,
            )
