"""What /metrics counts, and that counting never gets in the way of the work."""

import asyncio

import pytest
import structlog
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from uuid_utils.compat import uuid7

import marginguard
from marginguard.domain.errors import DiskFull, ErrorCode, ErrorType
from marginguard.domain.model import ActionKind, RiskLevel
from marginguard.domain.records import ActionStatus, ArmedState, ExecutionStatus
from marginguard.telemetry.measured import MeasuredJournal, MeasuredObservations
from marginguard.telemetry.metrics import Metrics
from tests.records import NOON, a_guard_state, a_sighting, an_action, an_execution
from tests.unit.strategies import a_position


@pytest.fixture
def metrics():
    return Metrics()


def value(metrics, name, **labels):
    """Return a figure as Prometheus reads it; None where there is none."""
    text = generate_latest(metrics.registry).decode()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    found = [s.value for s in samples if s.name == name and s.labels == labels]
    assert len(found) <= 1
    return found[0] if found else None


def test_executions_are_counted_by_status_and_plan(metrics):
    for status in (ExecutionStatus.COMPLETED, ExecutionStatus.COMPLETED, ExecutionStatus.FAILED):
        metrics.execution(an_execution(status=status), plan="pro")
    metrics.execution(an_execution(status=ExecutionStatus.FAILED), plan="free")
    name = "marginguard_executions_total"
    assert value(metrics, name, status="completed", plan="pro") == 2
    assert value(metrics, name, status="failed", plan="pro") == 1
    assert value(metrics, name, status="failed", plan="free") == 1


def test_an_execution_brings_its_duration_its_phases_and_its_error(metrics):
    record = an_execution(
        duration_s=1.5,
        phases={"positions": 0.25, "actions": 1.0},
        error_code=ErrorCode.PRICE_UNKNOWN,
        error_type=ErrorType.NETWORK,
    )
    metrics.execution(record, plan="pro")
    assert value(metrics, "marginguard_execution_duration_seconds_sum") == 1.5
    for phase, duration_s in record.phases.items():
        name = "marginguard_phase_duration_seconds_sum"
        assert value(metrics, name, phase=phase) == duration_s
    assert value(metrics, "marginguard_errors_total", type="NETWORK_ERROR") == 1
    assert value(metrics, "marginguard_errors_total", type="API_ERROR") == 0


def test_a_run_that_outlived_its_time_out_is_counted_as_stalled(metrics):
    metrics.execution(an_execution(error_code=ErrorCode.PRICE_UNKNOWN), plan="pro")
    metrics.execution(an_execution(error_code=ErrorCode.STALLED), plan="pro")
    assert value(metrics, "marginguard_executions_stalled_total") == 1


def test_a_quiet_run_brings_its_duration_and_its_phases_too(metrics):
    metrics.quiet_times(0.5, {"price": 0.125})
    assert value(metrics, "marginguard_execution_duration_seconds_sum") == 0.5
    assert value(metrics, "marginguard_phase_duration_seconds_sum", phase="price") == 0.125


def test_a_quiet_run_counts_without_being_an_execution(metrics):
    metrics.quiet_run(plan="pro")
    assert value(metrics, "marginguard_quiet_runs_total", plan="pro") == 1
    assert value(metrics, "marginguard_executions_total", status="completed", plan="pro") is None


def test_an_action_is_counted_once_for_each_status_that_it_comes_to(metrics):
    action_id = uuid7()
    path = [ActionStatus.INTENDED, ActionStatus.SENT, ActionStatus.SENT, ActionStatus.UNKNOWN]
    for status in [*path, ActionStatus.DONE]:
        metrics.action(an_action(id=action_id, kind=ActionKind.CLOSE_POSITION, status=status))
    metrics.action(an_action(kind=ActionKind.ADD_MARGIN, status=ActionStatus.SENT, dry_run=True))
    for status in (*path, ActionStatus.DONE):
        labels = {"kind": "close_position", "status": status.value, "dry_run": "false"}
        assert value(metrics, "marginguard_actions_total", **labels) == 1
    labels = {"kind": "add_margin", "status": "sent", "dry_run": "true"}
    assert value(metrics, "marginguard_actions_total", **labels) == 1


