"""The tables of a guard. What a rung does not say its position's table does, or the guard."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from marginguard.config.fields import DURATION, Amount, Duration, Number, Whole
from marginguard.config.notifications import GuardNotifications
from marginguard.config.table import NAME, NAMED, Table
from marginguard.domain.model import ActionKind
from marginguard.domain.rules import ProtectionMode
from marginguard.domain.units import AccountId, GuardId, PositionId

_KINDS = [kind.value for kind in ActionKind if kind.protects]
_ACTION = f"{', '.join(_KINDS[:-1])} or {_KINDS[-1]}"
_FALLBACK = f"a list of actions ({', '.join(_KINDS)})"
_LEVEL = "a number above 0 and below 100 (percent of the margin used up)"
_SHARE = "a number above 0 and below 100 (percent of the quantity)"
_DISTANCE = "a number above 0 and below 100 (percent of the price)"
_SATS = "a whole number of sats, 1 or more"
_SWITCH = "true or false"
_ESCALATION = "tables, written [[guards.escalation]] below their guard"


def _asked_for(kind: ActionKind) -> ActionKind:
    if not kind.protects:
        raise ValueError("not an action to ask for")
    return kind


def _selection(value: object) -> object:
    if value == "all":
        return None
    if (
        not isinstance(value, list)
        or not value
        # A list that holds "all" would guard nothing but a position of that name.
        or any(not isinstance(item, str) or not item.strip() or item == "all" for item in value)
    ):
        raise ValueError("not a selection")
    return value


Action = Annotated[ActionKind, AfterValidator(_asked_for)]
Inner = Annotated[Number, Field(gt=0, lt=100)]
"""A percentage of which neither nothing nor all makes sense."""


class BudgetSettings(Table):
    """`[guards.budget]`: bounds on what a guard spends. Closing is never limited."""

    max_per_action: Amount | None = Field(None, description=_SATS)
    max_per_position: Amount | None = Field(None, description=_SATS)
    max_per_day: Amount | None = Field(None, description=_SATS)
    reserve_balance: Annotated[Whole, Field(ge=0, le=2_100_000_000_000_000)] = Field(
        0, description="a whole number of sats, 0 or more"
    )
    max_spending_actions_per_hour: Whole = Field(
        6, ge=1, le=1000, description="a whole number from 1 to 1000"
    )


class EscalationSettings(Table):
    """`[[guards.escalation]]`: a further rung."""

    margin_threshold: Inner = Field(description=_LEVEL)
    action: Action | None = Field(None, description=_ACTION)
    fallback: tuple[Action, ...] | None = Field(None, description=_FALLBACK)
    reduce_percentage: Inner | None = Field(None, description=_SHARE)
    add_margin_amount: Amount | None = Field(None, description=_SATS)
    target_margin_level: Inner | None = Field(None, description=_LEVEL)
    new_liquidation_distance: Inner | None = Field(None, description=_DISTANCE)


class IndividualSettings(Table):
    """`[guards.individual_configs."<position id>"]`: what differs for one position."""

    margin_threshold: Inner | None = Field(None, description=_LEVEL)
    action: Action | None = Field(None, description=_ACTION)
    fallback: tuple[Action, ...] | None = Field(None, description=_FALLBACK)
    reduce_percentage: Inner | None = Field(None, description=_SHARE)
    add_margin_amount: Amount | None = Field(None, description=_SATS)
    target_margin_level: Inner | None = Field(None, description=_LEVEL)
    new_liquidation_distance: Inner | None = Field(None, description=_DISTANCE)
    backstop_threshold: Inner | None = Field(None, description=_LEVEL)
    escalation: tuple[EscalationSettings, ...] | None = Field(
        None,
        description='tables, written [[guards.individual_configs."<position id>".escalation]],'
        " or [] for none",
    )


class GuardSettings(Table):
    """`[[guards]]`: thresholds and actions over the positions of one account.

    `selected_positions` is None for "all".
    """

    id: Annotated[GuardId, NAME] = Field(description=NAMED)
    account: AccountId = Field(description="the id of one of the accounts")
    margin_threshold: Inner = Field(description=_LEVEL)
    action: Action = Field(description=_ACTION)
    fallback: tuple[Action, ...] = Field((), description=_FALLBACK)
    enabled: bool = Field(default=True, description=_SWITCH)
    auto_execution: bool = Field(default=True, description=_SWITCH)
    dry_run: bool = Field(default=False, description=_SWITCH)
    selected_positions: Annotated[frozenset[PositionId] | None, BeforeValidator(_selection)] = (
        Field(None, description='"all" or a list of position ids with at least one in it')
    )
    protection_mode: ProtectionMode = Field(
        ProtectionMode.UNITARIO,
        description=" or ".join(f'"{mode.value}"' for mode in ProtectionMode),
    )
    real_time_monitoring: bool = Field(default=True, description=_SWITCH)
    reduce_percentage: Inner = Field(50.0, description=_SHARE)
    add_margin_amount: Amount | None = Field(None, description=_SATS)
    target_margin_level: Inner = Field(50.0, description=_LEVEL)
    new_liquidation_distance: Inner | None = Field(None, description=_DISTANCE)
    backstop_threshold: Inner | None = Field(None, description=_LEVEL)
    cooldown: Duration = Field(timedelta(seconds=60), description=DURATION)
    hysteresis: Number = Field(5.0, ge=0, lt=100, description="a number from 0 to below 100")
    budget: BudgetSettings = Field(
        BudgetSettings(), description="a table, written [guards.budget] below its guard"
    )
    notifications: GuardNotifications | None = Field(
        None, description="a table, written [guards.notifications] below its guard"
    )
    escalation: tuple[EscalationSettings, ...] = Field((), description=_ESCALATION)
    individual_configs: Mapping[PositionId, IndividualSettings] = Field(
        default_factory=dict,
        description='tables, written [guards.individual_configs."<position id>"] below their guard',
    )
