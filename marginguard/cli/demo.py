"""`marginguard demo`: a real crash, replayed against the real daemon."""

import asyncio
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import click
import orjson
import uvloop
from rich.console import Console

from marginguard import logs
from marginguard.cli.common import ExitCode, json_option
from marginguard.demo.daemon import DaemonFailedError
from marginguard.demo.play import DEFAULT_SPEED, MAX_SPEED, Demo, Summary
from marginguard.demo.screen import Screen


@click.command()
@click.option(
    "--speed",
    type=click.FloatRange(min=1.0, max=MAX_SPEED),
    default=DEFAULT_SPEED,
    show_default=True,
    help="How many times real time to play.",
)
@click.option(
    "--prices",
    type=click.Path(path_type=Path),
    help="Another CSV file of minute candles: time,open,high,low,close.",
)
@click.option("--cross", is_flag=True, help="Hold cross positions instead of isolated trades.")
@json_option
def demo(*, speed: float, prices: Path | None, cross: bool, as_json: bool) -> None:
    """Watch guards work through the crash of 17 May 2019, with nothing to set up.

    Three accounts of a simulated exchange hold the same leveraged long: one without a guard, one
    whose guard adds margin, one whose guard closes.
    """
    began = time.monotonic()
    logs.configure(environ=os.environ, level=logging.WARNING)
    screen = Screen(Console(stderr=as_json))
    directory = Path(tempfile.mkdtemp(prefix="marginguard-demo-"))
    if os.geteuid() == 0:
        # The database server runs as another user then, who has to get through.
        directory.chmod(0o711)
    keep = False
    try:
        screen.say("Starting the simulated exchange, the database and the daemon...")
        with screen.showing():
            play = Demo(
                directory=directory, speed=speed, prices=prices, cross=cross, draw=screen.draw
            )
            summary = uvloop.run(_until_terminated(play))
        if as_json:
            seconds = round(time.monotonic() - began, 1)
            click.echo(orjson.dumps(_as_json(summary, seconds)))
        else:
            screen.conclude(summary)
            screen.say(
                f"The records are kept: marginguard status --config {directory}/config.toml\n"
                f"shows them, {directory}/daemon.log is the daemon's log. To delete them:"
                f" rm -r {directory}"
            )
            keep = True
    except DaemonFailedError:
        keep = True  # its log says why
        raise
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    sys.exit(ExitCode.FINE if summary.kept_its_promise else ExitCode.PROBLEM)


async def _until_terminated(play: Demo) -> Summary:
    task = asyncio.ensure_future(play.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _as_json(summary: Summary, seconds: float) -> dict[str, object]:
    unguarded = next(holding for holding in summary.holdings if holding.action is None)
    return {
        "price_low": summary.price_low,
        "unguarded": {"liquidated": unguarded.liquidated, "equity": unguarded.equity},
        "guarded": [
            {
                "action": holding.action.value,
                "liquidated": holding.liquidated,
                "equity": holding.equity,
                "actions": [
                    {
                        "action": row.kind.value,
                        "amount_sats": row.amount,
                        "status": row.status.value,
                        "proof": row.proof,
                    }
                    for row in summary.actions[holding.name]
                ],
            }
            for holding in summary.holdings
            if holding.action is not None
        ],
        "executions": summary.executions,
        "seconds": seconds,
    }
