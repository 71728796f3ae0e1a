"""A guard's rules, as far as decisions go: thresholds, actions, fallbacks and bounds."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum

from marginguard.domain.budget import Budget
from marginguard.domain.model import ActionKind
from marginguard.domain.units import CROSS, GuardId, Percent, PositionId, Sats


class ProtectionMode(StrEnum):
    """What a threshold is held against.

    `unitario`: each position's own level. `total`: the level of all selected positions taken
    together. `both`: whichever reaches it first.
    """

    UNITARIO = "unitario"
    TOTAL = "total"
    BOTH = "both"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One thing to do at a rung, with its size; which fields count depends on `kind`.

    `add_margin` adds the fixed `add_margin_amount`, or without one what brings the level down to
    `target_margin_level`. `reduce_position` cuts `reduce_percentage` of the quantity, and
    `increase_liquidation_distance` puts liquidation `new_liquidation_distance` % from the price.
    """

    kind: ActionKind
    reduce_percentage: Percent = Percent(50.0)
    add_margin_amount: Sats | None = None
    target_margin_level: Percent = Percent(50.0)
    new_liquidation_distance: Percent | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """One threshold, with what to do there and what to fall back to, in order."""

    threshold: Percent
    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """The rungs over a position, lowest threshold first.

    `backstop` is the level at which a stop-loss on the exchange closes an isolated trade.
    """

    rungs: tuple[Rung, ...]
    backstop: Percent | None = None

    @property
    def lowest(self) -> Percent:
        """The threshold that is reached first."""
        return self.rungs[0].threshold

    @property
    def all_rungs(self) -> tuple[Rung, ...]:
        """The rungs, and closing at the backstop as the top one.

        Where the market is beyond the backstop already, the exchange takes no stop-loss there.
        """
        if self.backstop is None:
            return self.rungs
        close = Step(kind=ActionKind.CLOSE_POSITION)
        return (*self.rungs, Rung(threshold=self.backstop, steps=(close,)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """A guard's configuration, as far as decisions go.

    `selected` None means every position of the account. `individual` has the ladders of single
    positions, by the id that the position had first. A breach ends `hysteresis` points below its
    threshold. No more than `max_positions` at once are covered, the riskiest of those selected;
    None is any number. `reopen_slippage` is in percent of the price; a reduction of an isolated
    trade must put liquidation `min_improvement` percent farther away.
    """

    guard_id: GuardId
    ladder: Ladder
    individual: Mapping[PositionId, Ladder] = field(default_factory=dict)
    selected: frozenset[PositionId] | None = None
    mode: ProtectionMode = ProtectionMode.UNITARIO
    auto_execution: bool = True
    hysteresis: Percent = Percent(5.0)
    cooldown: timedelta = timedelta(seconds=60)
    budget: Budget = Budget()
    reopen_slippage: Percent = Percent(0.5)
    min_improvement: Percent = Percent(10.0)
    max_positions: int | None = None

    def ladder_of(self, origin: PositionId) -> Ladder:
        """Return the rungs over the position that had this id first.

        The exchange keeps no stop-loss for the cross position, so that it has no backstop.
        """
        ladder = self.individual.get(origin, self.ladder)
        return replace(ladder, backstop=None) if origin == CROSS else ladder

    def selects(self, origin: PositionId) -> bool:
        """Return whether the guard looks after the position that had this id first."""
        return self.selected is None or origin in self.selected
