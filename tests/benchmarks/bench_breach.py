"""From breach to request: how soon the daemon asks to close what is at risk.

Run as `python -m tests.benchmarks.bench_breach`; it takes about six minutes. The daemon, the
simulated exchange and PostgreSQL are processes of this machine, so neither TLS nor a network's
distance is inside. One guard, as it is shipped, covers one account; an episode opens so many
positions, lets the guard see them, moves the price so that all of them breach at once, and waits
until they are closed and the daemon is quiet.

Two spans end with the first request to close: (a) from the tick that breaches, as the stream
hands it to the engine, so that waking the guard and reading account and positions over HTTP are
inside; (b) from the beginning of the decision on what was read. Inside both are the decision,
the journal's writes, durable, the wait for PostgreSQL, the turn within the limits, the signature
and the connection. "Written" is when aiohttp is about to write the headers; "read" is when the
exchange's process has the whole request, which is an upper bound. All times are of the monotonic
clock, which the processes share.
"""

import argparse
import asyncio
import math
import statistics
import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import orjson

from tests.benchmarks.breach_exchange import BREACH, CALM, CREDENTIALS, ExchangeProcess
from tests.daemons import DaemonProcess, a_guard
from tests.postgres import TestServer, reachable_directory

EPISODES = {1: 60, 100: 10, 1000: 2}
FAST = 1000.0
"""The largest `rate_scale`: the limits of the exchange and of the daemon, a thousandfold."""

SIGNED_PER_S = 5
"""The exchange's limit on the calls that are signed with one key."""

# Longer than the least time between two looks that an event asks for: one that comes sooner
# leads to none.
QUIET_S = 1.2
OK = 200

_CONFIG = """
[daemon]
state_dir = "{state_dir}"
[exchange]
rate_scale = {rate_scale}
[database]
url = "{database_url}"
[[accounts]]
id = "main"
rest_url = "{rest_url}"
stream_url = "{stream_url}"
key = "{credentials.key}"
secret = "{credentials.secret}"
passphrase = "{credentials.passphrase}"
"""

STAGES = (
    ("price moved at the exchange -> tick in the engine", "moved", "tick"),
    ("tick -> account and positions read, decision begins", "tick", "decide"),
    ("decision", "decide", "decided"),
    ("memory and intent written to the journal, durable", "decided", "durable"),
    ("wait for PostgreSQL, at most 50 ms", "durable", "committed"),
    ("turn in the limits, signature", "committed", "signed"),
    ("connection, request's headers written", "signed", "write"),
    ("request read whole by the exchange's process", "write", "arrived"),
)
SUMMARY = (
    ("(a) tick -> first request written", "tick", "write"),
    ("    tick -> first request read by the exchange", "tick", "arrived"),
    ("(b) decision begins -> first request written", "decide", "write"),
    ("    decision begins -> first request read", "decide", "arrived"),
)
WORK = ("parse running", "parse closed", "decide", "encode", "fsync", "sign", "tick")


