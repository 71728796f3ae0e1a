"""A guard's diagnosis: its configuration, its account asked live, and what the record says."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from marginguard.aio import SystemClock
from marginguard.app.asking import account_of, asked_live
from marginguard.config import Config
from marginguard.diagnose.account import Cause
from marginguard.diagnose.debug import Debugger, Limits
from marginguard.diagnose.debug_steps import Diagnosis, Setup
from marginguard.domain.errors import ConfigError
from marginguard.domain.units import GuardId

RECORD_PATIENCE_S = 5.0
"""How long a diagnosis waits for a database that it can do without."""


async def debug_guard(config: Config, guard_id: str) -> Diagnosis:
    """Take the six steps for a guard, on live data, changing nothing.

    Needs no database and starts none; one that can be reached says what the guard did before.
    """
    setup = setup_of(config, guard_id)
    record, causes = None, ()
    if setup.rules is not None:
        record, causes = await _record(config, GuardId(guard_id))
    account = account_of(config, setup.account_id)
    limits = Limits(
        stale_after=config.exchange.stale_after, verify_within=config.actions.verify_within
    )
    clock = SystemClock()
    if account is None:
        return await Debugger(setup, None, record, clock=clock, limits=limits, more=causes).run()
    async with asked_live(config, account) as live:
        return await Debugger(setup, live, record, clock=clock, limits=limits, more=causes).run()


async def debug_unreadable(path: Path, guard_id: str, error: ConfigError) -> Diagnosis:
    """Return the diagnosis of a guard in a configuration that is refused as a whole."""
    causes = tuple(
        Cause(
            issue=line,
            solution=f"change {path} accordingly and run `marginguard check`",
            action="fix_config",
        )
        for line in error.problems
    )
    setup = Setup(guard_id=guard_id, causes=causes)
    limits = Limits(stale_after=_NEVER, verify_within=_NEVER)
    return await Debugger(setup, None, None, clock=SystemClock(), limits=limits).run()


def nearest(name: str, names: Iterable[str], *, noun: str) -> str:
    """Return what to write in the place of a name that is not known."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if not known:
        return f"add a [[{noun}s]] table: there is none"
    if close:
        return f"did you mean {' or '.join(close)}? The {noun}s are: {', '.join(known)}"
    return f"name one of the {noun}s: {', '.join(known)}"
