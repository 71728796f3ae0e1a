"""Which positions a guard looks after: those selected, and no more than its plan allows."""

from collections.abc import Sequence

from marginguard.domain import margin
from marginguard.domain.breach import covers
from marginguard.domain.memory import GuardMemory
from marginguard.domain.model import Position
from marginguard.domain.rules import Rules
from marginguard.domain.units import PositionId, Price


def covered_by(
    rules: Rules, memory: GuardMemory, positions: Sequence[Position], price: Price
) -> tuple[Position, ...]:
    """Return the positions that the guard looks after, in the order given."""
    selected = tuple(p for p in positions if covers(rules, memory, p.id))
    beyond = _beyond(rules, memory, selected, price)
    return tuple(p for p in selected if p.id not in beyond)


def _beyond(
    rules: Rules, memory: GuardMemory, selected: Sequence[Position], price: Price
) -> frozenset[PositionId]:
    """Return those that are too many for the plan: the riskiest within it are guarded.

    A position in a breach that the guard has begun to answer stays with it.
    """
    if rules.max_positions is None or len(selected) <= rules.max_positions:
        return frozenset()
    answered = {e.position_id for e in memory.episodes if e.last_action_at or e.setbacks}
    worst_first = sorted(
        selected,
        key=lambda one: (one.id not in answered, -margin.margin_level(one, price), one.id),
    )
    return frozenset(one.id for one in worst_first[rules.max_positions :])
