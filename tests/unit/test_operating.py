"""Whether all that runs is guarded, in one sentence."""

from dataclasses import replace
from datetime import timedelta

import pytest

from marginguard.domain.model import RiskLevel
from marginguard.domain.operating import GuardNow, Pause, PositionNow, protected_words
from marginguard.domain.records import ArmedState
from tests.unit.strategies import NOON

ARMED = GuardNow(
    guard_id="night",
    account_id="main",
    armed=ArmedState.ARMED,
    reason="it sees its positions and the price",
    since=NOON,
    looked_at=NOON,
    pause=None,
)
IDLE = replace(ARMED, guard_id="old", armed=ArmedState.DISARMED, reason="no such position runs")
COVERED = PositionNow(
    position_id="trade-1",
    account_id="main",
    guard_id="night",
    level=10.0,
    risk=RiskLevel.SAFE,
    price=100_000.0,
    liquidation_price=90_000.0,
    seen_at=NOON,
)


def words(guards, positions, *, after_s=1.0):
    now = NOON + timedelta(seconds=after_s)
    return protected_words(guards, positions, now=now, patience=timedelta(minutes=1))


def test_positions_with_an_armed_guard_are_protected():
    assert words([ARMED], [COVERED]) == "PROTECTED: 1 position, with an armed guard"
    assert words([ARMED], [COVERED, COVERED]).startswith("PROTECTED: 2 positions, each")
    assert words([ARMED], []) == "Nothing to protect: no position runs"


def test_a_disarmed_guard_that_nothing_lacks_is_no_fault():
    assert words([ARMED, IDLE], [COVERED]).startswith("PROTECTED")


@pytest.mark.parametrize(
    ("guard", "position"),
    [
        (replace(IDLE, looked_at=None), COVERED),
        (replace(IDLE, pause=Pause(until=NOON, by="root")), COVERED),
        (replace(IDLE, armed=ArmedState.DEGRADED), COVERED),
        (IDLE, replace(COVERED, guard_id="old")),
        (IDLE, replace(COVERED, guard_id=None)),
    ],
)
def test_a_guard_that_is_lacking_is_named(guard, position):
    said = words([ARMED, guard], [position])

    assert said.startswith("NOT PROTECTED: guard old is")
    assert "no such position runs" in said


def test_a_disarmed_guard_that_has_not_looked_for_long_is_named():
    assert words([ARMED, IDLE], [COVERED], after_s=61).startswith("NOT PROTECTED: guard old is")


def test_no_guard_and_a_position_without_one_are_named():
    assert words([], []) == "NOT PROTECTED: there is no guard"
    said = words([ARMED], [replace(COVERED, guard_id=None)])
    assert said == "NOT PROTECTED: position trade-1 of account main has no armed guard"


def test_a_guard_that_only_tells_protects_nothing_that_it_covers():
    telling = replace(ARMED, acts=False)

    said = words([telling], [COVERED])

    assert said.startswith("NOT PROTECTED: guard night only tells and never acts")
    assert words([telling], []).startswith("Nothing to protect")


def test_a_breach_that_the_guard_did_not_get_answered_is_unprotected():
    said = words([ARMED], [replace(COVERED, level=85.0, unmet=True)])

    assert said.startswith("NOT PROTECTED: position trade-1 is UNPROTECTED at level 85.0 %")


def test_an_armed_guard_that_has_not_looked_for_long_is_named():
    assert words([ARMED], [COVERED], after_s=60).startswith("PROTECTED")
    assert words([ARMED], [COVERED], after_s=61).startswith("NOT PROTECTED: guard night looked")
