"""`marginguard debug`: why a guard does or does not act, step by step, on live data."""

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import click

from marginguard import logs
from marginguard.app.debugging import debug_guard, debug_unreadable
from marginguard.cli import causes
from marginguard.cli.common import ExitCode, config_option, json_option, paragraph
from marginguard.config import load_config
from marginguard.diagnose.debug_decision import Why
from marginguard.diagnose.debug_record import GuardRecord
from marginguard.diagnose.debug_steps import Conclusion, Diagnosis, StepStatus
from marginguard.domain.decision import Verdict
from marginguard.domain.errors import ConfigError
from marginguard.domain.margin import show_level
from marginguard.domain.model import ActionKind


@click.command()
@click.argument("guard")
@config_option
@json_option
@click.pass_context
def debug(ctx: click.Context, guard: str, config_path: Path, *, as_json: bool) -> None:
    """Say why GUARD does or does not act, on live data, without acting.

    Checks its configuration, its account, positions, prices, margin levels and thresholds, and
    reads what the daemon recorded where a database can be reached; it needs none.

    Exits with 0 when the guard can guard and nothing keeps it from it, with 1 when something
    does, and with 2 when the configuration is refused or has no such guard.
    """
    diagnosis = _diagnose(guard, config_path)
    if as_json:
        click.echo(json.dumps(_report(diagnosis)))
    else:
        for line in _lines(diagnosis):
            click.echo(line)
    ctx.exit(_exit_code(diagnosis))


def _diagnose(guard: str, config_path: Path) -> Diagnosis:
    try:
        config = load_config(config_path, os.environ)
    except ConfigError as error:
        return asyncio.run(debug_unreadable(config_path, guard, error))
    logs.configure(environ=os.environ, secrets=config.secret_values(), level=logging.CRITICAL)
    return asyncio.run(debug_guard(config, guard))


def _exit_code(diagnosis: Diagnosis) -> ExitCode:
    first, second, *_ = diagnosis.steps
    if first.status is StepStatus.FAILED and second.status is StepStatus.SKIPPED:
        return ExitCode.CONFIG
    return ExitCode.FINE if diagnosis.verdict.well else ExitCode.PROBLEM


def _report(diagnosis: Diagnosis) -> dict[str, object]:
    verdict = diagnosis.verdict
    return {
        "guard": diagnosis.guard,
        "steps": [asdict(step) for step in diagnosis.steps],
        "verdict": {
            "summary": verdict.summary,
            "well": verdict.well,
            "findings": [causes.as_json(cause) for cause in verdict.causes],
            "positions": [asdict(why) for why in verdict.positions],
            "record": None if verdict.record is None else _record(verdict.record),
        },
    }


def _record(record: GuardRecord) -> dict[str, object]:
    return {
        "armed": record.armed,
        "reason": record.reason,
        "since": _time(record.since),
        "looked_at": _time(record.looked_at),
        "last_execution_at": _time(record.execution_at),
        "last_execution_status": record.execution_status,
        "last_execution_error": record.execution_error,
        "unsettled_actions": [str(action.id) for action in record.unsettled],
    }


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    for step in diagnosis.steps:
        if step.status is StepStatus.SKIPPED:
            yield paragraph("skipped ", f"{step.step.value}: {step.message}")
            continue
        failed = step.status is StepStatus.FAILED
        title = f"{step.step.value} ({step.seconds:.2f} s)"
        said = title if step.message is None else f"{title}: {step.message}"
        yield paragraph("FAILED  " if failed else "passed  ", said)
    yield ""
    yield paragraph(f"{diagnosis.guard}: ", diagnosis.verdict.summary)
    yield from causes.in_words(diagnosis.verdict.causes)
    yield from _of_record(diagnosis.verdict)
    for why in diagnosis.verdict.positions:
        yield ""
        yield from _of_position(why)


def _of_record(verdict: Conclusion) -> Iterator[str]:
    record = verdict.record
    if record is None or record.armed is None or record.since is None:
        return
    said = f"{record.armed.value} since {record.since:%Y-%m-%d %H:%M:%S} UTC"
    if record.looked_at is not None:
        said += f", looked last at {record.looked_at:%H:%M:%S} UTC"
    if record.execution_at is not None:
        said += f"; last execution at {record.execution_at:%Y-%m-%d %H:%M:%S} UTC"
        said += f" {record.execution_status}"
    if record.execution_error:
        said += f": {record.execution_error}"
    yield paragraph("  on record: ", said)
    if record.unsettled:
        left = ", ".join(f"{one.kind.value} on {one.position_id}" for one in record.unsettled)
        yield paragraph("  not settled: ", left)


def _of_position(why: Why) -> Iterator[str]:
    yield paragraph("", f"position {why.position_id} ({why.mode.value} {why.side.value})")
    yield paragraph("  decision: ", f"{why.verdict.value}: {why.reason}")
    if why.verdict is Verdict.ACT and why.action is not None:
        yield paragraph("  action: ", _action(why))
    yield paragraph(
        "  level: ",
        f"{show_level(why.level, why.threshold)} % against {why.threshold:g} %, {why.risk.value}",
    )
    if why.trigger_price is not None and why.move_usd is not None:
        yield paragraph(
            "  trigger: ",
            f"{why.trigger_price:,.1f} for {why.next_threshold:g} %; the price {why.price:,.1f} has"
            f" to move {why.move_usd:+,.1f} ({why.move_percent:+.2f} %)",
        )
    if why.liquidation_price is not None:
        yield paragraph(
            "  liquidation: ",
            f"{why.liquidation_price:,.1f}, {why.liquidation_distance:.2f} % away",
        )
    if why.cooldown_left_s is not None:
        yield paragraph("  cooldown: ", f"{why.cooldown_left_s:.0f} s left")
    if why.may_spend is not None:
        yield paragraph("  budget: ", f"may spend {why.may_spend:,} sats now: {why.spending_limit}")


def _action(why: Why) -> str:
    match why.action:
        case ActionKind.REDUCE_POSITION:
            return f"reduce the position by {why.quantity:,} USD"
        case None | ActionKind.CLOSE_POSITION:
            return "close the position"
        case _:
            return f"add {why.amount:,} sats of margin"
