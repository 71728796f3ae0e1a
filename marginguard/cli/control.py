"""`marginguard pause`, `resume`, `reload` and `run-now`: what is asked of the running daemon."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

import click

from marginguard.app.control_client import ControlClient, Unanswered
from marginguard.cli.common import ExitCode, config_option, json_option
from marginguard.cli.record import WrongUse, echo_json, end_with, say, span_of
from marginguard.config import DaemonSettings, load_config, state_dir_of
from marginguard.domain.errors import ConfigError, Refused
from marginguard.domain.operating import LONGEST_PAUSE
from marginguard.domain.records import ExecutionRecord, ExecutionStatus

MARGIN_S: Final = 10.0
"""How much longer than a run may take its result is waited for."""

_T = TypeVar("_T")


class AskedInVain(WrongUse):
    """The daemon did not answer: told in one line, exit code 1."""

    exit_code = ExitCode.PROBLEM


def _pause_span(_: click.Context, __: click.Parameter, value: str) -> timedelta:
    return span_of(value, LONGEST_PAUSE)


@click.command()
@click.argument("guard")
@config_option
@click.option(
    "--for",
    "span",
    callback=_pause_span,
    metavar="DURATION",
    required=True,
    help='For how long, such as "30m" or "1h"; at most 24h.',
)
@json_option
def pause(guard: str, config_path: Path, *, span: timedelta, as_json: bool) -> None:
    """Let GUARD do no more than alert for a while: its positions are NOT PROTECTED by it then.

    It guards again by itself when the time is over, or at once by `marginguard resume`.
    """
    _command(config_path, lambda daemon: daemon.pause(guard, span), guard=guard, as_json=as_json)


@click.command()
@click.argument("guard")
@config_option
@json_option
def resume(guard: str, config_path: Path, *, as_json: bool) -> None:
    """Let GUARD, which is paused, guard again at once."""
    _command(config_path, lambda daemon: daemon.resume(guard), guard=guard, as_json=as_json)


@click.command()
@config_option
@json_option
def reload(config_path: Path, *, as_json: bool) -> None:
    """Have the daemon read its configuration again.

    One that is not valid is refused with all that is wrong with it, and the one from before stays
    in force.
    """
    _command(config_path, lambda daemon: daemon.reload(), guard=None, as_json=as_json)


@click.command("run-now")
@click.argument("guard")
@config_option
@json_option
def run_now(guard: str, config_path: Path, *, as_json: bool) -> None:
    """Run GUARD at once, under its usual rules: it acts only where it would anyway.

    Exits with 1 when something that was needed was not done.
    """
    patience_s = run_patience_s(config_path)
    try:
        record = ask(config_path, lambda daemon: daemon.run_now(guard, patience_s=patience_s))
    except Refused as error:
        _tell_refusal(error, guard=guard, as_json=as_json)
        return
    if as_json:
        echo_json({"guard": guard, "accepted": True, "execution": record})
    else:
        for line in told(guard, record):
            say(line, later="  ")
    end_with(record is not None and failed(record))


def run_patience_s(config_path: Path) -> float:
    """Return for how many seconds the result of a run is waited for.

    A file that is not valid now does not count: the daemon runs by an earlier one.
    """
    try:
        settings = load_config(config_path, os.environ).daemon
    except ConfigError:
        settings = DaemonSettings.model_construct()
    return settings.timeout.total_seconds() + MARGIN_S


def ask(config_path: Path, request: Callable[[ControlClient], Awaitable[_T]]) -> _T:
    """Return what the daemon of a configuration answers.

    Raises `AskedInVain` where it does not answer and `Refused` where it refuses.
    """
    client = ControlClient(state_dir_of(config_path, os.environ))

    async def run() -> _T:
        return await request(client)

    try:
        return asyncio.run(run())
    except Unanswered as error:
        raise AskedInVain(str(error)) from error


def failed(record: ExecutionRecord) -> bool:
    """Return whether something that a run needed to do was not done."""
    return record.status in {ExecutionStatus.FAILED, ExecutionStatus.PARTIAL}


def told(guard: str, record: ExecutionRecord | None) -> Sequence[str]:
    """Say what came of a run, a line for each thing."""
    if record is None:
        return [f"{guard} has looked, and there was nothing to do."]
    manner = ", a dry run that sent nothing" if record.dry_run else ""
    lines = [f"{guard}: {record.status.value} after {record.duration_s:.2f} s{manner}"]
    lines += [f"{position}: {result}" for position, result in record.results.items()]
    if record.error is not None:
        lines.append(f"{record.error_code.value if record.error_code else 'error'}: {record.error}")
    return [*lines, f"The whole story: marginguard explain {record.id}"]


def _command(
    config_path: Path,
    request: Callable[[ControlClient], Awaitable[str]],
    *,
    guard: str | None,
    as_json: bool,
) -> None:
    try:
        answer = ask(config_path, request)
    except Refused as error:
        _tell_refusal(error, guard=guard, as_json=as_json)
        return
    if as_json:
        echo_json({"guard": guard, "accepted": True, "answer": answer})
    else:
        say(answer)


def _tell_refusal(error: Refused, *, guard: str | None, as_json: bool) -> None:
    if as_json:
        echo_json({"guard": guard, "accepted": False, "answer": str(error)})
    else:
        for line in str(error).splitlines():
            click.echo(f"error: {line}", err=True)
    end_with(problems=True)
