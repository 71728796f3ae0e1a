"""The rungs that a guard's tables come to, and where each of their values was given.

A key of a rung is looked up in the rung's own table, then in the individual config of its
position, then in the guard: the innermost table that has it wins.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from marginguard.config.guards import EscalationSettings, GuardSettings, IndividualSettings
from marginguard.config.models import ActionsSettings
from marginguard.config.problems import Loc
from marginguard.domain.budget import Budget
from marginguard.domain.model import ActionKind
from marginguard.domain.plans import LIFETIME, PlanLimits
from marginguard.domain.rules import Ladder, Rules, Rung, Step
from marginguard.domain.units import CROSS, Percent, PositionId, Sats

_AMOUNT_OR_TARGET = ("add_margin_amount", "target_margin_level")
_LadderTable = GuardSettings | IndividualSettings | EscalationSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class RungTables:
    """The tables that a rung's keys are looked up in, innermost first, each with the way to it."""

    tables: tuple[tuple[Loc, _LadderTable], ...]

    def loc(self, key: str) -> Loc:
        """Return the way to where `key` is given; in the guard, if it is given nowhere."""
        return (*self.tables[self.depth(key)][0], key)

    def value(self, key: str) -> Any:  # noqa: ANN401 - as the key's field says
        """Return what `key` is for this rung."""
        return getattr(self.tables[self.depth(key)][1], key)

    def depth(self, *keys: str) -> int:
        """Return which table gives the first of `keys`; the last one, if none does."""
        for depth, (_, table) in enumerate(self.tables):
            if not table.model_fields_set.isdisjoint(keys):
                return depth
        return len(self.tables) - 1

    @property
    def threshold(self) -> Percent:
        """The level at which the rung acts."""
        return Percent(self.value("margin_threshold"))

    @property
    def kinds(self) -> tuple[ActionKind, ...]:
        """The rung's action and its fallbacks, in order.

        Fallbacks from farther out than the action were written for another one: those that make
        no sense after it are left out.
        """
        action: ActionKind = self.value("action")
        fallback: tuple[ActionKind, ...] = self.value("fallback")
        if self.depth("fallback") > self.depth("action"):
            fallback = tuple(kind for kind in fallback if makes_sense(kind, after=(action,)))
        return (action, *fallback)

    @property
    def add_margin_amount(self) -> Sats | None:
        """The fixed amount to add; None where the margin is brought down to the target.

        Whichever of the two is given farther in replaces the other.
        """
        table = self.tables[self.depth(*_AMOUNT_OR_TARGET)][1]
        return None if table.add_margin_amount is None else Sats(table.add_margin_amount)

    def rung(self) -> Rung:
        """Return the rung as decisions need it."""
        return Rung(threshold=self.threshold, steps=tuple(map(self._step, self.kinds)))

    def _step(self, kind: ActionKind) -> Step:
        """Return a step that has the sizes of its own kind, and the defaults of the others."""
        if kind is ActionKind.REDUCE_POSITION:
            return Step(kind=kind, reduce_percentage=Percent(self.value("reduce_percentage")))
        if kind is ActionKind.ADD_MARGIN:
            return Step(
                kind=kind,
                add_margin_amount=self.add_margin_amount,
                target_margin_level=Percent(self.value("target_margin_level")),
            )
        if kind is ActionKind.INCREASE_LIQUIDATION_DISTANCE:
            distance = Percent(self.value("new_liquidation_distance"))
            return Step(kind=kind, new_liquidation_distance=distance)
        return Step(kind=kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class LadderTables:
    """The rungs over the positions of a guard, or over the one position `position_id`."""

    position_id: PositionId | None
    rungs: tuple[RungTables, ...]

    @property
    def backstop(self) -> Percent | None:
        """The level of the stop-loss; the exchange keeps none for the cross position."""
        level: float | None = self.rungs[0].value("backstop_threshold")
        return None if level is None or self.position_id == CROSS else Percent(level)

    def ladder(self) -> Ladder:
        """Return the ladder as decisions need it."""
        return Ladder(rungs=tuple(rung.rung() for rung in self.rungs), backstop=self.backstop)


def makes_sense(kind: ActionKind, *, after: tuple[ActionKind, ...]) -> bool:
    """Return whether to try `kind` when the actions before it could not be carried out.

    What was refused once is not tried again, and a reduction needs the same market order that
    closing was refused. Adding margin after that still buys time.
    """
    reducing = kind is ActionKind.REDUCE_POSITION
    return kind not in after and not (reducing and ActionKind.CLOSE_POSITION in after)


def ladders_of(guard: GuardSettings) -> Iterator[LadderTables]:
    """Yield the guard's ladder, then those of its individual configs."""
    yield _ladder(None, ((), guard))
    for position_id, individual in guard.individual_configs.items():
        way: Loc = ("individual_configs", position_id)
        yield _ladder(position_id, (way, individual), ((), guard))


def _ladder(
    position_id: PositionId | None, *tables: tuple[Loc, GuardSettings | IndividualSettings]
) -> LadderTables:
    lowest = RungTables(tables=tables)
    way, table = tables[lowest.depth("escalation")]
    higher = (
        RungTables(tables=(((*way, "escalation", index), rung), *tables))
        for index, rung in enumerate(table.escalation or ())
    )
    return LadderTables(position_id=position_id, rungs=(lowest, *higher))


def rules_of(guard: GuardSettings, actions: ActionsSettings, plan: PlanLimits = LIFETIME) -> Rules:
    """Return what the decisions of a guard depend on, on its user's plan."""
    common, *individual = ladders_of(guard)
    budget = guard.budget
    return Rules(
        guard_id=guard.id,
        ladder=common.ladder(),
        individual={
            tables.position_id: tables.ladder()
            for tables in individual
            if tables.position_id is not None
        },
        selected=guard.selected_positions,
        mode=guard.protection_mode,
        auto_execution=guard.auto_execution,
        hysteresis=Percent(guard.hysteresis),
        cooldown=guard.cooldown,
        budget=Budget(
            max_per_action=_sats(budget.max_per_action),
            max_per_position=_sats(budget.max_per_position),
            max_per_day=_sats(budget.max_per_day),
            reserve_balance=Sats(budget.reserve_balance),
            max_spending_actions_per_hour=budget.max_spending_actions_per_hour,
        ),
        reopen_slippage=Percent(actions.reopen_slippage),
        min_improvement=Percent(actions.min_improvement),
        max_positions=plan.max_positions,
    )


def _sats(amount: int | None) -> Sats | None:
    return None if amount is None else Sats(amount)
