"""The tables about the daemon as a service: how it is watched, logs, and keeps its records."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from marginguard.config.fields import DURATION, Duration, WebhookUrl, Whole
from marginguard.config.table import SECRET, Table
from marginguard.listen import ListenAddress

_DAYS = "a whole number of days, 1 or more"


def _address(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return ListenAddress.parse(value) if isinstance(value, str) else value


class HttpSettings(Table):
    """`[http]`: health checks and metrics; without `listen` nothing listens."""

    listen: Annotated[ListenAddress, BeforeValidator(_address)] | None = Field(
        None, description='a port ("9464", on this machine alone) or "HOST:PORT"'
    )


class HeartbeatSettings(Table):
    """`[heartbeat]`: a URL that is pinged while the daemon guards."""

    url: WebhookUrl | None = Field(
        None,
        description=f"an https:// address (http:// on this machine alone), given as {SECRET}",
    )
    interval: Duration = Field(timedelta(seconds=60), description=DURATION)


class LoggingSettings(Table):
    """`[logging]`: how much is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description='"debug", "info", "warning" or "error"'
    )
    format: Literal["auto", "console", "json"] = Field(
        "auto", description='"auto", "console" or "json"'
    )


class RetentionSettings(Table):
    """`[retention]`: how long records are kept in the database."""

    days: Whole = Field(90, ge=1, le=36_500, description=_DAYS)
    failure_days: Whole = Field(365, ge=1, le=36_500, description=_DAYS)
