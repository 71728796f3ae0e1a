"""A journal that keeps what was acknowledged, and by chance a little more, across crashes."""

from dataclasses import dataclass

from marginguard.domain.errors import DiskFull
from marginguard.domain.records import ActionRecord
from marginguard.storage.journal_file import Entry, Memory


@dataclass(eq=False)
class _Append:
    records: tuple
    written: object = None
    lost: bool = False


class Disk:
    """What survives: every record in the order of writing, replayed as the real journal does."""

    def __init__(self, world):
        self._world = world
        self._under_way = []
        self._free_from_s = 0.0
        self.newest = {}
        self.intents = {}
        self._memory = Memory()
        self.refused = {}
        self.refused_of = {}
        self._written = 0

    def append(self, records, wake):
        """Write records in order; `wake` is called when they are on the disk."""
        world = self._world
        entry = _Append(records=records)
        self._under_way.append(entry)
        now_s = world.agenda.now_s
        self._free_from_s = max(now_s, self._free_from_s) + world.faults.write_s()
        world.agenda.at(self._free_from_s, lambda: self._finish(entry, wake))

    def crash(self):
        """Keep a random beginning of what is being written, and lose the rest."""
        waiting = [(entry, r) for entry in self._under_way for r in entry.records]
        for entry in self._under_way:
            entry.lost = True
        self._under_way.clear()
        kept = self._world.faults.survivors(len(waiting))
        for _, record in waiting[:kept]:
            self._keep(record)
        self._world.counts["records kept unacknowledged"] += kept
        self._world.counts["records torn off"] += len(waiting) - kept

    def refuse(self, records):
        """Note what could not be written."""
        actions = {r.id: r for r in records if isinstance(r, ActionRecord)}
        self.refused.update(actions)
        self.refused_of.update(dict.fromkeys(actions, self._world.number))

    def known(self, record):
        """Return an action as the process that runs knows it, written down or not."""
        unwritten = self.refused_of.get(record.id) == self._world.number
        return self.refused[record.id] if unwritten else record

    def unsettled_actions(self):
        found = sorted(self._memory.unsettled.values(), key=lambda entry: entry.seq)
        return tuple(entry.record for entry in found)

    def guard_states(self):
        return {guard_id: entry.record for guard_id, entry in self._memory.guards.items()}

    def actions(self):
        """Return the newest record of every action."""
        return [record for _, record in self.newest.values()]

    def _finish(self, entry, wake):
        if entry.lost:
            return
        self._under_way.remove(entry)
        for record in entry.records:
            self._keep(record)
        wake()

    def _keep(self, record):
        self._written += 1
        self._memory.note(Entry(seq=self._written, record=record))
        if isinstance(record, ActionRecord):
            self._world.log(
                f"  disk: {record.kind.value} {record.position_id} {record.amount}"
                f" {record.status.value} {str(record.id)[:8]} {record.error or ''}"
            )
            self.intents.setdefault(record.id, (self._world.agenda.now_s, record))
            self.newest[record.id] = (self._written, record)
            self.refused_of.pop(record.id, None)


class JournalPort:
    """The `Journal` port of one process."""

    def __init__(self, disk, world, process):
        self._disk = disk
        self._world = world
        self._process = process

    async def append(self, *records, patience_s=0.0):
        process, faults = self._process, self._world.faults
        process.writes(records)
        await process.step("journal asked")
        if faults.within(faults.disk_full_until_s):
            faults.happened("disk full")
            self._disk.refuse(records)
            await process.pause(faults.write_s())
            raise DiskFull("no space left on the device")
        written = process.future()
        self._disk.append(records, lambda: process.wake(written, None))
        await process.step("journal under way")
        await written
        await process.step("journal written")
        if patience_s and faults.within(faults.database_slow_until_s):
            faults.happened("database slow")
            await process.pause(patience_s)
        elif patience_s:
            await process.pause(faults.write_s())

    def unsettled_actions(self):
        return self._disk.unsettled_actions()

    def guard_states(self):
        return self._disk.guard_states()
