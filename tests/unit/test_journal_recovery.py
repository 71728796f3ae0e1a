"""The write-ahead record: whole after a crash, and loud about damage."""

import asyncio
import errno
import signal
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from structlog.testing import capture_logs

from marginguard.domain.errors import DiskFull
from marginguard.domain.ledger import state_after
from marginguard.domain.records import ActionStatus
from marginguard.storage.journal import FileJournal
from tests.records import NOON, a_guard_state, an_action, an_execution, settled
from tests.unit.journals import break_writing, crash, drain, undrained


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
