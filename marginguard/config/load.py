"""Reading the configuration: file, environment, validation, and what to say of faults."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from marginguard.config.consistency import file_faults
from marginguard.config.fields import FromEnvironment, StateDirectory, Surroundings
from marginguard.config.guards import GuardSettings
from marginguard.config.models import (
    AccountSettings,
    ActionsSettings,
    DaemonSettings,
    DatabaseSettings,
    ExchangeSettings,
    File,
    Sections,
)
from marginguard.config.notifications import NotificationsSettings
from marginguard.config.problems import (
    ENVIRONMENT_PREFIX,
    NESTED,
    Document,
    faults_of,
)
from marginguard.config.service import (
    HeartbeatSettings,
    HttpSettings,
    LoggingSettings,
    RetentionSettings,
)
from marginguard.config.sorting import RefusedGuard, Terms, sort_guards
from marginguard.config.users import OWNER, UserSettings, plans_of
from marginguard.domain.errors import ConfigError
from marginguard.domain.plans import PlanLimits
from marginguard.domain.units import AccountId


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A configuration that can be run. `warnings` are faults that it can be run in spite of.

    There is always a user; `owners` says whose an account is, and `plans` has every plan there is
    by its name.
    """

    path: Path
    daemon: DaemonSettings
    exchange: ExchangeSettings
    actions: ActionsSettings
    database: DatabaseSettings
    notifications: NotificationsSettings
    http: HttpSettings
    heartbeat: HeartbeatSettings
    logging: LoggingSettings
    retention: RetentionSettings
    users: tuple[UserSettings, ...]
    owners: Mapping[AccountId, UserSettings]
    plans: Mapping[str, PlanLimits]
    accounts: tuple[AccountSettings, ...]
    guards: tuple[GuardSettings, ...]
    refused_guards: tuple[RefusedGuard, ...]
    warnings: tuple[str, ...]

    def plan_of(self, account_id: AccountId) -> PlanLimits:
        """Return what the plan of an account's owner allows.

        Raises `KeyError` if there is no such account.
        """
        return self.plans[self.owners[account_id].plan]

    def terms(self) -> Terms:
        """Return what a guard of this file is held against."""
        return Terms(
            actions=self.actions,
            account_plans={account.id: self.plan_of(account.id) for account in self.accounts},
            plans=self.plans,
        )

    def secret_values(self) -> frozenset[str]:
        """Return everything that must never be printed, for the log's redaction."""
        secrets: set[str] = set()
        for account in self.accounts:
            for secret in (account.key, account.secret, account.passphrase):
                secrets.add(secret.get_secret_value())
        secrets |= {secret.get_secret_value() for secret in self.notifications.secrets()}
        webhooks = (user.webhook_url for user in self.users)
        for url in (
            self.database.url,
            self.notifications.webhook.url,
            self.notifications.sms.url,
            self.heartbeat.url,
            *webhooks,
        ):
            if url is not None:
                secrets.update(_secret_parts(url))
        return frozenset(secrets)


