"""The write-ahead record: durable before it returns, and a disk that is slow, full or broken."""

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from marginguard.domain.errors import ConfigError, DiskFull
from marginguard.storage import journal_file
from marginguard.storage.journal import FileJournal
from tests.records import an_action, an_execution
from tests.unit.journals import LONG_S, break_writing, crash, undrained


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
