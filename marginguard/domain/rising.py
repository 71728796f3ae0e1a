"""When the risk of a position has risen: told once for each level, until it has fallen again."""

from typing import Final

from marginguard.domain.margin import risk_level
from marginguard.domain.model import RiskLevel
from marginguard.domain.units import Percent

FALLEN_BY: Final = Percent(5.0)
"""Points below a risk level's bound at which it counts as left, so that wobbling is no news."""

TOLD_AT_FIRST_SIGHT: Final = RiskLevel.MEDIUM
"""A position seen for the first time has risen from nothing: below this that is no news."""

_ORDER: Final = tuple(RiskLevel)


def risen(mark: RiskLevel | None, level: Percent) -> tuple[RiskLevel, bool]:
    """Return the new mark of a position at this margin level, and whether its risk has risen.

    The mark is the risk level that it was last seen to reach and has not left since: to leave
    one, the margin level must be `FALLEN_BY` points below its bound. None at first sight.
    """
    now = risk_level(level)
    if mark is None:
        return now, _rank(now) >= _rank(TOLD_AT_FIRST_SIGHT)
    if _rank(now) > _rank(mark):
        return now, True
    not_left = risk_level(Percent(level + FALLEN_BY))
    return min(mark, not_left, key=_rank), False


def _rank(risk: RiskLevel) -> int:
    return _ORDER.index(risk)
