"""The script through which the server is started."""

import os
import subprocess
import sys
from pathlib import Path

from marginguard.storage import embedded_exec

SCRIPT = Path(embedded_exec.__file__)
# Reads back what the kernel was asked for: PR_GET_PDEATHSIG is 2.
SHOW = """
import ctypes, os
wanted = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(wanted))
print(wanted.value, os.geteuid())
"""


def run(parent_pid: int, *command: str) -> "subprocess.CompletedProcess[str]":
    identity = (str(os.geteuid()), str(os.getegid()))
    return subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), str(parent_pid), *identity, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_program_gets_sigint_when_its_parent_dies() -> None:
    result = run(os.getpid(), sys.executable, "-I", "-S", "-c", SHOW)
    assert result.stdout.split() == ["2", str(os.geteuid())]


def test_nothing_is_started_for_a_parent_that_is_dead_already() -> None:
    result = run(os.getpid() + 1, sys.executable, "-c", "print('started')")
    assert (result.returncode, result.stdout) == (1, "")
