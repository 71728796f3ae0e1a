"""The daemon of `bench_breach`: as `marginguard run`, with the times of what it does noted.

Run as `python -m tests.benchmarks.breach_daemon CONFIG MARKS [PROFILE]`. At the end it writes
MARKS, a JSON array of `[what, begin, end, detail]` in monotonic seconds, and PROFILE, which
`pstats` reads. The product's code is as it is: a few of its functions are called through a
wrapper that notes the time, about a microsecond each.
"""

import cProfile
import functools
import inspect
import os
import sys
import time
from pathlib import Path

import orjson
import uvloop

from marginguard import logs
from marginguard.app import Daemon
from marginguard.config import load_config
from marginguard.engine import guard
from marginguard.engine.engine import Engine
from marginguard.lnmarkets import transport, wire
from marginguard.lnmarkets.limits import Limits
from marginguard.lnmarkets.signing import Signer
from marginguard.storage import codec
from marginguard.storage.journal_file import JournalFile
from marginguard.storage.journal_progress import DrainProgress

NOTED = (
    # what, where it is, its name there, and what to note of its arguments
    ("tick", Engine, "on_tick", lambda _self, quote, _ids: quote.last),
    ("parse running", wire, "running_trades", len),
    ("parse closed", wire, "closed_page", len),
    ("decide", guard, "decide", lambda *_: None),
    ("encode", codec, "encode", lambda record: type(record).__name__),
    ("fsync", JournalFile, "append", lambda _self, data: len(data)),
    ("database", DrainProgress, "wait", lambda _self, _seq, patience_s: patience_s),
    ("sign", Signer, "headers", lambda _self, method, path, _data: f"{method} {path}"),
    # aiohttp calls it for calls that change something, just before it writes the headers.
    ("write", transport, "_note_headers", lambda *_: None),
    # An answer of 429 leads to it, and nothing else.
    ("refused", Limits, "pause", lambda *_: None),
)


def note(marks, what, owner, name, detail_of):
    """Have every call of `owner.name` noted in `marks`."""
    call = getattr(owner, name)

    @functools.wraps(call)
    def noted(*args, **kwargs):
        began_s = time.monotonic()
        result = call(*args, **kwargs)
        marks.append((what, began_s, time.monotonic(), detail_of(*args, **kwargs)))
        return result

    @functools.wraps(call)
    async def noted_async(*args, **kwargs):
        began_s = time.monotonic()
        result = await call(*args, **kwargs)
        marks.append((what, began_s, time.monotonic(), detail_of(*args, **kwargs)))
        return result

    setattr(owner, name, noted_async if inspect.iscoroutinefunction(call) else noted)


def main():
    config_path, marks_path, *profile_path = sys.argv[1:]
    config = load_config(Path(config_path), os.environ)
    logs.configure(environ=os.environ, secrets=config.secret_values())
    marks = []
    for noted in NOTED:
        note(marks, *noted)

    async def run():
        await Daemon(config, dry_run=False).run()

    if profile_path:
        profile = cProfile.Profile()
        profile.runcall(uvloop.run, run())
        profile.dump_stats(profile_path[0])
    else:
        uvloop.run(run())
    Path(marks_path).write_bytes(orjson.dumps(marks))


if __name__ == "__main__":
    main()