def test_settled_actions_leave_nothing_in_memory(metrics):
    for _ in range(100):
        action = an_action()
        metrics.action(action)
        metrics.action(an_action(id=action.id, status=ActionStatus.REJECTED))
    assert metrics._statuses == {}


def test_positions_are_summed_over_the_accounts_and_follow_what_is_seen_last(metrics):
    metrics.positions("one", [RiskLevel.SAFE, RiskLevel.HIGH], 1)
    metrics.positions("two", [RiskLevel.HIGH, RiskLevel.CRITICAL], 2)
    assert value(metrics, "marginguard_positions_watched") == 4
    assert value(metrics, "marginguard_positions_uncovered") == 3
    assert value(metrics, "marginguard_positions_at_risk", risk="high") == 2
    metrics.positions("two", [RiskLevel.LOW], 0)
    assert value(metrics, "marginguard_positions_watched") == 3
    assert value(metrics, "marginguard_positions_uncovered") == 1
    assert value(metrics, "marginguard_positions_at_risk", risk="high") == 1
    assert value(metrics, "marginguard_positions_at_risk", risk="critical") == 0
    assert value(metrics, "marginguard_positions_at_risk", risk="low") == 1
    metrics.positions("one", [], 0)
    metrics.positions("two", [], 0)
    assert value(metrics, "marginguard_positions_watched") == 0
    assert value(metrics, "marginguard_positions_uncovered") == 0


def test_a_guard_counts_in_the_state_that_it_is_in_now(metrics):
    metrics.guard("g1", ArmedState.DEGRADED)
    metrics.guard("g2", ArmedState.DEGRADED)
    metrics.guard("g1", ArmedState.ARMED)
    metrics.guard("g1", ArmedState.ARMED)
    metrics.guard("g2", None)
    assert value(metrics, "marginguard_guards", state="armed") == 1
    assert value(metrics, "marginguard_guards", state="degraded") == 0
    assert value(metrics, "marginguard_guards", state="disarmed") == 0


def test_the_other_measurements_arrive_under_their_names(metrics):
    metrics.stuck()
    metrics.began(lateness_s=0.5)
    metrics.began(lateness_s=-0.1)
    metrics.error(ErrorType.NOTIFICATION)
    metrics.queue_length(7)
    metrics.api_call("GET /account", "200", 0.25)
    metrics.database("drain", "ok", 0.125)
    metrics.notification("webhook", "delivered")
    metrics.loop_lag(2.0)
    assert value(metrics, "marginguard_executions_stuck_total") == 1
    assert value(metrics, "marginguard_cycle_lateness_seconds_sum") == 0.5
    assert value(metrics, "marginguard_cycle_lateness_seconds_count") == 2
    assert value(metrics, "marginguard_errors_total", type="NOTIFICATION_ERROR") == 1
    assert value(metrics, "marginguard_queue_length") == 7
    api = {"call": "GET /account", "result": "200"}
    assert value(metrics, "marginguard_api_request_duration_seconds_sum", **api) == 0.25
    database = {"work": "drain", "result": "ok"}
    assert value(metrics, "marginguard_database_duration_seconds_sum", **database) == 0.125
    labels = {"channel": "webhook", "result": "delivered"}
    assert value(metrics, "marginguard_notifications_total", **labels) == 1
    assert value(metrics, "marginguard_event_loop_lag_seconds_sum") == 2.0
    assert value(metrics, "marginguard_build_info", version=marginguard.__version__) == 1


def test_memory_and_cpu_time_are_the_process_own(metrics):
    assert value(metrics, "process_resident_memory_bytes") > 1_000_000
    assert value(metrics, "process_cpu_seconds_total") > 0


def test_what_can_be_alerted_on_is_there_before_it_happens(metrics):
    for state in ArmedState:
        assert value(metrics, "marginguard_guards", state=state.value) == 0
    for error_type in ErrorType:
        assert value(metrics, "marginguard_errors_total", type=error_type.value) == 0
    for risk in ("low", "medium", "high", "critical"):
        assert value(metrics, "marginguard_positions_at_risk", risk=risk) == 0


