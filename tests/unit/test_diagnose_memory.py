"""The daemon's memory, as the kernel shows it."""

from dataclasses import replace

import pytest

from marginguard.diagnose.memory import HIGH_BYTES, Memory, findings, memory_of

MIB = 1024 * 1024


def machine(root, *, limit="536870912", used="104857600", cgroup="0::/system.slice/m.service\n"):
    process = root / "proc/42"
    process.mkdir(parents=True)
    (process / "status").write_text(
        "Name:\tpython\nUmask:\t0077\nVmHWM:\t   81920 kB\nVmRSS:\t   61440 kB\nThreads:\t3\n"
    )
    (process / "cgroup").write_text(cgroup)
    group = root / "sys/fs/cgroup/system.slice/m.service"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    return root


def test_the_memory_and_the_share_of_the_limit_are_read(tmp_path):
    memory = memory_of(42, root=machine(tmp_path))
    assert (memory.resident, memory.peak) == (60 * MIB, 80 * MIB)
    assert (memory.used, memory.limit) == (100 * MIB, 512 * MIB)
    assert memory.share == 100 / 512
    assert findings(memory) == ()


@pytest.mark.parametrize(
    "changes", [{"limit": "max"}, {"cgroup": "1:memory:/old\n"}, {"cgroup": "0::/nowhere\n"}]
)
def test_without_a_limit_there_is_no_share(tmp_path, changes):
    memory = memory_of(42, root=machine(tmp_path, **changes))
    assert memory.resident == 60 * MIB
    assert memory.share is None
    assert findings(memory) == ()


def test_a_process_that_does_not_run_has_no_memory(tmp_path):
    assert memory_of(42, root=tmp_path) is None


def test_this_process_has_memory():
    import os

    memory = memory_of(os.getpid())
    assert 0 < memory.resident <= memory.peak


@pytest.mark.parametrize(
    ("resident", "used", "actions"),
    [
        (HIGH_BYTES, 409 * MIB, []),
        (HIGH_BYTES + 1, None, ["restart_daemon"]),
        (MIB, 410 * MIB, ["raise_memory_max"]),
    ],
)
def test_too_much_memory_is_found(resident, used, actions):
    memory = Memory(pid=42, resident=resident, peak=None, used=used, limit=512 * MIB)
    assert [finding.action for finding in findings(memory)] == actions


def test_memory_that_has_been_higher_is_not_rising():
    memory = Memory(pid=42, resident=150 * MIB, peak=200 * MIB, used=None, limit=None)
    assert findings(memory) == ()
    [finding] = findings(replace(memory, peak=151 * MIB))
    assert finding.action == "restart_daemon"
