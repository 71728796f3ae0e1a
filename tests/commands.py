"""Marginguard's commands as a user runs them."""

import asyncio
import os
import sys

from click.testing import CliRunner

from marginguard.cli import main


async def run_here(*words, **environment):
    """Run a command in this process; return its exit code, stdout and stderr.

    Starting a process takes most of a second, this a tenth of it.
    """
    # A command runs a loop of its own, for which it needs a thread.
    result = await asyncio.to_thread(CliRunner().invoke, main, words, env=environment)
    assert "Traceback" not in result.stderr, result.stderr
    return result.exit_code, result.stdout, result.stderr


async def run_alone(*words, **environment):
    """Run a command in a process of its own; return its exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "marginguard", *words),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert b"Traceback" not in err, err.decode()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
