"""The tables of the configuration file but a guard's.

A field's description says what is allowed in it.
"""

import types
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from marginguard.config.fields import (
    DURATION,
    DatabaseUrl,
    Duration,
    Number,
    RestUrl,
    Secret,
    StateDirectory,
    StreamUrl,
    Whole,
    told,
)
from marginguard.config.notifications import NotificationsSettings
from marginguard.config.service import (
    HeartbeatSettings,
    HttpSettings,
    LoggingSettings,
    RetentionSettings,
)
from marginguard.config.table import NAME, NAMED, SECRET, Table
from marginguard.config.users import PlanSettings, UserSettings
from marginguard.domain.units import AccountId

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

_ATTEMPTS = "a whole number from 1 to 20"


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

    @property
    def look_counts_for(self) -> timedelta:
        """For how long a guard's look counts as the newest that there can be."""
        return max(3 * self.interval, self.blind_after)


class ExchangeSettings(Table):
    """`[exchange]`: how long to wait for it, and which of its prices to believe."""

    timeout: Duration = Field(timedelta(seconds=5), description=DURATION)
    max_jump: Number = Field(5.0, gt=0, lt=100, description="a percentage above 0 and below 100")
    stale_after: Duration = Field(timedelta(seconds=5), description=DURATION)
    rate_scale: Number = Field(1.0, ge=1, le=1000, description="a number from 1 to 1000")


class ActionsSettings(Table):
    """`[actions]`: how to repeat an action that has not worked yet, and how to prove it."""

    retry_attempts: Whole = Field(3, ge=1, le=20, description=_ATTEMPTS)
    base_delay: Duration = Field(timedelta(seconds=1), description=DURATION)
    max_delay: Duration = Field(timedelta(seconds=10), description=DURATION)
    settle_delay: Duration = Field(timedelta(seconds=2), description=DURATION)
    verify_within: Duration = Field(timedelta(seconds=10), description=DURATION)
    reopen_slippage: Number = Field(
        0.5, gt=0, le=10, description="a percentage above 0 and at most 10"
    )
    min_improvement: Number = Field(
        10.0, ge=0, lt=1000, description="a percentage from 0 to below 1000"
    )


class DatabaseSettings(Table):
    """`[database]`: an own PostgreSQL server; without `url` the embedded one is used."""

    url: DatabaseUrl | None = Field(
        None,
        description=f"postgresql://user:password@host:port/name, given as {SECRET}",
    )


class AccountSettings(Table):
    """`[[accounts]]`: credentials on the exchange, with its addresses.

    `rest_url` is always set after loading: `network` fills it in. So is `user`, where there is
    only one.
    """

    id: Annotated[AccountId, NAME] = Field(description=NAMED)
    user: str = Field("", description="the id of one of the users")
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
    key: Secret = Field(description=SECRET)
    secret: Secret = Field(description=SECRET)
    passphrase: Secret = Field(description=SECRET)

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
        description="tables, written [notifications.email] and so on",
    )
    http: HttpSettings = Field(default_factory=HttpSettings, description="a table, written [http]")
    heartbeat: HeartbeatSettings = Field(
        default_factory=HeartbeatSettings, description="a table, written [heartbeat]"
    )
    logging: LoggingSettings = Field(
        default_factory=LoggingSettings, description="a table, written [logging]"
    )
    retention: RetentionSettings = Field(
        default_factory=RetentionSettings, description="a table, written [retention]"
    )


class File(Sections):
    """The whole file. Its guards are read one by one, so that a fault in one stays there."""

    users: tuple[UserSettings, ...] = Field((), description="tables, written [[users]]")
    plans: Mapping[str, PlanSettings] = Field(
        default_factory=dict, description="tables, written [plans.<name>]"
    )
    accounts: tuple[AccountSettings, ...] = Field((), description="tables, written [[accounts]]")
    guards: tuple[Any, ...] = Field((), description="tables, written [[guards]]")
