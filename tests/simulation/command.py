"""`python -m tests.simulation`: play many seeds, or replay one of them line by line."""

import argparse
import multiprocessing
import time
from collections import Counter

from tests.simulation.scenario import scenario
from tests.simulation.world import Result, play

PROGRESS_EVERY_S = 5.0


def play_seed(seed: int) -> Result:
    """Play one seed without a log."""
    return play(scenario(seed))


def replay(seed: int) -> int:
    """Print everything that happens in a seed; return 1 if an invariant does not hold."""
    result = play(scenario(seed), verbose=True)
    for line in result.lines:
        print(line)
    return _report([result], result.counts, 1, 0.0)


def run(first: int, seeds: int, jobs: int) -> int:
    """Play `seeds` seeds from `first` on; return 1 if one fails."""
    begun_s = told_s = time.monotonic()
    failed: list[Result] = []
    counts: Counter = Counter()
    done = 0
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for result in pool.imap_unordered(play_seed, range(first, first + seeds), chunksize=8):
            done += 1
            counts.update(result.counts)
            counts["steps"] += result.steps
            if result.violations:
                failed.append(result)
                print(f"seed {result.seed} FAILED: {result.violations[0]}", flush=True)
            if time.monotonic() - told_s > PROGRESS_EVERY_S:
                told_s = time.monotonic()
                rate = done / (told_s - begun_s)
                print(f"{done} of {seeds} seeds, {rate:.1f} a second, {len(failed)} failed")
    return _report(failed, counts, done, time.monotonic() - begun_s)


def _report(results: list[Result], counts: Counter, seeds: int, took_s: float) -> int:
    for name in sorted(counts):
        print(f"  {name:45} {counts[name]:>10,}")
    failed = [result for result in results if result.violations]
    rate = f", {seeds / took_s:.1f} a second" if took_s else ""
    print(f"{seeds} seeds{rate}, {len(failed)} failed")
    for result in failed:
        print(f"  seed {result.seed}: {result.violations[0]}")
    return 1 if failed else 0


def main() -> int:
    """Read the arguments and play."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds (default 200)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--jobs", type=int, default=2, help="how many processes (default 2)")
    parser.add_argument("--replay", type=int, metavar="SEED", help="print all that happens in one")
    chosen = parser.parse_args()
    if chosen.replay is not None:
        return replay(chosen.replay)
    return run(chosen.first, chosen.seeds, chosen.jobs)
