"""Making the embedded server's data directory and its password."""

import asyncio
import os
import secrets
import shutil
import signal
import tempfile
from pathlib import Path

from marginguard.storage import embedded_process as processes
from marginguard.storage.embedded_binaries import Binaries
from marginguard.storage.embedded_files import ROLE, Layout, OsUser, start_failed


async def create_cluster(
    layout: Layout, binaries: Binaries, user: OsUser, *, output: int, timeout_s: float
) -> None:
    """Make `layout.cluster`, which appears complete and durable, or not at all.

    It is made under another name beside its place; what a killed daemon left of that is removed.
    What initdb says goes to the file descriptor `output`, which is to be `layout.log`. Raises
    `DatabaseUnavailable` when initdb fails, and `OSError`.
    """
    for abandoned in layout.state_dir.glob(f"{layout.cluster.name}.partial-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    # Never the same name twice: an initdb that is being killed removes its directory by name.
    prefix = f"{layout.cluster.name}.partial-"
    partial = Path(tempfile.mkdtemp(prefix=prefix, dir=layout.state_dir))
    try:
        password = partial / layout.password.name
        password.touch(mode=0o600)
        password.write_text(f"{secrets.token_urlsafe(32)}\n")
        if user.uid != os.geteuid():
            for path in (partial, password):
                os.chown(path, user.uid, user.gid)
        command: list[str | Path] = [
            binaries.initdb,
            *("-D", partial / layout.data.name, "-U", ROLE, "--locale=C", "-E", "UTF8"),
            *("--auth=scram-sha-256", f"--pwfile={password}"),
        ]
        await _run(command, layout, user, output=output, timeout_s=timeout_s)
        for path in (password, partial):
            _fsync(path)
        _rename(partial, layout.cluster)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


async def _run(
    command: list[str | Path], layout: Layout, user: OsUser, *, output: int, timeout_s: float
) -> None:
    process = processes.spawn(command, user=user, output=output)
    try:
        async with asyncio.timeout(timeout_s):
            status = await processes.ended(process)
    except TimeoutError as error:
        raise start_failed(layout, "initdb takes too long") from error
    finally:
        if process.poll() is None:  # it leads a group, in which its children are
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status != 0:
        raise start_failed(layout, f"initdb ended with status {status}")


def _rename(partial: Path, complete: Path) -> None:
    partial.rename(complete)
    _fsync(complete.parent)


def _fsync(path: Path) -> None:
    """Make a file, or a directory's list of names, durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