def test_two_daemons_in_one_process_share_no_figure(metrics):
    other = Metrics()
    other.queue_length(3)
    assert value(metrics, "marginguard_queue_length") == 0
    assert not [family for family in REGISTRY.collect() if family.name.startswith("marginguard")]


def test_a_measurement_that_fails_is_logged_once_counted_and_never_raised(metrics):
    with structlog.testing.capture_logs() as logs:
        metrics.loop_lag("late")
        metrics.loop_lag("late")
        metrics.execution(None, plan="pro")
        metrics.positions("one", [[]], 0)
    assert [(event["event"], event["measurement"]) for event in logs] == [
        ("metrics.fault", "loop_lag"),
        ("metrics.fault", "execution"),
        ("metrics.fault", "positions"),
    ]
    assert value(metrics, "marginguard_metrics_faults_total") == 4


class FakeJournal:
    def __init__(self, error=None):
        self.appended = []
        self.error = error

    async def append(self, *records, patience_s=0.0):
        if self.error:
            raise self.error
        self.appended.append((records, patience_s))

    def unsettled_actions(self):
        return ["an action"]

    def guard_states(self):
        return {"guard-1": "a state"}


async def test_the_measured_journal_counts_every_record_and_passes_it_on(metrics):
    inner = FakeJournal()
    journal = MeasuredJournal(inner, metrics, plans={"guard-1": "pro"})
    state = a_guard_state(guard_id="guard-1", armed=ArmedState.ARMED)
    execution = an_execution(guard_id="guard-1", status=ExecutionStatus.PARTIAL)
    leftover = an_execution(guard_id="removed", status=ExecutionStatus.FAILED)
    action = an_action()
    await journal.append(action, execution, leftover, state, patience_s=0.05)
    assert inner.appended == [((action, execution, leftover, state), 0.05)]
    assert journal.unsettled_actions() == ["an action"]
    assert journal.guard_states() == {"guard-1": "a state"}
    name = "marginguard_executions_total"
    assert value(metrics, name, status="partial", plan="pro") == 1
    assert value(metrics, name, status="failed", plan="none") == 1
    assert value(metrics, "marginguard_guards", state="armed") == 1
    labels = {"kind": "add_margin", "status": "intended", "dry_run": "false"}
    assert value(metrics, "marginguard_actions_total", **labels) == 1


async def test_the_measured_journal_counts_what_a_full_disk_refuses_and_lets_the_error_through(
    metrics,
):
    journal = MeasuredJournal(FakeJournal(DiskFull("full")), metrics, plans={})
    with pytest.raises(DiskFull):
        await journal.append(an_action())
    labels = {"kind": "add_margin", "status": "intended", "dry_run": "false"}
    assert value(metrics, "marginguard_actions_total", **labels) == 1


async def test_the_measured_journal_lets_a_cancellation_through(metrics):
    journal = MeasuredJournal(FakeJournal(asyncio.CancelledError()), metrics, plans={})
    with pytest.raises(asyncio.CancelledError):
        await journal.append(an_action())


class FakeObservations:
    def __init__(self):
        self.noted = []

    def positions(self, *seen):
        self.noted.append(seen)

    def checked(self, *checked):
        self.noted.append(checked)


def test_the_measured_observations_count_positions_and_pass_everything_on(metrics):
    inner = FakeObservations()
    observations = MeasuredObservations(inner, metrics, plans={})
    seen = {
        "safe": a_sighting(a_position(), 100_000.0),
        "risky": a_sighting(a_position(), 92_000.0, guard_id=None),
    }
    observations.positions("main", seen, NOON)
    observations.checked("guard-1", "main", NOON)
    assert inner.noted == [("main", seen, NOON), ("guard-1", "main", NOON)]
    assert value(metrics, "marginguard_positions_watched") == 2
    assert value(metrics, "marginguard_positions_uncovered") == 1
    assert value(metrics, "marginguard_positions_at_risk", risk="medium") == 1
