"""The tables of the configuration file. A field's description says what is allowed in it."""

import types
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from marginguard.config.fields import (
    DURATION,
    Amount,
    DatabaseUrl,
    Duration,
    Number,
    RestUrl,
    Secret,
    StateDirectory,
    StreamUrl,
    WebhookUrl,
    Whole,
    told,
)
from marginguard.domain.budget import Budget
from marginguard.domain.model import ActionKind
from marginguard.domain.policy import Rules, Rung
from marginguard.domain.units import AccountId, GuardId, Percent, PositionId, Sats

NETWORKS: Final[Mapping[str, Mapping[str, str]]] = types.MappingProxyType(
    {
        "mainnet": {
            "rest_url": "https://api.lnmarkets.com/v3",
            "stream_url": "wss://stream.lnmarkets.com/v1",
        },
        "signet": {
            "rest_url": "https://api.signet.lnmarkets.com/v3",
            "stream_url": "wss://stream.signet.lnmarkets.com/v1",
        },
    }
)

_NAME = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
_NAMED = "a name of up to 64 letters, digits, dots, dashes and underscores"
_LEVEL = "a number above 0 and below 100 (percent of the margin used up)"
_SWITCH = "true or false"
_SATS = "a whole number of sats, 1 or more"
_ATTEMPTS = "a whole number from 1 to 20"
_SECRET = "env:NAME, file:PATH, credential:NAME or the value itself"  # noqa: S105 - a description
_ACTIONS = " or ".join(kind.value for kind in ActionKind)


