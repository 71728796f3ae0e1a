"""The write-ahead record: handed to the database, and compacted without a loss."""

import asyncio
import errno
import os

from structlog.testing import capture_logs

from marginguard.domain.ledger import state_after
from marginguard.storage import journal_file
from marginguard.storage.journal import FileJournal
from tests.records import a_guard_state, an_action, an_execution
from tests.unit.journals import LONG_S, crash, drain, undrained


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
