"""The daemon killed at random moments while the exchange misbehaves."""

import pytest

from tests.crashes.play import play


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
async def test_a_killed_daemon_acts_once_within_budget_and_its_record_is_true(
    seed, state_dir, database_url
):
    """Failure 24: crash between the call and the record.

    Failures 1, 2 and 3 are among what the exchange does meanwhile. `python -m tests.crashes`
    plays other seeds, any number, and waits for every outcome.
    """
    result = await play(seed, directory=state_dir, database_url=database_url, patient=False)
    report = "\n".join([str(result), *result.breaches, *result.log])
    assert not result.breaches, report
    assert result.applied, report
