"""Kills the daemon at random: `python -m tests.crashes --runs 100 [--seed N] [--jobs N]`.

Every run has a seed of its own, the first one `--seed`; `--seed N --runs 1` repeats one as far as
processes can be repeated. Exits with 1 if an invariant was broken, and names the log of that run.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import asyncpg

from tests.crashes.play import Result, play
from tests.postgres import TestServer, reachable_directory


def main():
    """Play the runs that the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crashes")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, help="of the first run; the next one's is 1 higher")
    parser.add_argument("--jobs", type=int, default=2, help="how many runs are played at once")
    parser.add_argument(
        "--hurried",
        action="store_true",
        help="do not wait the 35 s after which an unknown outcome is settled",
    )
    options = parser.parse_args()
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    seeds = list(range(seed, seed + options.runs))
    with (
        reachable_directory() as directory,
        TestServer(directory) as server,
        contextlib.ExitStack() as stack,
    ):
        urls = [stack.enter_context(server.database()) for _ in range(options.jobs)]
        results = asyncio.run(_play_all(seeds, urls, patient=not options.hurried))
    return _report(results)


async def _play_all(seeds, urls, *, patient):
    """Play every seed, one after the other on each of the databases."""
    left, results = iter(seeds), []

    async def work(url):
        for seed in left:
            result = await _play_one(seed, url, patient=patient)
            results.append(result)
            print(result, flush=True)
            for breach in result.breaches:
                print(f"  BREACH: {breach}", flush=True)
            if result.breaches:
                print(f"  the daemon's log: {_kept(result)}", flush=True)

    async with asyncio.TaskGroup() as group:
        for url in urls:
            group.create_task(work(url))
    return results


async def _play_one(seed, url, *, patient):
    await _empty(url)
    with reachable_directory() as directory:
        try:
            return await play(seed, directory=directory, database_url=url, patient=patient)
        except (AssertionError, OSError, asyncpg.PostgresError):
            # The daemon was not ready in time, say: a failed run, and the others go on.
            return Result(seed=seed, breaches=[traceback.format_exc()])


async def _empty(url):
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    finally:
        await connection.close()


def _kept(result):
    directory = Path(tempfile.gettempdir()) / "marginguard-crashes"
    directory.mkdir(exist_ok=True)
    path = directory / f"seed-{result.seed}.log"
    path.write_text("\n".join([str(result), *result.breaches, *result.log, ""]))
    return path


def _report(results):
    actions, faults = Counter(), Counter()
    for result in results:
        actions.update(result.actions)
        faults.update(result.faults)
    failed = [result.seed for result in results if result.breaches]
    print(f"{len(results)} runs, {sum(result.kills for result in results)} kills")
    print(f"faults: {dict(faults)}")
    print(f"actions: {dict(actions)}")
    print(f"broken invariants: {f'seeds {failed}' if failed else 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
