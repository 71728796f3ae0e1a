"""Become another program that ends when the one who started it ends.

Run as a script, by path: `python -I -S embedded_exec.py PARENT_PID UID GID PROGRAM ARGUMENT...`.
It drops root's rights, asks the kernel for SIGINT at its parent's death, and executes PROGRAM.

A script of its own, because neither way inside the parent is sound: code between fork and exec
may deadlock in a process that has threads, and a change of user clears the request, so that it
must come after. The interpreter is loaded as root, thus it may lie where only root can read.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Do what the module says; returns never, ends with status 1 if the parent is gone."""
    parent_pid, uid, gid = (int(word) for word in arguments[:3])
    program, *_ = command = arguments[3:]
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl")
    if os.getppid() != parent_pid:  # it died before the request was in place
        sys.exit(1)
    os.execv(program, command)  # noqa: S606 - a program by its path, no shell: what is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
