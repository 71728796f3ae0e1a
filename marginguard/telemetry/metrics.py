"""The daemon's counters and timings, for Prometheus.

Everything is in a registry of its own, so that nothing here is global, and nothing here ever
raises into the work that it measures. Labels take few values each: no account, guard or position
is one, since with a thousand accounts Prometheus would drown.
"""

import functools
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from typing import Concatenate, Final, ParamSpec
from uuid import UUID

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import marginguard
from marginguard.domain.errors import ErrorCode, ErrorType
from marginguard.domain.model import RiskLevel
from marginguard.domain.records import ActionRecord, ActionStatus, ArmedState, ExecutionRecord
from marginguard.domain.units import AccountId, GuardId
from marginguard.telemetry.process import ProcessCollector

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_AT_RISK: Final = tuple(risk for risk in RiskLevel if risk is not RiskLevel.SAFE)

_P = ParamSpec("_P")


def _harmless(
    method: "Callable[Concatenate[Metrics, _P], None]",
) -> "Callable[Concatenate[Metrics, _P], None]":
    """Keep what goes wrong in a measurement away from the work that is measured."""

    @functools.wraps(method)
    def measure(metrics: "Metrics", /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            method(metrics, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - logged; a figure is worth less than the work
            metrics.note_fault(method.__name__, error)

    return measure


class Metrics:
    """Takes measurements; `registry` is what is served. No method but the class itself raises.

    Durations are in seconds.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._faults_told: set[str] = set()
        self._statuses: dict[UUID, ActionStatus] = {}
        self._guard_states: dict[GuardId, ArmedState] = {}
        self._positions: dict[AccountId, tuple[Tally[RiskLevel], int]] = {}
        self._risks: Tally[RiskLevel] = Tally()
        self._define_executions()
        self._define_state()
        self._define_surroundings()
        ProcessCollector(self.registry)

    def _define_executions(self) -> None:
        self._executions = self._counter(
            "executions", "Runs of guards that had something to do or failed", "status", "plan"
        )
        self._quiet_runs = self._counter(
            "quiet_runs", "Runs of guards that looked and found nothing to do", "plan"
        )
        self._stalled = self._counter("executions_stalled", "Runs that outlived their time-out")
        self._stuck = self._counter("executions_stuck", "Runs that did not come back in time")
        self._duration = self._histogram(
            "execution_duration_seconds", "Duration of runs of guards, quiet ones included"
        )
        self._phases = self._histogram(
            "phase_duration_seconds", "Duration of the phases of runs of guards", "phase"
        )
        self._lateness = self._histogram(
            "cycle_lateness_seconds", "How much later than due runs of guards began"
        )
        self._actions = self._counter(
            "actions", "Actions that have come to a status", "kind", "status", "dry_run"
        )
        self._errors = self._counter("errors", "Errors", "type")

    def _define_state(self) -> None:
        self._guards = self._gauge("guards", "Guards of the configuration", "state")
        self._watched = self._gauge("positions_watched", "Running positions that are watched")
        self._uncovered = self._gauge(
            "positions_uncovered", "Running positions that no armed guard covers"
        )
        self._at_risk = self._gauge("positions_at_risk", "Running positions at risk", "risk")
        self._queue = self._gauge("queue_length", "Guards that are due and wait for a slot")
        # Shown from the start: what is absent cannot be alerted on.
        for state in ArmedState:
            self._guards.labels(state.value)
        for risk in _AT_RISK:
            self._at_risk.labels(risk.value)
        for error_type in ErrorType:
            self._errors.labels(error_type.value)

    def _define_surroundings(self) -> None:
        self._api = self._histogram(
            "api_request_duration_seconds", "Calls to the exchange", "call", "result"
        )
        self._database = self._histogram(
            "database_duration_seconds", "Work on the database", "work", "result"
        )
        self._notifications = self._counter(
            "notifications", "Notices, by what became of them", "channel", "result"
        )
        self._lag = self._histogram(
            "event_loop_lag_seconds", "How much later than asked the event loop came back"
        )
        self._faults = self._counter("metrics_faults", "Measurements that failed")
        build = self._gauge("build_info", "The version that runs", "version")
        build.labels(marginguard.__version__).set(1)

    @_harmless
    def execution(self, record: ExecutionRecord, *, plan: str) -> None:
        """Count a run that had something to do or failed, with its phases and its error."""
        self._executions.labels(record.status.value, plan).inc()
        self._time(record.duration_s, record.phases)
        if record.error_type is not None:
            self._errors.labels(record.error_type.value).inc()
        if record.error_code is ErrorCode.STALLED:
            self._stalled.inc()

    @_harmless
    def quiet_run(self, *, plan: str) -> None:
        """Count a run that found nothing to do."""
        self._quiet_runs.labels(plan).inc()

    @_harmless
    def quiet_times(self, duration_s: float, phases: Mapping[str, float]) -> None:
        """Note how long a run took that found nothing to do, and each of its phases."""
        self._time(duration_s, phases)

    @_harmless
    def stuck(self) -> None:
        """Count a run that is still under way long after its time-out."""
        self._stuck.inc()

    @_harmless
    def began(self, *, lateness_s: float) -> None:
        """Note by how much a run began later than it was due."""
        self._lateness.observe(max(0.0, lateness_s))

    @_harmless
    def action(self, record: ActionRecord) -> None:
        """Count an action each time that it comes to another status."""
        if self._statuses.get(record.id) is record.status:
            return
        if record.status.settled:
            self._statuses.pop(record.id, None)
        else:
            self._statuses[record.id] = record.status
        dry_run = "true" if record.dry_run else "false"
        self._actions.labels(record.kind.value, record.status.value, dry_run).inc()

    @_harmless
    def error(self, error_type: ErrorType) -> None:
        """Count an error that no run records, such as a notice that was not delivered."""
        self._errors.labels(error_type.value).inc()

    @_harmless
    def guard(self, guard_id: GuardId, state: ArmedState | None) -> None:
        """Set whether a guard guards; None: it is no longer configured."""
        before = self._guard_states.pop(guard_id, None)
        if before is not None:
            self._guards.labels(before.value).dec()
        if state is not None:
            self._guard_states[guard_id] = state
            self._guards.labels(state.value).inc()

    @_harmless
    def positions(self, account_id: AccountId, risks: Iterable[RiskLevel], uncovered: int) -> None:
        """Set what runs on an account: the risk of each position, and how many none covers.

        Without positions for an account that is no longer configured.
        """
        now = Tally(risks)
        before, uncovered_before = self._positions.pop(account_id, (Tally(), 0))
        if now:
            self._positions[account_id] = now, uncovered
        self._risks.subtract(before)
        self._risks.update(now)
        self._watched.set(self._risks.total())
        self._uncovered.inc(uncovered - uncovered_before)
        for risk in _AT_RISK:
            self._at_risk.labels(risk.value).set(self._risks[risk])

    @_harmless
    def queue_length(self, waiting: int) -> None:
        """Set how many guards are due and wait for a slot."""
        self._queue.set(waiting)

    @_harmless
    def api_call(self, call: str, result: str, duration_s: float) -> None:
        """Note a call to the exchange: `call` without ids ("GET /account"), `result` a word."""
        self._api.labels(call, result).observe(duration_s)

    @_harmless
    def database(self, work: str, result: str, duration_s: float) -> None:
        """Note work on the database: `work` says on what ("drain"), `result` is a word."""
        self._database.labels(work, result).observe(duration_s)

    @_harmless
    def notification(self, channel: str, result: str) -> None:
        """Count what became of a notice on a channel: `result` is a word such as "delivered"."""
        self._notifications.labels(channel, result).inc()

    @_harmless
    def loop_lag(self, lag_s: float) -> None:
        """Note by how much the event loop came back later than asked."""
        self._lag.observe(lag_s)

    def note_fault(self, measurement: str, error: Exception) -> None:
        """Count a measurement that failed, and log the first of its kind."""
        self._faults.inc()
        if measurement not in self._faults_told:
            self._faults_told.add(measurement)
            structlog.get_logger().warning(
                "metrics.fault",
                measurement=measurement,
                exc_info=error,
                advice="this figure in /metrics is wrong or missing; the guarding is not affected",
            )

    def _time(self, duration_s: float, phases: Mapping[str, float]) -> None:
        self._duration.observe(duration_s)
        for phase, spent_s in phases.items():
            self._phases.labels(phase).observe(spent_s)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"marginguard_{name}", f"{text}.", labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"marginguard_{name}", f"{text}.", labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(
            f"marginguard_{name}", f"{text}.", labels, buckets=_SECONDS, registry=self.registry
        )
