"""What a start takes over from the database, and what it does where that says nothing."""

import pytest
from structlog.testing import capture_logs

from marginguard.app.recall import recall
from marginguard.domain.errors import ConfigError, DatabaseUnavailable, Malformed
from marginguard.domain.memory import GuardMemory
from marginguard.domain.records import ArmedState, GuardState
from tests.unit.fakes import FakeJournal
from tests.unit.strategies import NOON


def a_guard_state(guard_id, account_id):
    return GuardState(
        guard_id=guard_id,
        account_id=account_id,
        armed=ArmedState.ARMED,
        reason="it sees its positions and the price",
        since=NOON,
        memory=GuardMemory(),
        updated_at=NOON,
    )


class Database:
    """Remembers two guards, or fails."""

    def __init__(self, error=None):
        self.error = error
        self.states = (a_guard_state("one", "main"), a_guard_state("two", "other"))

    async def remembered(self):
        if self.error is not None:
            raise self.error
        return self.states


@pytest.mark.parametrize(
    "error",
    [DatabaseUnavailable("down"), ConfigError("[database] url: no password"), Malformed("newer")],
)
async def test_whatever_is_wrong_with_the_database_guarding_goes_on_without_it(error):
    """A daemon that stands by may take over an account long after its start."""
    journal = FakeJournal()
    with capture_logs() as logs:
        await recall(Database(error), journal)
    assert journal.records == []
    [line] = logs
    assert (line["event"], line["log_level"]) == ("memory.empty", "warning")
    assert str(error) in line["error"]


async def test_of_accounts_taken_over_only_theirs_is_taken_over():
    journal, database = FakeJournal(), Database()
    await recall(database, journal, {"other"})
    assert journal.records == [database.states[1]]


async def test_a_full_disk_is_said_and_guarding_goes_on():
    journal = FakeJournal()
    journal.full = True
    with capture_logs() as logs:
        await recall(Database(), journal)
    assert [line["event"] for line in logs] == ["memory.not_kept"]
