"""What the steps of a diagnosis come to, in one sentence."""

from collections.abc import Sequence

from marginguard.diagnose.account import Cause
from marginguard.diagnose.debug_decision import Why
from marginguard.diagnose.debug_record import GuardRecord
from marginguard.diagnose.debug_steps import Conclusion, Setup, Step, StepStatus
from marginguard.domain.decision import Verdict
from marginguard.domain.margin import show_level
from marginguard.domain.records import ArmedState


def conclude(
    setup: Setup,
    steps: Sequence[Step],
    causes: tuple[Cause, ...],
    positions: tuple[Why, ...],
    record: GuardRecord | None,
) -> Conclusion:
    """Return what it all comes to."""
    return Conclusion(
        summary=_summary(setup, steps, positions, record),
        well=all(step.status is StepStatus.PASSED for step in steps)
        and all(cause.warning for cause in causes),
        causes=causes,
        positions=positions,
        record=record,
    )


def _summary(
    setup: Setup, steps: Sequence[Step], positions: tuple[Why, ...], record: GuardRecord | None
) -> str:
    *before, thresholds = steps
    failed = next((step for step in before if step.status is StepStatus.FAILED), None)
    if failed is not None:
        return f"it does not guard as it should: {failed.step.value} failed: {failed.error}"
    if thresholds.status is StepStatus.FAILED:
        return f"it does NOT act on a breach: {thresholds.error}"
    acting = [one for one in positions if one.verdict is Verdict.ACT]
    if acting:
        return _of_acting(setup, acting, record)
    if not positions:
        return "it has nothing to do: no position that it covers runs"
    worst = positions[0]
    if worst.verdict is not Verdict.SAFE:
        return f"it does not act now: position {worst.position_id}: {worst.reason}"
    return _of_calm(positions)


def _of_acting(setup: Setup, acting: Sequence[Why], record: GuardRecord | None) -> str:
    worst = acting[0]
    what = "" if worst.action is None else worst.action.value
    act = f"{what} on position {worst.position_id}: {worst.reason}"
    if len(acting) > 1:
        act += f" (and {len(acting) - 1} more)"
    if setup.dry_run:
        return f"it decides and sends nothing, being a dry run: {act}"
    if record is not None and record.armed is not ArmedState.ARMED:
        armed = "it has never run" if record.armed is None else record.armed.value
        return f"it should act and does not, for the daemon has it {armed}: {act}"
    return f"it acts now, if its daemon runs: {act}"


def _of_calm(positions: tuple[Why, ...]) -> str:
    worst = positions[0]
    level = show_level(worst.level, worst.threshold)
    calm = (
        f"it rightly does not act: the highest level is {level} %, below its threshold"
        f" {worst.threshold:g} %"
    )
    nearest = min(
        (one for one in positions if one.move_percent is not None),
        key=lambda one: abs(one.move_percent or 0.0),
        default=None,
    )
    if nearest is None or nearest.move_percent is None:
        return calm
    return (
        f"{calm}; the price is {nearest.move_percent:+.2f} % from the nearest trigger,"
        f" {nearest.trigger_price:,.1f}"
    )
