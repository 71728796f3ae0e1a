"""The write-ahead record: durable before it returns, whole after a crash."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from structlog.testing import capture_logs

from marginguard.domain.errors import ConfigError, DiskFull
from marginguard.domain.ledger import state_after
from marginguard.domain.records import ActionStatus
from marginguard.storage import journal_file
from marginguard.storage.journal import FileJournal
from tests.records import NOON, a_guard_state, an_action, an_execution, settled

LONG_S = 30.0


def crash(journal):
    """Leave the journal as a killed process does: nothing more is written."""
    journal._thread.shutdown()
    journal._file.close()
    os.close(journal._lock_fd)


async def undrained(journal):
    """Return the records that the database lacks, without draining them."""
    return [entry.record for entry in (await journal.read_undrained(10_000)).entries]


async def drain(journal, limit=10_000):
    """Play a database that takes everything."""
    batch = await journal.read_undrained(limit)
    journal.drained(batch)
    return [entry.record for entry in batch.entries]


class SlowDisk:
    """Holds back every fdatasync until it is let go."""

    def __init__(self, monkeypatch):
        self.calls = 0
        self.begun = threading.Event()
        self.go = threading.Event()
        self._real = os.fdatasync
        monkeypatch.setattr(journal_file.os, "fdatasync", self)

    def __call__(self, fd):
        self.calls += 1
        self.begun.set()
        assert self.go.wait(LONG_S)
        self._real(fd)


async def test_an_append_returns_only_once_the_disk_has_it(tmp_path, monkeypatch):
    journal = await FileJournal.open(tmp_path)
    disk = SlowDisk(monkeypatch)
    append = asyncio.create_task(journal.append(an_action()))
    await asyncio.to_thread(disk.begun.wait, LONG_S)
    assert not append.done()
    assert journal.unsettled_actions() == ()
    disk.go.set()
    await append
    assert len(journal.unsettled_actions()) == 1
    await journal.close()


async def test_concurrent_appends_share_one_write_to_the_disk(tmp_path, monkeypatch):
    journal = await FileJournal.open(tmp_path)
    disk = SlowDisk(monkeypatch)
    first = asyncio.create_task(journal.append(an_action()))
    await asyncio.to_thread(disk.begun.wait, LONG_S)
    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(journal.append(an_action()))
        await asyncio.sleep(0)
        disk.go.set()
    await first
    assert disk.calls == 2
    assert len(journal.unsettled_actions()) == 101
    await journal.close()


async def test_a_cancelled_append_is_written_whole(tmp_path, monkeypatch):
    journal = await FileJournal.open(tmp_path)
    disk = SlowDisk(monkeypatch)
    records = [an_action(), an_execution()]
    append = asyncio.create_task(journal.append(*records))
    await asyncio.to_thread(disk.begun.wait, LONG_S)
    append.cancel()
    with pytest.raises(asyncio.CancelledError):
        await append
    disk.go.set()
    await journal.close()
    reopened = await FileJournal.open(tmp_path)
    assert await undrained(reopened) == records
    await reopened.close()


async def test_after_a_crash_the_newest_record_of_each_unsettled_action_is_there(tmp_path):
    """Failure 24: Crash between the call and the record."""
    journal = await FileJournal.open(tmp_path)
    first, second, third = an_action(), an_action(), an_action()
    sent = replace(second, status=ActionStatus.SENT, sent_at=NOON, attempts=1)
    unknown = replace(first, status=ActionStatus.UNKNOWN, frozen=True)
    await journal.append(first, second, third)
    await journal.append(sent)
    await journal.append(settled(third), unknown)
    crash(journal)
    reopened = await FileJournal.open(tmp_path)
    assert reopened.unsettled_actions() == (sent, unknown)
    assert reopened.damage is None
    await reopened.close()


async def test_after_a_crash_the_newest_state_of_each_guard_is_there(tmp_path):
    journal = await FileJournal.open(tmp_path)
    old, other = a_guard_state(), a_guard_state(guard_id="guard-2")
    new = replace(old, reason="changed", updated_at=NOON + timedelta(seconds=1))
    await journal.append(old, other, new)
    crash(journal)
    reopened = await FileJournal.open(tmp_path)
    assert reopened.guard_states() == {"guard-1": new, "guard-2": other}
    await reopened.close()


async def test_a_torn_last_line_is_cut_off_wherever_it_was_torn(tmp_path):
    journal = await FileJournal.open(tmp_path)
    kept, torn = an_action(), an_action()
    await journal.append(kept)
    whole = journal._file.size
    await journal.append(torn)
    crash(journal)
    path = tmp_path / "journal.log"
    content = path.read_bytes()
    tails = [content[whole:cut] for cut in range(whole, len(content), 37)]
    for tail in [*tails, content[whole:-1], b"\0" * 5_000]:
        path.write_bytes(content[:whole] + tail)
        reopened = await FileJournal.open(tmp_path)
        assert reopened.damage is None
        assert reopened.unsettled_actions() == (kept,)
        assert path.read_bytes() == content[:whole]
        await reopened.append(torn)
        assert path.read_bytes() == content
        crash(reopened)


async def damaged_journal(tmp_path, *, line):
    """Write three actions, then spoil a byte of one line; return the actions and the bytes."""
    actions = [an_action(), an_action(), an_action()]
    journal = await FileJournal.open(tmp_path)
    for action in actions:
        await journal.append(action)
    await journal.close()
    path = tmp_path / "journal.log"
    lines = path.read_bytes().splitlines(keepends=True)
    spoilt = bytearray(lines[line])
    spoilt[len(spoilt) // 2] ^= 1
    lines[line] = bytes(spoilt)
    path.write_bytes(b"".join(lines))
    return actions, path.read_bytes()


async def test_damage_loses_the_damaged_line_alone_and_is_told_loudly(tmp_path):
    actions, content = await damaged_journal(tmp_path, line=2)
    with capture_logs() as logs:
        journal = await FileJournal.open(tmp_path)
    assert journal.unsettled_actions() == (actions[0], actions[2])
    assert journal.damage is not None
    assert journal.damage.lines == 1
    assert journal.damage.kept_at.read_bytes() == content
    (event,) = [log for log in logs if log["event"] == "journal.damaged"]
    assert event["log_level"] == "critical"
    await journal.append(an_action())
    await journal.close()
    reopened = await FileJournal.open(tmp_path)
    assert reopened.damage is None
    assert len(reopened.unsettled_actions()) == 3
    await reopened.close()


async def test_an_emptied_journal_is_damage_not_a_fresh_start(tmp_path):
    await (await FileJournal.open(tmp_path)).close()
    (tmp_path / "journal.log").write_bytes(b"")
    journal = await FileJournal.open(tmp_path)
    assert journal.damage is not None
    assert not journal.fresh
    await journal.close()


async def test_only_a_journal_that_was_never_there_is_fresh(tmp_path):
    journal = await FileJournal.open(tmp_path / "new" / "state")
    assert journal.fresh
    await journal.close()
    journal = await FileJournal.open(tmp_path / "new" / "state")
    assert not journal.fresh
    await journal.close()


async def test_damage_that_cannot_be_put_right_yet_keeps_what_was_read(tmp_path, monkeypatch):
    actions, content = await damaged_journal(tmp_path, line=1)
    with monkeypatch.context() as patch:
        break_writing(patch, errno.ENOSPC)
        journal = await FileJournal.open(tmp_path)
        with pytest.raises(DiskFull):
            await journal.append(an_action())
    assert journal.unsettled_actions() == tuple(actions[1:])
    assert (tmp_path / "journal.log").read_bytes() == content
    await journal.append(an_action())
    assert journal.damage.kept_at.read_bytes() == content
    assert len(await undrained(journal)) == 3
    await journal.close()


def break_writing(monkeypatch, code):
    """Let every write stop half-way and then fail."""
    real = os.pwrite

    def pwrite(fd, data, offset):
        if len(data) > 8:
            return real(fd, bytes(data[: len(data) // 2]), offset)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(journal_file.os, "pwrite", pwrite)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
async def test_a_full_disk_fails_the_append_and_leaves_the_journal_whole(
    tmp_path, monkeypatch, code
):
    """Failure 30: Disk full: closing goes on, spending stops."""
    journal = await FileJournal.open(tmp_path)
    kept, lost, later = an_action(), an_action(), an_action()
    await journal.append(kept)
    content = (tmp_path / "journal.log").read_bytes()
    with capture_logs() as logs, monkeypatch.context() as patch:
        break_writing(patch, code)
        for _ in range(3):
            with pytest.raises(DiskFull):
                await journal.append(lost)
    assert [log["event"] for log in logs] == ["journal.unwritable"]
    assert (tmp_path / "journal.log").read_bytes() == content
    assert journal.unsettled_actions() == (kept,)
    await journal.append(later)
    crash(journal)
    reopened = await FileJournal.open(tmp_path)
    assert reopened.damage is None
    assert await undrained(reopened) == [kept, later]
    await reopened.close()


async def test_a_fault_of_the_program_reaches_everybody_who_waits(tmp_path, monkeypatch):
    journal = await FileJournal.open(tmp_path)

    def fail(_data):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(journal._file, "append", fail)
        async with asyncio.timeout(LONG_S):
            first = asyncio.create_task(journal.append(an_action()))
            await asyncio.sleep(0)
            second = asyncio.create_task(journal.append(an_action()))
            results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError, ZeroDivisionError]
    await journal.append(an_action())
    assert len(journal.unsettled_actions()) == 1
    await journal.close()


async def test_a_failed_fdatasync_is_never_trusted_again(tmp_path, monkeypatch):
    """The kernel may call the next one a success although the pages are gone."""
    journal = await FileJournal.open(tmp_path)
    kept, later = an_action(), an_action()
    await journal.append(kept)
    before = (tmp_path / "journal.log").stat().st_ino

    def fail(_fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(journal_file.os, "fdatasync", fail)
        with pytest.raises(DiskFull):
            await journal.append(an_action())
    await journal.append(later)
    assert (tmp_path / "journal.log").stat().st_ino != before
    crash(journal)
    reopened = await FileJournal.open(tmp_path)
    assert await undrained(reopened) == [kept, later]
    await reopened.close()


async def test_a_start_on_a_full_disk_works_and_heals(tmp_path, monkeypatch):
    """Failure 30: Disk full: closing goes on, spending stops."""
    with capture_logs() as logs, monkeypatch.context() as patch:
        break_writing(patch, errno.ENOSPC)
        journal = await FileJournal.open(tmp_path)
        with pytest.raises(DiskFull):
            await journal.append(an_action())
        assert not (tmp_path / "journal.log").exists()
    assert logs[0]["event"] == "journal.unwritable"
    await journal.append(an_action())
    assert len(journal.unsettled_actions()) == 1
    await journal.close()


async def test_only_its_owner_can_read_the_journal(tmp_path):
    journal = await FileJournal.open(tmp_path)
    assert (tmp_path / "journal.log").stat().st_mode & 0o777 == 0o600
    await journal.close()


async def test_a_new_file_is_durable_under_its_name(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(fd):
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        real(fd)

    monkeypatch.setattr(journal_file.os, "fsync", fsync)
    journal = await FileJournal.open(tmp_path)
    assert synced == [str(tmp_path / "journal.log.new"), str(tmp_path)]
    await journal.close()


async def test_a_second_daemon_is_refused_the_same_state_directory(tmp_path):
    """Failure 27: Two daemons, one account: one acts."""
    journal = await FileJournal.open(tmp_path)
    with pytest.raises(ConfigError, match="another marginguard"):
        await FileJournal.open(tmp_path)
    await journal.close()
    await (await FileJournal.open(tmp_path)).close()


async def test_a_journal_of_another_format_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "journal.log"
    path.write_bytes(journal_file.frame(7, b"drained format=2"))
    content = path.read_bytes()
    with pytest.raises(ConfigError, match="format 2 instead of 1"):
        await FileJournal.open(tmp_path)
    assert path.read_bytes() == content


async def test_a_state_directory_that_is_a_file_is_refused_in_words(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="state_dir"):
        await FileJournal.open(tmp_path / "file")


async def test_compaction_keeps_what_is_needed_and_nothing_else(tmp_path):
    journal = await FileJournal.open(tmp_path, compact_bytes=8_000)
    action, guard = an_action(), a_guard_state()
    await journal.append(action, guard)
    for _ in range(40):
        await journal.append(an_execution())
    drained = await drain(journal)
    last = [an_execution(), an_action()]
    await journal.append(*last)
    await asyncio.wait_for(journal._flusher, LONG_S)
    assert len(drained) == 42
    assert journal._file.size < 8_000
    assert await undrained(journal) == last
    crash(journal)
    reopened = await FileJournal.open(tmp_path)
    assert reopened.unsettled_actions() == (action, last[1])
    assert reopened.guard_states() == {"guard-1": state_after(guard, last[1])}
    assert await undrained(reopened) == last
    await reopened.close()


async def test_nothing_undrained_is_ever_compacted_away(tmp_path):
    """Failure 28: Postgres down or hung at the breach."""
    journal = await FileJournal.open(tmp_path, compact_bytes=2_000, warn_bytes=10_000)
    records = [an_execution() for _ in range(50)]
    with capture_logs() as logs:
        for record in records:
            await journal.append(record)
    assert [log["event"] for log in logs] == ["journal.large"]
    assert await undrained(journal) == records
    await journal.close()


async def test_a_compaction_that_fails_harms_nothing(tmp_path, monkeypatch):
    journal = await FileJournal.open(tmp_path, compact_bytes=2_000)
    records = [an_execution() for _ in range(10)]
    await journal.append(*records[:9])
    await drain(journal)

    def fail(_fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with capture_logs() as logs, monkeypatch.context() as patch:
        patch.setattr(journal_file.os, "fsync", fail)
        await journal.append(records[9])
        await asyncio.wait_for(journal._flusher, LONG_S)
    assert [log["event"] for log in logs] == ["journal.not_compacted"]
    assert not (tmp_path / "journal.log.new").exists()
    assert await undrained(journal) == records[9:]
    await journal.close()


async def test_a_batch_read_before_a_compaction_still_counts_after_it(tmp_path):
    journal = await FileJournal.open(tmp_path, compact_bytes=2_000)
    await journal.append(*(an_execution() for _ in range(10)))
    await drain(journal)
    journal._compact_from_bytes = 1 << 30
    old, new = an_execution(), an_execution()
    await journal.append(old)
    batch = await journal.read_undrained(10)
    journal._compact_from_bytes = 0
    await journal.append(new)
    await asyncio.wait_for(journal._flusher, LONG_S)
    assert journal._generation != batch.generation
    journal.drained(batch)
    assert await undrained(journal) == [new]
    await journal.close()


async def test_what_is_drained_is_not_drained_again_after_a_clean_stop(tmp_path):
    journal = await FileJournal.open(tmp_path)
    await journal.append(an_action())
    await drain(journal)
    await journal.close()
    reopened = await FileJournal.open(tmp_path)
    assert reopened.backlog == 0
    assert not reopened.undrained.is_set()
    new = an_action()
    await reopened.append(new)
    assert await undrained(reopened) == [new]
    await reopened.close()


async def test_patience_ends_when_the_database_has_the_record(tmp_path):
    journal = await FileJournal.open(tmp_path)
    append = asyncio.create_task(journal.append(an_action(), patience_s=LONG_S))
    await journal.undrained.wait()
    await asyncio.sleep(0)
    assert not append.done()
    async with asyncio.timeout(LONG_S / 2):
        await drain(journal)
        await append
    await journal.close()


async def test_patience_runs_out_without_an_error(tmp_path):
    """Failure 28: Postgres down or hung at the breach: act on the local journal."""
    journal = await FileJournal.open(tmp_path)
    await journal.append(an_action(), patience_s=0.01)
    assert journal.backlog == 1
    await journal.close()


async def test_nobody_waits_for_a_database_that_is_known_to_be_away(tmp_path):
    journal = await FileJournal.open(tmp_path)
    async with asyncio.timeout(LONG_S / 2):
        waiting = asyncio.create_task(journal.append(an_action(), patience_s=LONG_S))
        await journal.undrained.wait()
        await asyncio.sleep(0)
        journal.database_down(down=True)
        await waiting
        await journal.append(an_action(), patience_s=LONG_S)
    await journal.close()


async def test_a_line_spoilt_while_the_daemon_runs_does_not_stop_the_drain(tmp_path):
    journal = await FileJournal.open(tmp_path)
    good = an_execution()
    await journal.append(an_execution(), good)
    content = (tmp_path / "journal.log").read_bytes()
    (tmp_path / "journal.log").write_bytes(content.replace(b"trade-1", b"trade-9", 1))
    with capture_logs() as logs:
        assert await drain(journal) == [good]
    assert logs[0]["event"] == "journal.unreadable"
    assert logs[0]["log_level"] == "critical"
    assert journal.backlog == 0
    await journal.close()


def test_every_acknowledged_append_survives_kill_9(tmp_path):
    """Failure 24: Crash between the call and the record."""
    program = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from marginguard.storage.journal import FileJournal
        from tests.records import an_action

        async def write(journal):
            while True:
                action = an_action()
                await journal.append(action)
                print(action.id, flush=True)

        async def main():
            journal = await FileJournal.open(Path(sys.argv[1]), compact_bytes=20_000)
            async with asyncio.TaskGroup() as group:
                for _ in range(5):
                    group.create_task(write(journal))

        asyncio.run(main())
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        acknowledged = [process.stdout.readline().strip() for _ in range(200)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]

    async def read():
        journal = await FileJournal.open(tmp_path)
        assert journal.damage is None
        found = {str(action.id) for action in journal.unsettled_actions()}
        await journal.close()
        return found

    assert set(acknowledged) <= asyncio.run(read())


class JournalThroughEverything(RuleBasedStateMachine):
    """Appends, drains, compactions and crashes in any order lose nothing and invent nothing."""

    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name)
        self.runner = asyncio.Runner()
        self.records = []
        self.drained = 0
        self.open()

    def open(self):
        self.journal = self.runner.run(FileJournal.open(self.path, compact_bytes=3_000))

    @rule(kinds=st.lists(st.sampled_from(["action", "settle", "execution", "guard"]), min_size=1))
    def append(self, kinds):
        new = [self.make(kind) for kind in kinds]
        self.runner.run(self.journal.append(*new))
        self.records += new

    def make(self, kind):
        if kind == "guard":
            number = len(self.records)
            return a_guard_state(guard_id=f"guard-{number % 3}", reason=f"reason {number}")
        if kind == "execution":
            return an_execution()
        unsettled = list(self.unsettled())
        return settled(unsettled[0]) if kind == "settle" and unsettled else an_action()

    @rule(limit=st.integers(1, 7))
    def drain(self, limit):
        drained = self.runner.run(drain(self.journal, limit))
        assert drained == self.records[self.drained :][:limit]
        self.drained += len(drained)

    @rule()
    def stop_and_start(self):
        self.runner.run(self.journal.close())
        self.open()
        assert self.journal.backlog == len(self.records) - self.drained

    @rule()
    def crash_and_start(self):
        crash(self.journal)
        self.open()
        # The mark is not worth a write of its own: some may be drained again, never too few.
        drained = len(self.records) - self.journal.backlog
        assert drained <= self.drained
        self.drained = drained

    @invariant()
    def it_knows_what_it_must(self):
        assert list(self.journal.unsettled_actions()) == list(self.unsettled())
        assert self.journal.guard_states() == self.guards()
        assert self.runner.run(undrained(self.journal)) == self.records[self.drained :]

    def unsettled(self):
        newest = {}
        for record in self.records:
            if hasattr(record, "intended_at"):
                newest.pop(record.id, None)
                if not record.status.settled:
                    newest[record.id] = record
        return newest.values()

    def guards(self):
        states = {}
        for record in self.records:
            if hasattr(record, "armed"):
                states[record.guard_id] = record
            elif hasattr(record, "intended_at") and record.guard_id in states:
                states[record.guard_id] = state_after(states[record.guard_id], record)
        return states

    def teardown(self):
        self.runner.run(self.journal.close())
        self.runner.close()
        self.directory.cleanup()


TestJournalThroughEverything = JournalThroughEverything.TestCase
TestJournalThroughEverything.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None
)
