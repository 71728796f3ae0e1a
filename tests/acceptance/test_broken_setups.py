"""Set-ups broken for real: the command names the cause, and its cure works."""

import pytest

from tests.broken.playing import play
from tests.broken.setups import SETUPS
from tests.broken.telling_setups import TELLING_SETUPS

ALL = {**SETUPS, **TELLING_SETUPS}


def test_there_are_at_least_fifteen_broken_setups():
    assert len(ALL) >= 15


@pytest.mark.parametrize(
    "name",
    [
        "wrong-secret",
        "read-only-key",
        "clock-an-hour-off",
        "missing-position",
        "exchange-down",
    ],
)
async def test_the_cause_is_named_and_its_cure_works(name):
    await play(ALL[name])
