"""How soon the daemon guards, and what it weighs.

Run it as `python -m tests.benchmarks.bench_daemon [--demo]`.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import structlog

from tests.daemons import DaemonProcess, Market, a_guard, write_config
from tests.postgres import TestServer, reachable_directory

ROUNDS = 5
IDLE_S = 10.0


def resident_mb(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


async def one_round(directory, database_url, *, idle_s=0.0):
    """Return the seconds until the first cycle of the guard is over, and the megabytes then."""
    market = Market()
    async with market.open_for_trade():
        config = write_config(directory, market, a_guard(), database_url=database_url)
        began = time.monotonic()
        async with DaemonProcess(config) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            seconds = time.monotonic() - began
            await asyncio.sleep(idle_s)
            megabytes = resident_mb(daemon.process.pid)
            await daemon.end()
    return seconds, megabytes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--demo", action="store_true", help="time the demo too (under a minute)")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    with reachable_directory() as state_dir, TestServer(state_dir) as server:
        starts = []
        for number in range(ROUNDS):
            with reachable_directory() as directory, server.database() as url:
                idle_s = IDLE_S if number == ROUNDS - 1 else 0.0
                seconds, megabytes = asyncio.run(one_round(directory, url, idle_s=idle_s))
                starts.append(seconds)
    print(f"start to first cycle, database by URL: {min(starts):.2f} to {max(starts):.2f} s")
    print(f"resident after {IDLE_S:g} s of cycles every 200 ms: {megabytes:.0f} MB")
    if arguments.demo:
        command = [sys.executable, "-m", "marginguard", "demo", "--json"]
        began = time.monotonic()
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        whole = time.monotonic() - began
        print(f"demo: {whole:.1f} s, of which it says {json.loads(result.stdout)['seconds']} s")


if __name__ == "__main__":
    main()
