"""What many guards cost: each guards an account of its own, with three positions.

Run as `python -m tests.benchmarks.bench_guards`; it takes about six minutes, and less with
`--interval 5`. The daemon has one core to itself; the simulated exchange and PostgreSQL are
processes of the same machine. Nothing breaches, which is nearly always so. Each number of guards
is measured twice, each time with a daemon of its own:

- at the interval, within the exchange's own limits on calls: the daemon's CPU time for a cycle
  (every guard run once), its memory, how much later than due the runs began, and what was asked
  of the database. Before it is measured, a whole interval passes.
- flat out, where every guard is due again as soon as it has run, each run reads its account
  anew, and the limits are a thousandfold: how many runs a second the core sustains. The exchange
  needs a core of its own for that.

With `--profile FILE` the largest number of guards at the interval is profiled, for `pstats`; its
CPU time is then not comparable.
"""

import argparse
import asyncio
import math
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import orjson
import structlog

from tests.benchmarks.guards_exchange import POSITIONS, TICKS_PER_S, ExchangeProcess
from tests.daemons import DaemonProcess, a_guard
from tests.postgres import TestServer, reachable_directory

GUARDS = (1, 10, 100, 1000)
FLAT_OUT_S = 10.0
AIM = 1000
"""Guards whose cycle is to take less than `AIM_CORE` of a core and `AIM_MB`, at 30 s."""

AIM_CORE, AIM_MB = 0.5, 200.0
FAST = 1000.0
"""The largest `rate_scale`: the limits of the exchange and of the daemon, a thousandfold."""

_CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

_CONFIG = """
[daemon]
state_dir = "{state_dir}"
interval = "{interval_ms:.0f}ms"
[exchange]
rate_scale = {rate_scale}
[database]
url = "{database_url}"
"""

_ACCOUNT = """
[[accounts]]
id = "{name}"
rest_url = "{rest_url}"
{stream}
key = "key-{name}"
secret = "secret-of-{name}"
passphrase = "passphrase-of-{name}"
"""


class BenchedDaemon(DaemonProcess):
    """The daemon on one core, which notes in `began` when its runs begin.

    With `profile`, a path, it is profiled from `measured` on.
    """

    def __init__(self, config, began, profile, *, flat_out):
        super().__init__(config)
        rest = [str(config), str(began), *(["--flat-out"] if flat_out else [])]
        rest += ["--profile", str(profile)] if profile else []
        self._command = [self._command[0], "-m", "tests.benchmarks.guards_daemon", *rest]
        self._profile = profile

    async def __aenter__(self):
        await super().__aenter__()
        # At once, so that the threads that it makes have that core too.
        os.sched_setaffinity(self.process.pid, {min(os.sched_getaffinity(0))})
        return self

    def measured(self):
        if self._profile:
            self.process.send_signal(signal.SIGUSR1)

    def faults(self):
        """Return the events that it warned of, each with how often."""
        events = [_WARNING.match(line) for line in self.lines]
        names = [event[1] for event in events if event]
        return {name: names.count(name) for name in sorted(set(names))}


