"""The daemon of `bench_guards`: as `marginguard run`, with the beginning of each run noted.

At the end it writes BEGAN, a JSON array of `[monotonic seconds, seconds later than due]`. With
`--profile FILE` what it does from SIGUSR1 on is profiled, for `pstats`. With `--flat-out` every
guard is due again as soon as it has run, and no run is content with what an earlier one read.
"""

import argparse
import asyncio
import cProfile
import os
import signal
import time
from pathlib import Path

import orjson
import uvloop

from marginguard import logs
from marginguard.app import Daemon
from marginguard.config import load_config
from marginguard.engine import looking, scheduler
from marginguard.telemetry.metrics import Metrics


def note_starts(began):
    """Have the beginning of every run noted in `began`."""
    count = Metrics.began

    def noted(metrics, *, lateness_s):
        began.append((time.monotonic(), lateness_s))
        count(metrics, lateness_s=lateness_s)

    Metrics.began = noted


def go_flat_out():
    """Have guards due again at once; at the interval no two runs of one share a read either."""
    scheduler.next_beat_s = lambda after_s, **_: after_s
    looking.SHARED_FOR_S = 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("began", type=Path)
    parser.add_argument("--flat-out", action="store_true")
    parser.add_argument("--profile", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    config = load_config(arguments.config, os.environ)
    logs.configure(environ=os.environ, secrets=config.secret_values())
    began = []
    note_starts(began)
    if arguments.flat_out:
        go_flat_out()
    profile = cProfile.Profile()

    async def run():
        if arguments.profile:
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, profile.enable)
        await Daemon(config, dry_run=False).run()

    uvloop.run(run())
    if arguments.profile:
        profile.disable()
        profile.dump_stats(arguments.profile)
    arguments.began.write_bytes(orjson.dumps(began))


if __name__ == "__main__":
    main()
