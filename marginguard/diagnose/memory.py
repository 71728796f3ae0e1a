"""How much memory the daemon takes, as the kernel shows it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marginguard.diagnose.finding import Finding

HIGH_BYTES: Final = 100 * 1024 * 1024
HIGH_SHARE: Final = 0.8
_AT_PEAK: Final = 0.97
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """A process's memory in bytes; `limit` is its control group's, of which it has `share`.

    `peak` is the most that was ever resident. `used` is what the whole group takes, the embedded
    PostgreSQL among it. What cannot be read, or is not limited, is None.
    """

    pid: int
    resident: int
    peak: int | None
    used: int | None
    limit: int | None

    @property
    def rising(self) -> bool:
        """Whether it is about as much as it ever was; what was more before, is not rising."""
        return self.peak is None or self.resident >= _AT_PEAK * self.peak

    @property
    def share(self) -> float | None:
        """How much of the limit is used, from 0 to 1."""
        if self.limit is None or self.used is None:
            return None
        return self.used / self.limit


def memory_of(pid: int, *, root: Path = Path("/")) -> Memory | None:
    """Return the memory of a process; None if it does not run or may not be looked at."""
    process = root / "proc" / str(pid)
    try:
        status = (process / "status").read_text()
    except OSError:
        return None
    sizes = dict(_sizes(status))
    if "VmRSS" not in sizes:
        return None
    group = _group(process, root)
    return Memory(
        pid=pid,
        resident=sizes["VmRSS"],
        peak=sizes.get("VmHWM"),
        used=None if group is None else _number(group / "memory.current"),
        limit=None if group is None else _number(group / "memory.max"),
    )


def findings(memory: Memory) -> Sequence[Finding]:
    """Return what is wrong with the daemon's memory."""
    return tuple(_findings(memory))


def _findings(memory: Memory) -> Iterator[Finding]:
    if memory.resident > HIGH_BYTES and memory.rising:
        yield Finding(
            issue=f"the daemon takes {memory.resident / _MIB:.0f} MB of memory, over"
            f" {HIGH_BYTES / _MIB:.0f} MB and more than ever before",
            solution="see what it is: marginguard profile --heap; look again in an hour: if it"
            " still grows, restart the daemon, which resumes"
            " where it was (systemctl restart marginguard), and report it",
            action="restart_daemon",
        )
    if memory.share is not None and memory.share > HIGH_SHARE:
        yield Finding(
            issue=f"the service takes {memory.share:.0%} of its MemoryMax; at all of it the kernel"
            " ends one of its processes",
            solution="raise MemoryMax in a drop-in: systemctl edit marginguard",
            action="raise_memory_max",
        )


def _sizes(status: str) -> Iterator[tuple[str, int]]:
    """Yield the sizes in bytes that a process's status file tells in kB."""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        match value.split():
            case [number, "kB"] if number.isdecimal():
                yield name, int(number) * 1024


def _group(process: Path, root: Path) -> Path | None:
    """Return the directory of the process's control group (version 2)."""
    try:
        lines = (process / "cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("0::/"):
            return root / "sys/fs/cgroup" / line.removeprefix("0::/")
    return None


def _number(path: Path) -> int | None:
    """Return the number in a file of the control group; None for "max" or what is not there."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
