"""Playing one broken set-up: broken, diagnosed, cured, diagnosed again."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from marginguard.storage.embedded import EmbeddedServer
from tests.daemons import Market, a_guard, write_config
from tests.postgres import reachable_directory

_PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """A set-up that is broken until its `work` goes on after its first yield.

    `command` is what names the cause: a finding with this `action`, whose issue holds `says`.
    """

    name: str
    command: tuple[str, ...]
    action: str
    says: str
    work: Callable[["Stage"], AsyncIterator[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """What was said of a broken set-up."""

    command: str
    issue: str
    solution: str
    action: str


@dataclass(kw_only=True)
class Stage:
    """Where a set-up is played: a directory, and a simulated exchange once `trade` was called."""

    directory: Path
    stack: contextlib.AsyncExitStack
    environ: dict[str, str] = field(default_factory=dict)
    market: Market | None = None

    async def trade(self, market: Market | None = None, **serving: object) -> Market:
        """Open an exchange on which a 10x long of 1,000 USD at 100,000 runs."""
        self.market = market or Market()
        await self.stack.enter_async_context(self.market.open_for_trade(**serving))
        return self.market

    def config(self, guards: str | None = None, change: tuple[str, str] = ("", ""), **more) -> Path:
        """Write the configuration, with `change` (old text, new text) made to it."""
        path = write_config(self.directory, self.market, guards or a_guard(), **more)
        old, new = change
        text = path.read_text()
        assert old in text, old
        path.write_text(text.replace(old, new) if old else text)
        return path

    async def database(self) -> EmbeddedServer:
        """Return a PostgreSQL server of the stage's own, not started yet."""
        return await self.stack.enter_async_context(EmbeddedServer(state_dir=self.directory / "db"))

    async def say(self, command: tuple[str, ...]) -> tuple[int, dict]:
        """Run a command as a user does; return its exit code and its JSON."""
        config = str(self.directory / "config.toml")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "marginguard", *command, "--config", config, "--json"),
            env=os.environ | self.environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), _PATIENCE_S)
        assert out, f"no JSON from {' '.join(command)}: {err.decode()}"
        assert b"Traceback" not in err, err.decode()
        assert process.returncode is not None
        return process.returncode, json.loads(out)


def findings_in(report: dict) -> list[dict]:
    """Return the findings of a command's JSON, wherever that command has them."""
    found = list(report.get("findings", []))
    found += report.get("verdict", {}).get("findings", [])
    found += report.get("problems", [])
    found += [{"severity": "warning", **one} for one in report.get("advice", [])]
    for account in report.get("accounts", []):
        found += account.get("findings", [])
    return found


@contextlib.asynccontextmanager
async def _stage() -> AsyncIterator[Stage]:
    with reachable_directory() as directory:
        async with contextlib.AsyncExitStack() as stack:
            yield Stage(directory=directory, stack=stack)


async def play(setup: Setup) -> Played:
    """Break, diagnose, cure, and diagnose again.

    Raises `AssertionError` where the cause is not named, or where it is named still after the
    cure that the command asked for.
    """
    async with _stage() as stage, contextlib.aclosing(setup.work(stage)) as work:
        await anext(work)
        code, report = await stage.say(setup.command)
        found = findings_in(report)
        named = [
            one for one in found if one["action"] == setup.action and setup.says in one["issue"]
        ]
        assert named, f"{setup.action!r} with {setup.says!r} is not among {found}"
        assert named[0].get("certainty", "found") == "found", named
        assert named[0]["solution"], named
        if named[0].get("severity") != "warning":
            assert code in {1, 2}, f"exit code {code} for {named[0]}"
        _check_steps(report)
        await anext(work)
        code, report = await stage.say(setup.command)
        left = [one for one in findings_in(report) if one["action"] == setup.action]
        assert not left, f"after the cure still {left}"
        assert code == 0, f"after the cure exit code {code}: {findings_in(report)}"
        return Played(
            command=" ".join(setup.command),
            issue=named[0]["issue"],
            solution=named[0]["solution"],
            action=named[0]["action"],
        )


def _check_steps(report: dict) -> None:
    """Each step of `debug` that failed names an error and a cure, and no other does."""
    for step in report.get("steps", []):
        failed = step["status"] == "failed"
        assert bool(step["error"]) is failed, step
        assert bool(step["solution"]) is failed, step
