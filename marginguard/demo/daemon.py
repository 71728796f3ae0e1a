"""The daemon of the demo: the very one that `marginguard run` starts, as its own process."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from marginguard.demo.market import GUARDED, TARGET_LEVEL, THRESHOLD
from marginguard.domain.errors import MarginguardError
from marginguard.domain.model import ActionKind
from marginguard.simulator.accounts import Credentials

START_TIMEOUT_S = 45.0
STOP_TIMEOUT_S = 20.0

_CONFIG = """\
# Written by marginguard demo.
[daemon]
interval = "{interval_ms}ms"
timeout = "10s"
state_dir = "{state_dir}"

[exchange]
rate_scale = {rate_scale:g}

[actions]
base_delay = "100ms"
settle_delay = "100ms"

[notifications.webhook]
url = "{webhook_url}"
"""

_ACCOUNT = """
[[accounts]]
id = "{name}"
rest_url = "{rest_url}"
stream_url = "{stream_url}"
key = "{key}"
secret = "{secret}"
passphrase = "{passphrase}"
"""

_GUARD = """
[[guards]]
id = "{name}"
account = "{name}"
margin_threshold = {threshold:g}
action = "{action}"
cooldown = "1s"
"""

# The demo's owner is ready to stake the whole account on the position.
_ADDS_MARGIN = """\
target_margin_level = {target:g}

[guards.budget]
max_per_position = 100_000_000
max_per_day = 100_000_000
max_spending_actions_per_hour = 100
"""


class DaemonFailedError(MarginguardError):
    """The daemon ended, or did not get ready, when it should have guarded."""


def write_config(
    directory: Path,
    *,
    rest_url: str,
    stream_url: str,
    webhook_url: str,
    interval_s: float,
    rate_scale: float,
    credentials: Mapping[str, Credentials],
) -> Path:
    """Write the configuration for the three accounts and the two guards; return its path."""
    text = _CONFIG.format(
        interval_ms=round(interval_s * 1000),
        rate_scale=rate_scale,
        state_dir=directory / "state",
        webhook_url=webhook_url,
    )
    for name, held in credentials.items():
        text += _ACCOUNT.format(
            name=name,
            rest_url=rest_url,
            stream_url=stream_url,
            key=held.key,
            secret=held.secret,
            passphrase=held.passphrase,
        )
    for name, action in GUARDED.items():
        text += _GUARD.format(name=name, threshold=THRESHOLD, action=action.value)
        if action is ActionKind.ADD_MARGIN:
            text += _ADDS_MARGIN.format(target=TARGET_LEVEL)
    path = directory / "config.toml"
    path.touch(mode=0o600)
    path.write_text(text)
    return path


@asynccontextmanager
async def running_daemon(config: Path, log: Path, armed: asyncio.Event) -> AsyncIterator[None]:
    """Run the daemon until the block ends; the block begins once `armed` is set.

    Its log goes to `log`. Raises `DaemonFailedError` when it ends early, is not armed in time, or
    does not end well.
    """
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "marginguard", "run", "--config", str(config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=file,
            # A setting in the caller's environment would change the play.
            env={k: v for k, v in os.environ.items() if not k.startswith("MARGINGUARD_")},
        )
    try:
        await _until_armed(process, armed, log)
        yield
        if process.returncode is not None:
            raise DaemonFailedError(f"the daemon ended in the middle; its log is {log}")
    finally:
        await _stop(process)
    if process.returncode != 0:
        raise DaemonFailedError(f"the daemon ended with {process.returncode}; its log is {log}")


async def _until_armed(
    process: asyncio.subprocess.Process, armed: asyncio.Event, log: Path
) -> None:
    waits = {asyncio.create_task(armed.wait()), asyncio.create_task(process.wait())}
    try:
        await asyncio.wait(waits, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    if not armed.is_set():
        raise DaemonFailedError(f"the daemon did not begin to guard; its log is {log}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
