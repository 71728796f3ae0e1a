"""The configuration: one TOML file, single values overridden by the environment."""

from marginguard.config.guards import BudgetSettings, GuardSettings
from marginguard.config.ladders import rules_of
from marginguard.config.load import Config, RefusedGuard, load_config
from marginguard.config.models import (
    AccountSettings,
    ActionsSettings,
    DaemonSettings,
    DatabaseSettings,
    ExchangeSettings,
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
    "rules_of",
]