def _secret_parts(url: SecretStr) -> Iterator[str]:
    """Yield a URL, and what of it is secret on its own: its password, and a long path."""
    value = url.get_secret_value()
    parts = urlsplit(value)
    yield value
    if parts.password:
        yield parts.password
        yield unquote(parts.password)
    if parts.scheme in {"http", "https"}:
        for part in (*parts.path.split("/"), parts.query):
            if len(part) >= 16:  # shorter ones are words, not tokens
                yield part


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """Read the configuration at `path`, its values overridden by those in `environ`.

    A fault in one guard refuses that guard alone (`Config.refused_guards`). Raises `ConfigError`
    with a line for each fault of everything else.
    """
    text, mode = _read(path)
    data = _parse(path, text)
    data = _overridden(data, _from_environment(environ))
    data.setdefault("daemon", {})  # its state_dir is found in the environment
    surroundings = Surroundings(path=path, mode=mode, environ=environ)
    try:
        file = File.model_validate(data, context=surroundings)
    except ValidationError as error:
        document = Document(path=path, data=data)
        # Not chained: pydantic's error carries the values, secrets among them.
        raise ConfigError(*map(document.line, faults_of(error, File))) from None
    document = Document(path=path, data=data, model=file)
    if problems := tuple(map(document.line, file_faults(file))):
        raise ConfigError(*problems)
    users = file.users or (UserSettings(id=OWNER),)
    accounts = tuple(_owned(account, users[0]) for account in file.accounts)
    by_id = {user.id: user for user in users}
    config = Config(
        path=path,
        daemon=file.daemon,
        exchange=file.exchange,
        actions=file.actions,
        database=file.database,
        notifications=file.notifications,
        http=file.http,
        heartbeat=file.heartbeat,
        logging=file.logging,
        retention=file.retention,
        users=users,
        owners={account.id: by_id[account.user] for account in accounts},
        plans=plans_of(file.plans),
        accounts=accounts,
        guards=(),
        refused_guards=(),
        warnings=tuple(dict.fromkeys(surroundings.warnings)),
    )
    guards, refused = sort_guards(path, file.guards, config.terms())
    return replace(config, guards=guards, refused_guards=refused)


class _Daemon(BaseModel):
    model_config = ConfigDict(frozen=True)

    state_dir: StateDirectory = Field(
        None,  # type: ignore[assignment]  # as in DaemonSettings
        description="the path of a directory",
    )


class _Place(BaseModel):
    """Where a daemon keeps its things, and nothing else of a file."""

    model_config = ConfigDict(frozen=True)

    daemon: _Daemon = Field(description="a table")


def state_dir_of(path: Path, environ: Mapping[str, str]) -> Path:
    """Return `[daemon] state_dir` of the configuration at `path`, whatever else is wrong with it.

    For speaking to a daemon that runs by an earlier version of the file. Raises `ConfigError`.
    """
    text, mode = _read(path)
    data = _overridden(_parse(path, text), _from_environment(environ))
    data.setdefault("daemon", {})
    surroundings = Surroundings(path=path, mode=mode, environ=environ)
    try:
        return _Place.model_validate(data, context=surroundings).daemon.state_dir
    except ValidationError as error:
        document = Document(path=path, data=data)
        raise ConfigError(*map(document.line, faults_of(error, _Place))) from None


def _owned(account: AccountSettings, only: UserSettings) -> AccountSettings:
    """Return an account that has a user; where it names none there is only one."""
    return account if account.user else account.model_copy(update={"user": only.id})


def _read(path: Path) -> tuple[str, int]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            # Some editors begin a file with a byte order mark, which TOML does not know.
            return file.read().decode("utf-8-sig"), mode
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}): name the file with --config FILE or"
            " MARGINGUARD_CONFIG; config.example.toml is a start for a new one"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8 text") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: is not valid TOML: nested too deeply") from None


class _Environment(Sections, BaseSettings):
    """Tells pydantic-settings which names to look for; never instantiated."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter=NESTED, enable_decoding=False
    )


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that variables such as MARGINGUARD_DAEMON__INTERVAL give.

    A variable that does not begin with a table's name is somebody else's, perhaps a secret that
    the file refers to by `env:`.
    """
    source = EnvSettingsSource(_Environment)
    source.env_vars = {
        name.lower(): FromEnvironment(value)
        for name, value in environ.items()
        if name.startswith(ENVIRONMENT_PREFIX) and NESTED in name
    }
    values: dict[str, Any] = source()
    return values


def _overridden(data: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `data` with `values` in the place of its own, table by table."""
    merged = dict(data)
    for key, value in values.items():
        old = merged.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            merged[key] = _overridden(old, value)
        elif isinstance(value, dict) and old is not None:
            pass  # the file has something else than a table there: let validation say so
        else:
            merged[key] = value
    return merged
