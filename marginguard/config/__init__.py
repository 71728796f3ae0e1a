"""The configuration: one TOML file, single values overridden by the environment."""

from marginguard.config.load import Config, RefusedGuard, load_config
from marginguard.config.models import (
    AccountSettings,
    ActionsSettings,
    BudgetSettings,
    DaemonSettings,
    DatabaseSettings,
    ExchangeSettings,
    GuardSettings,
    NotificationsSettings,
    WebhookSettings,
)

__all__ = [
    "AccountSettings",
    "ActionsSettings",
    "BudgetSettings",
    "Config",
    "DaemonSettings",
    "DatabaseSettings",
    "ExchangeSettings",
    "GuardSettings",
    "NotificationsSettings",
    "RefusedGuard",
    "WebhookSettings",
    "load_config",
]