class Table(BaseModel):
    """A table of the file: frozen, refusing unknown keys, silent about its values in errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class DaemonSettings(Table):
    """`[daemon]`: how often and how patiently to look."""

    interval: Duration = Field(timedelta(seconds=30), description=DURATION)
    max_concurrent: Whole = Field(10, ge=1, le=1000, description="a whole number from 1 to 1000")
    timeout: Duration = Field(timedelta(seconds=30), description=DURATION)
    retry_attempts: Whole = Field(3, ge=1, le=20, description=_ATTEMPTS)
    retry_delay: Duration = Field(timedelta(seconds=5), description=DURATION)
    blind_after: Duration = Field(timedelta(seconds=60), description=DURATION)
    state_dir: StateDirectory = Field(
        None,  # type: ignore[assignment]  # the validator finds the default in the environment
        description="the path of a directory",
    )


class ExchangeSettings(Table):
    """`[exchange]`: how long to wait for it, and which of its prices to believe."""

    timeout: Duration = Field(timedelta(seconds=5), description=DURATION)
    max_jump: Number = Field(5.0, gt=0, lt=100, description="a percentage above 0 and below 100")
    stale_after: Duration = Field(timedelta(seconds=5), description=DURATION)
    rate_scale: Number = Field(1.0, ge=1, le=1000, description="a number from 1 to 1000")


class ActionsSettings(Table):
    """`[actions]`: how to repeat an action that has not worked yet, and when to prove it."""

    retry_attempts: Whole = Field(3, ge=1, le=20, description=_ATTEMPTS)
    base_delay: Duration = Field(timedelta(seconds=1), description=DURATION)
    max_delay: Duration = Field(timedelta(seconds=10), description=DURATION)
    settle_delay: Duration = Field(timedelta(seconds=2), description=DURATION)


class DatabaseSettings(Table):
    """`[database]`: an own PostgreSQL server; without `url` the embedded one is used."""

    url: DatabaseUrl | None = Field(
        None,
        description=f"postgresql://user:password@host:port/name, given as {_SECRET}",
    )


class WebhookSettings(Table):
    """`[notifications.webhook]`: where to tell what happened; without `url` nobody is told."""

    url: WebhookUrl | None = Field(
        None,
        description=f"an https:// address (http:// on this machine alone), given as {_SECRET}",
    )


class NotificationsSettings(Table):
    """`[notifications]`: how the owner is told."""

    webhook: WebhookSettings = Field(
        WebhookSettings(), description="a table, written [notifications.webhook]"
    )


class AccountSettings(Table):
    """`[[accounts]]`: credentials on the exchange, with its addresses.

    `rest_url` is always set after loading: `network` fills it in.
    """

    id: Annotated[AccountId, _NAME] = Field(description=_NAMED)
    network: Literal["mainnet", "signet"] | None = Field(None, description='"mainnet" or "signet"')
    rest_url: RestUrl = Field(
        "",
        description="an https:// address that ends in /v3 (http:// on this machine alone),"
        " without user name or query",
    )
    stream_url: StreamUrl | None = Field(
        None,
        description="a wss:// address (ws:// on this machine alone), without user name or query",
    )
    key: Secret = Field(description=_SECRET)
    secret: Secret = Field(description=_SECRET)
    passphrase: Secret = Field(description=_SECRET)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_addresses(cls, data: Any) -> Any:  # noqa: ANN401 - pydantic's protocol
        if not isinstance(data, dict):
            return data
        network = data.get("network")
        known = NETWORKS.get(network, {}) if isinstance(network, str) else {}
        return {**known, **data}

    @model_validator(mode="after")
    def _one_exchange(self) -> Self:
        if self.network is None and not self.rest_url:
            raise told('give network ("mainnet" or "signet") or rest_url')
        if self.network is not None and NETWORKS[self.network] != {
            "rest_url": self.rest_url,
            "stream_url": self.stream_url,
        }:
            raise told("give either network or rest_url (with stream_url), not both")
        return self


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


class GuardSettings(Table):
    """`[[guards]]`: a threshold and an action over the positions of one account.

    `selected_positions` is None for "all".
    """

    id: Annotated[GuardId, _NAME] = Field(description=_NAMED)
    account: AccountId = Field(description="the id of one of the accounts")
    margin_threshold: Number = Field(gt=0, lt=100, description=_LEVEL)
    action: ActionKind = Field(description=_ACTIONS)
    enabled: bool = Field(default=True, description=_SWITCH)
    auto_execution: bool = Field(default=True, description=_SWITCH)
    dry_run: bool = Field(default=False, description=_SWITCH)
    selected_positions: Annotated[frozenset[PositionId] | None, BeforeValidator(_selection)] = (
        Field(None, description='"all" or a list of position ids with at least one in it')
    )
    real_time_monitoring: bool = Field(default=True, description=_SWITCH)
    add_margin_amount: Amount | None = Field(None, description=_SATS)
    target_margin_level: Number = Field(50.0, gt=0, lt=100, description=_LEVEL)
    cooldown: Duration = Field(timedelta(seconds=60), description=DURATION)
    hysteresis: Number = Field(5.0, ge=0, lt=100, description="a number from 0 to below 100")
    budget: BudgetSettings = Field(
        BudgetSettings(), description="a table, written [guards.budget] below its guard"
    )

    def rules(self) -> Rules:
        """Return what the decisions depend on."""
        return Rules(
            guard_id=self.id,
            rung=Rung(
                threshold=Percent(self.margin_threshold),
                action=self.action,
                add_margin_amount=_sats(self.add_margin_amount),
                target_margin_level=Percent(self.target_margin_level),
            ),
            selected=self.selected_positions,
            auto_execution=self.auto_execution,
            hysteresis=Percent(self.hysteresis),
            cooldown=self.cooldown,
            budget=Budget(
                max_per_action=_sats(self.budget.max_per_action),
                max_per_position=_sats(self.budget.max_per_position),
                max_per_day=_sats(self.budget.max_per_day),
                reserve_balance=Sats(self.budget.reserve_balance),
                max_spending_actions_per_hour=self.budget.max_spending_actions_per_hour,
            ),
        )


def _sats(amount: int | None) -> Sats | None:
    return None if amount is None else Sats(amount)


class Sections(Table):
    """The tables that stand once in the file; the environment can override their values."""

    daemon: DaemonSettings = Field(
        default_factory=DaemonSettings, description="a table, written [daemon]"
    )
    exchange: ExchangeSettings = Field(
        default_factory=ExchangeSettings, description="a table, written [exchange]"
    )
    actions: ActionsSettings = Field(
        default_factory=ActionsSettings, description="a table, written [actions]"
    )
    database: DatabaseSettings = Field(
        default_factory=DatabaseSettings, description="a table, written [database]"
    )
    notifications: NotificationsSettings = Field(
        default_factory=NotificationsSettings,
        description="a table, written [notifications.webhook]",
    )


class File(Sections):
    """The whole file. Its guards are read one by one, so that a fault in one stays there."""

    accounts: tuple[AccountSettings, ...] = Field((), description="tables, written [[accounts]]")
    guards: tuple[Any, ...] = Field((), description="tables, written [[guards]]")