class MarkedDaemon(DaemonProcess):
    """The daemon with its times noted, and profiled if `profile` is a path."""

    def __init__(self, config, marks, profile):
        super().__init__(config)
        module, rest = ["-m", "tests.benchmarks.breach_daemon"], [str(config), str(marks)]
        self._command = [self._command[0], *module, *rest, *([str(profile)] if profile else [])]

    async def until_quiet(self):
        """Wait until no line has been logged for `QUIET_S`: every look ends with one, or none."""
        known, since = len(self.lines), time.monotonic()
        while time.monotonic() - since < QUIET_S:
            await asyncio.sleep(QUIET_S / 10)
            if len(self.lines) != known:
                known, since = len(self.lines), time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Episode:
    """When the price was moved, until when the closes were waited for, and what did not close."""

    moved_s: float
    ended_s: float
    left: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was measured with so many positions at a time."""

    positions: int
    rate_scale: float
    episodes: list[Episode]
    marks: list[tuple[str, float, float, object]]
    closes: list[tuple[float, str, int]]
    log: Counter
    peak_mb: float

    def marks_of(self, episode, what=None):
        begin = bisect_left(self.marks, episode.moved_s, key=lambda mark: mark[1])
        end = bisect_left(self.marks, episode.ended_s, key=lambda mark: mark[1])
        return [mark for mark in self.marks[begin:end] if what in (None, mark[0])]

    def closes_of(self, episode):
        return [close for close in self.closes if episode.moved_s <= close[0] < episode.ended_s]

    def first(self, episode):
        """Return when the first request of an episode reached each stage."""
        marks = self.marks_of(episode)

        def earliest(what, after_s, at=1, fits=lambda _detail: True):
            return min(m[at] for m in marks if m[0] == what and m[1] >= after_s and fits(m[3]))

        tick_s = earliest("tick", episode.moved_s, fits=lambda last: last <= BREACH)
        decide_s = earliest("decide", tick_s)
        decided_s = earliest("decide", tick_s, at=2)
        durable_s = earliest("database", decided_s, fits=lambda patience_s: patience_s > 0)
        return {
            "moved": episode.moved_s,
            "tick": tick_s,
            "decide": decide_s,
            "decided": decided_s,
            "durable": durable_s,
            "committed": earliest("database", durable_s, at=2, fits=lambda patience_s: patience_s),
            "signed": earliest("sign", durable_s, at=2, fits=lambda call: call.endswith("/close")),
            "write": earliest("write", durable_s),
            "arrived": self.closes_of(episode)[0][0],
        }


async def measure(directory, database_url, positions, episodes, *, options):
    """Return what a daemon of its own did in so many episodes."""
    scale = 1.0 if options.true_limits else FAST
    async with ExchangeProcess(rate_scale=scale) as exchange:
        config = write_config(directory, database_url, exchange, scale)
        marks = directory / "marks.json"
        async with MarkedDaemon(config, marks, options.profile) as daemon:
            await daemon.until("daemon.ready", "armed=1")
            await daemon.until_quiet()
            measured = []
            for number in range(episodes):
                print(f"  {positions:,} at risk, episode {number + 1} of {episodes}", end="\r")
                measured.append(await one_episode(exchange, daemon, positions, options))
            closes = await exchange.closes()
            peak_mb = peak_resident_mb(daemon.process.pid)
            await daemon.end()
            log = Counter(line.split()[1] for line in daemon.lines if " " in line)
    return Run(
        positions=positions,
        rate_scale=scale,
        episodes=measured,
        marks=sorted(orjson.loads(marks.read_bytes()), key=lambda mark: mark[1]),
        closes=sorted(closes),
        log=log,
        peak_mb=peak_mb,
    )


def write_config(directory, database_url, exchange, scale):
    """Write a configuration with the shipped defaults but for addresses and `rate_scale`."""
    path = directory / "config.toml"
    path.touch(mode=0o600)
    text = _CONFIG.format(
        state_dir=directory / "state",
        rate_scale=scale,
        database_url=database_url,
        rest_url=exchange.rest_url,
        stream_url=exchange.stream_url,
        credentials=CREDENTIALS,
    )
    path.write_text(text + a_guard())
    return path


async def one_episode(exchange, daemon, positions, options):
    """Breach once; the daemon is quiet before and, where all could be closed, after it."""
    await exchange.move(CALM)
    if positions > 1:
        await exchange.open(positions - 1)
        await daemon.until_quiet()
    # The last one alone: its event makes the guard look when all of them run.
    await exchange.open(1)
    await daemon.until_quiet()
    moved_s = await exchange.move(BREACH)
    deadline_s = moved_s + options.patience_s
    left = positions
    while left and time.monotonic() < deadline_s:
        await asyncio.sleep(0.05)
        left = await exchange.running()
    if not left:
        await daemon.until_quiet()
    return Episode(moved_s=moved_s, ended_s=time.monotonic(), left=left)


def peak_resident_mb(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM")


def percentile(values, percent):
    """Return a percentile by nearest rank: p99 of fewer than 100 values is the largest."""
    return sorted(values)[math.ceil(percent / 100 * len(values)) - 1]


def show(label, seconds):
    """Print median, p90 and p99 in milliseconds."""
    values = (statistics.median(seconds), percentile(seconds, 90), percentile(seconds, 99))
    print(f"  {label:<56}" + "".join(f"{value * 1000:>11.2f}" for value in values), flush=True)


def busiest_second(times):
    """Return the most events in any second, wherever it begins."""
    times = sorted(times)
    return max(bisect_left(times, at + 1.0) - index for index, at in enumerate(times))


def report(run):
    firsts = [run.first(episode) for episode in run.episodes]
    title = f"{run.positions:,} at risk at once, {len(firsts)} episodes, in ms"
    print(f"\n{title:<58}{'median':>11}{'p90':>11}{'p99':>11}")
    for label, begin, end in SUMMARY:
        show(label, [first[end] - first[begin] for first in firsts])
    print("  where the first request's time went:")
    for label, begin, end in STAGES:
        show(f"  {label}", [first[end] - first[begin] for first in firsts])
    report_work(run)
    report_requests(run, firsts)


def report_work(run):
    print("  work of the daemon, an episode as a whole (it overlaps with waiting):")
    for what in WORK:
        spans = [run.marks_of(episode, what) for episode in run.episodes]
        calls = sum(map(len, spans)) / len(spans)
        show(f"  {what}: {calls:,.0f} calls", [sum(m[2] - m[1] for m in s) for s in spans])
    written = [sum(m[3] for m in run.marks_of(episode, "fsync")) for episode in run.episodes]
    print(f"    bytes to the journal, an episode: {statistics.median(written):,.0f}")
    print(f"    memory of the daemon at its peak: {run.peak_mb:,.0f} MB")
    waits = [
        mark[2] - mark[1]
        for episode in run.episodes
        for mark in run.marks_of(episode, "database")
        if mark[3] > 0
    ]
    show(f"  wait for PostgreSQL, each of {len(waits):,}", waits)


def report_requests(run, firsts):
    """Print whether every position was asked for, how fast, and what the exchange refused."""
    limit = SIGNED_PER_S * run.rate_scale
    lasts, rates, peaks, unasked, again = [], [], [], 0, 0
    for episode, first in zip(run.episodes, firsts, strict=True):
        asked = {}
        for at_s, trade, _status in run.closes_of(episode):
            asked.setdefault(trade, at_s)
        unasked += run.positions - len(asked)
        again += len(run.closes_of(episode)) - len(asked)
        lasts.append(max(asked.values()) - first["tick"])
        took_s = max(asked.values()) - first["arrived"]
        rates += [(len(asked) - 1) / took_s] if took_s else []
        peaks.append(busiest_second([m[2] for m in run.marks_of(episode, "sign")]))
    if run.positions > 1:
        show("tick -> last position's first request read", lasts)
        print(f"  first requests a second: {statistics.median(rates):,.1f}")
    print(
        f"  signed calls, reads included, in the busiest second: {max(peaks):,}"
        f" (the exchange's limit: {limit:,.0f})"
    )
    statuses = Counter(status for *_, status in run.closes)
    refused = sum(mark[0] == "refused" for mark in run.marks)
    print(f"  answers of 429, reads included: {refused}; closes by status: {dict(statuses)}")
    left = sum(episode.left for episode in run.episodes)
    print(f"  positions never asked for: {unasked}; asked for again: {again}; not closed: {left}")
    for event in ("action.done", "action.not_done", "execution.stalled", "execution.failed"):
        print(f"    {event}: {run.log[event]:,}", end="")
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, nargs="+", help="how many at once (1 100 1000)")
    parser.add_argument("--episodes", type=int, help="how many of each (60, 10 and 2)")
    parser.add_argument("--true-limits", action="store_true", help="the exchange's own limits")
    parser.add_argument("--patience-s", type=float, default=300.0, help="for an episode (300)")
    parser.add_argument("--profile", type=Path, help="write cProfile's statistics of the daemon")
    options = parser.parse_args()
    limits = "the exchange's own" if options.true_limits else f"{FAST:,.0f} times the exchange's"
    print(
        f"limits on calls: {limits} (see --true-limits)."
        " p99 of fewer than 100 episodes is the largest value."
    )
    with reachable_directory() as state_dir, TestServer(state_dir) as server:
        for positions in options.positions or (1, 100, 1000):
            episodes = options.episodes or EPISODES.get(positions, 3)
            with reachable_directory() as directory, server.database() as url:
                work = measure(directory, url, positions, episodes, options=options)
                report(asyncio.run(work))


if __name__ == "__main__":
    main()
