"""The configuration: one TOML file, single values overridden by the environment."""

from marginguard.config.guards import BudgetSettings, GuardSettings
from marginguard.config.ladders import rules_of
from marginguard.config.load import Config, load_config, state_dir_of
from marginguard.config.models import (
    AccountSettings,
    ActionsSettings,
    DaemonSettings,
    DatabaseSettings,
    ExchangeSettings,
)
from marginguard.config.notifications import NotificationsSettings, WebhookSettings
from marginguard.config.sorting import RefusedGuard
from marginguard.config.users import OWNER, PlanSettings, UserSettings

__all__ = [
    "OWNER",
    "AccountSettings",
    "ActionsSettings",
    "BudgetSettings",
    "Config",
    "DaemonSettings",
    "DatabaseSettings",
    "ExchangeSettings",
    "GuardSettings",
    "NotificationsSettings",
    "PlanSettings",
    "RefusedGuard",
    "UserSettings",
    "WebhookSettings",
    "load_config",
    "rules_of",
    "state_dir_of",
]
