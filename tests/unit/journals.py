"""What tests do to a journal: crash it, drain it, let its disk fail."""

import os

from marginguard.storage import journal_file

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


def break_writing(monkeypatch, code):
    """Let every write stop half-way and then fail."""
    real = os.pwrite

    def pwrite(fd, data, offset):
        if len(data) > 8:
            return real(fd, bytes(data[: len(data) // 2]), offset)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(journal_file.os, "pwrite", pwrite)