# The log's form on a pipe: a level, and the event's name.
_WARNING = re.compile(r"(?:<\d>)?(?:warning|error|critical) +([a-z_.]+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was used by a moment (monotonic seconds)."""

    at_s: float
    daemon_cpu_s: float
    exchange_cpu_s: float
    transactions: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was used between two readings, and the lateness of the runs that began meanwhile."""

    guards: int
    seconds: float
    daemon_cpu_s: float
    exchange_cpu_s: float
    transactions: int
    resident_mb: float
    files: int
    lateness_s: list[float]
    faults: dict[str, int]

    @property
    def runs(self):
        return len(self.lateness_s)

    @property
    def cycles(self):
        return self.runs / self.guards

    @property
    def lateness_p99_ms(self):
        return 1000 * self.lateness_s[math.ceil(0.99 * self.runs) - 1]


class Database:
    """What a database has been asked, seen from another one of its server."""

    def __init__(self, url):
        parts = urlsplit(url)
        self._name = parts.path.removeprefix("/")
        self._elsewhere = urlunsplit(parts._replace(path="/postgres"))

    async def transactions(self):
        """Return how many were committed; a session's last second may be missing."""
        connection = await asyncpg.connect(self._elsewhere)
        try:
            return await connection.fetchval(
                "SELECT xact_commit FROM pg_stat_database WHERE datname = $1", self._name
            )
        finally:
            await connection.close()


async def measure(directory, database_url, guards, options, *, flat_out):
    """Return what a daemon of its own used with so many guards."""
    scale = FAST if flat_out else 1.0
    settle_s = span_s = options.flat_out
    if not flat_out:
        settle_s, span_s = options.interval, options.cycles * options.interval
    profile = options.profile if guards == max(options.guards) and not flat_out else None
    async with ExchangeProcess(accounts=guards, rate_scale=scale) as exchange:
        config = write_config(
            directory, database_url, exchange, scale, options.interval, stream=options.stream
        )
        began = directory / "began.json"
        async with BenchedDaemon(config, began, profile, flat_out=flat_out) as daemon:
            await daemon.until("daemon.ready", f"armed={guards}")
            await asyncio.sleep(settle_s)
            daemon.measured()
            before = await read(daemon, exchange, database_url)
            await asyncio.sleep(span_s)
            after = await read(daemon, exchange, database_url)
            resident_mb = resident(daemon.process.pid)
            files = open_files(daemon.process.pid)
            await daemon.end()
    runs = orjson.loads(began.read_bytes())
    return Result(
        guards=guards,
        seconds=after.at_s - before.at_s,
        daemon_cpu_s=after.daemon_cpu_s - before.daemon_cpu_s,
        exchange_cpu_s=after.exchange_cpu_s - before.exchange_cpu_s,
        transactions=after.transactions - before.transactions,
        resident_mb=resident_mb,
        files=files,
        lateness_s=sorted(late_s for at_s, late_s in runs if before.at_s <= at_s < after.at_s),
        faults=daemon.faults(),
    )


async def read(daemon, exchange, database_url):
    transactions = await Database(database_url).transactions()
    return Reading(
        at_s=time.monotonic(),
        daemon_cpu_s=cpu_s(daemon.process.pid),
        exchange_cpu_s=cpu_s(exchange.pid),
        transactions=transactions,
    )


def write_config(directory, database_url, exchange, scale, interval_s, *, stream):
    """Write a configuration with the shipped defaults but for addresses and times."""
    path = directory / "config.toml"
    path.touch(mode=0o600)
    text = _CONFIG.format(
        state_dir=directory / "state",
        interval_ms=1000 * interval_s,
        rate_scale=scale,
        database_url=database_url,
    )
    for name in exchange.names:
        text += _ACCOUNT.format(
            name=name,
            rest_url=exchange.rest_url,
            stream=f'stream_url = "{exchange.stream_url}"' if stream else "",
        )
        text += a_guard(f"guard-of-{name}", name)
    path.write_text(text)
    return path


def cpu_s(pid):
    """Return the CPU time that a process has used, all threads, user and system."""
    # The fields come after the name in brackets, which may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_PER_S


def resident(pid):
    """Return a process's resident memory in megabytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def open_files(pid):
    """Return how many files and sockets a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def show_paced(result):
    per_run_ms = 1000 * result.daemon_cpu_s / result.runs
    print(
        f"{result.guards:6,}  {1000 * result.daemon_cpu_s / result.cycles:10,.0f}"
        f"  {100 * result.daemon_cpu_s / result.seconds:9.1f}  {per_run_ms:9.2f}"
        f"  {result.resident_mb:6.0f}  {result.files:6,}  {result.lateness_p99_ms:13.1f}"
        f"  {result.transactions / result.cycles:13.1f}  {result.runs:6,}",
        flush=True,
    )
    show_faults(result)


def show_aims(results):
    """Say of the largest number, at the interval aimed at, whether the aims are met."""
    first, last = min(results, key=_distance_to_ten), max(results, key=lambda one: one.guards)
    core, met = last.daemon_cpu_s / last.seconds, {True: "met", False: "MISSED"}
    print(f"aims for {AIM:,} guards at 30 s, here {last.guards:,}:")
    print(f"  under {100 * AIM_CORE:g} % of a core: {100 * core:.1f} %, {met[core < AIM_CORE]}")
    print(f"  under {AIM_MB:g} MB: {last.resident_mb:.0f} MB, {met[last.resident_mb < AIM_MB]}")
    costs = [one.daemon_cpu_s / one.runs for one in (first, last)]
    print(
        f"  cost of a run flat from {first.guards:,} to {last.guards:,}:"
        f" {1000 * costs[0]:.2f} ms to {1000 * costs[1]:.2f} ms"
    )


def _distance_to_ten(result):
    return abs(result.guards - 10)


def show_flat_out(result):
    print(
        f"{result.guards:6,}  {result.runs / result.seconds:10.1f}"
        f"  {100 * result.daemon_cpu_s / result.seconds:9.1f}"
        f"  {1000 * result.daemon_cpu_s / result.runs:9.2f}"
        f"  {100 * result.exchange_cpu_s / result.seconds:18.1f}",
        flush=True,
    )
    show_faults(result)


def show_faults(result):
    if result.faults:
        print(f"        it warned: {result.faults}")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--guards", type=int, nargs="+", default=list(GUARDS), metavar="N")
    parser.add_argument("--interval", type=float, default=30.0, help="seconds")
    parser.add_argument("--cycles", type=int, default=2, help="how many intervals to measure")
    parser.add_argument(
        "--flat-out", type=float, default=FLAT_OUT_S, help="seconds; 0: leave it out"
    )
    parser.add_argument("--stream", action="store_true", help="prices and events by the stream")
    parser.add_argument("--profile", type=Path, metavar="FILE")
    return parser.parse_args()


def main():
    options = parse_arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))

    def measured(guards, *, flat_out):
        with reachable_directory() as directory, server.database() as url:
            return asyncio.run(measure(directory, url, guards, options, flat_out=flat_out))

    with reachable_directory() as state_dir, TestServer(state_dir) as server:
        prices = "the stream" if options.stream else "REST"
        print(f"{POSITIONS} positions a guard, {TICKS_PER_S} prices a second, read by {prices}")
        print(f"every {options.interval:g} s, {options.cycles} cycles:")
        print(
            "guards  CPU/cycle, ms  % of core  CPU/run, ms  RSS, MB  files"
            "  lateness p99, ms  transactions/cycle  runs"
        )
        paced = []
        for guards in options.guards:
            paced.append(measured(guards, flat_out=False))
            show_paced(paced[-1])
        show_aims(paced)
        if options.flat_out:
            print(f"flat out, {options.flat_out:g} s:")
            print("guards  runs/s  % of core  CPU/run, ms  exchange, % of core")
            for guards in options.guards:
                show_flat_out(measured(guards, flat_out=True))


if __name__ == "__main__":
    main()
