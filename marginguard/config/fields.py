"""Kinds of values that the configuration holds: durations, numbers, secrets, addresses.

A value that does not fit raises `ValueError`, and the field's description tells the reader what
does; a fault that needs words of its own is a `PydanticCustomError` of type `TOLD`.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import durationpy
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo
from pydantic_core import PydanticCustomError

TOLD: Final = "told"
"""The type of an error whose message is fit for the reader as it is."""

DURATION: Final = 'a duration with a unit, such as "30s", "1.5m" or "250ms", above 0 and at most 7d'
LONGEST: Final = timedelta(days=7)
DEFAULT_STATE_DIRECTORY: Final = Path("/var/lib/marginguard")

_DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+")
_SECRET_BYTES: Final = 64 * 1024


def told(words: str) -> PydanticCustomError:
    """Return an error whose words reach the reader unchanged."""
    # The words go in as a value, since pydantic would read braces in a template.
    return PydanticCustomError(TOLD, "{words}", {"words": words})


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What the meaning of a value depends on besides the value itself.

    `mode` is the configuration file's permission bits. `warnings` gathers what is allowed but
    should be put right.
    """

    path: Path
    mode: int
    environ: Mapping[str, str]
    warnings: list[str] = field(default_factory=list)

    def locate(self, name: str) -> Path:
        """Return the path of a file named in the configuration, relative to it."""
        return self.path.absolute().parent / name


class FromEnvironment(str):
    """A value that came from an environment variable and not from the file."""

    __slots__ = ()


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise ValueError(DURATION)  # noqa: TRY004 - pydantic's protocol
    return duration_of(value)


def duration_of(text: str) -> timedelta:
    """Return the duration that `1h30m` stands for; raises `ValueError` where it stands for none."""
    # durationpy skips what it cannot read between two parts and takes "mm" for months, so the
    # shape is settled first.
    if not _DURATION.fullmatch(text):
        raise ValueError(DURATION)
    duration: timedelta = durationpy.from_str(text)
    if not timedelta(0) < duration <= LONGEST:
        raise ValueError(DURATION)
    return duration


def duration_text(duration: timedelta) -> str:
    """Return a duration as the file would have it: `1m30s`."""
    text: str = durationpy.to_str(duration)
    return text


Duration = Annotated[timedelta, BeforeValidator(_duration)]


def _not_a_switch(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("true and false are not numbers")  # noqa: TRY004 - pydantic's protocol
    return value


Number = Annotated[float, BeforeValidator(_not_a_switch), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_not_a_switch)]
Amount = Annotated[Whole, Field(ge=1, le=2_100_000_000_000_000)]
"""Sats, at most all that can ever exist."""


def _secret(value: Any, info: ValidationInfo) -> SecretStr:  # noqa: ANN401 - pydantic's protocol
    """Return the secret that `value` refers to, or is."""
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str):
        raise ValueError("a secret is a string")  # noqa: TRY004 - pydantic's protocol
    _check_text(value)
    if isinstance(info.context, Surroundings):
        value = _resolved(value, info.context)
        _check_text(value)
    return SecretStr(value)


def _check_text(value: str) -> None:
    if not value.strip():
        raise told("is empty")
    if not value.isprintable():
        raise told("must be a single line without control characters")


def _resolved(value: str, surroundings: Surroundings) -> str:
    scheme, _, name = value.partition(":")
    environ = surroundings.environ
    if scheme == "env":
        if name not in environ:
            raise told(f"the environment variable {name} is not set")
        return environ[name]
    if scheme == "file":
        return _from_file(surroundings.locate(name), surroundings)
    if scheme == "credential":
        if not (directory := environ.get("CREDENTIALS_DIRECTORY")):
            raise told(
                f"credential:{name} cannot be found, since $CREDENTIALS_DIRECTORY is not set:"
                " systemd sets it (LoadCredential= in the unit); by hand, set it to the"
                " directory of the file"
            )
        if Path(name).name != name:
            raise told(f"credential:{name} must be a name without slashes")
        return _from_file(Path(directory) / name, surroundings)
    _refuse_if_exposed(value, surroundings)
    return value


def _from_file(path: Path, surroundings: Surroundings) -> str:
    try:
        # A pipe or a device could hang the start or never end.
        if path.exists() and not path.is_file():
            raise told(f"{path} is not a file")
        with path.open("rb") as file:
            content = file.read(_SECRET_BYTES + 1)
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise told(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _SECRET_BYTES:
        raise told(f"{path} is too large to hold a secret")
    if mode & 0o004:
        surroundings.warnings.append(f"{path} holds a secret and everybody can read it")
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise told(f"{path} is not a text file") from None


def _refuse_if_exposed(value: str, surroundings: Surroundings) -> None:
    if isinstance(value, FromEnvironment) or not surroundings.mode & 0o044:
        return
    raise told(
        "is a secret written into a file that group or others can read"
        f" (mode {surroundings.mode & 0o777:04o}): run `chmod 600 {surroundings.path}`,"
        " or refer to it by env:NAME, file:PATH or credential:NAME"
    )


Secret = Annotated[SecretStr, BeforeValidator(_secret)]


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_address(value: str, *, encrypted: str, plain: str) -> None:
    """Raise `ValueError` unless `value` is a URL of the encrypted scheme, or loopback."""
    url = urlsplit(value)
    _ = url.port  # raises ValueError for an impossible one
    if not url.hostname or not value.isprintable() or " " in value:
        raise ValueError("no host")
    if url.scheme != encrypted and not (url.scheme == plain and is_loopback(url.hostname)):
        raise ValueError("the wrong scheme")


def _bare(value: str) -> str:
    url = urlsplit(value)
    if url.username is not None or url.query or url.fragment:
        raise ValueError("more than scheme, host, port and path")
    return value.rstrip("/")


def _rest_url(value: str) -> str:
    _check_address(value, encrypted="https", plain="http")
    value = _bare(value)
    if not value.endswith("/v3"):
        raise ValueError("not the address of the v3 API")
    return value


def _stream_url(value: str) -> str:
    _check_address(value, encrypted="wss", plain="ws")
    return _bare(value)


def _webhook_url(secret: SecretStr) -> SecretStr:
    _check_address(secret.get_secret_value(), encrypted="https", plain="http")
    return secret


def _database_url(secret: SecretStr) -> SecretStr:
    if urlsplit(secret.get_secret_value()).scheme not in {"postgresql", "postgres"}:
        raise ValueError("the wrong scheme")
    return secret


RestUrl = Annotated[str, AfterValidator(_rest_url)]
StreamUrl = Annotated[str, AfterValidator(_stream_url)]
WebhookUrl = Annotated[Secret, AfterValidator(_webhook_url)]
DatabaseUrl = Annotated[Secret, AfterValidator(_database_url)]


def _directory(value: object, info: ValidationInfo) -> object:
    """Return the state directory: as written, or systemd's, or the customary one."""
    if not isinstance(info.context, Surroundings):
        return DEFAULT_STATE_DIRECTORY if value is None else value
    if value is None:
        # systemd separates several directories by colons; the first is ours.
        value = info.context.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        return Path(value) if value else DEFAULT_STATE_DIRECTORY
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("not a path")
    return info.context.locate(value)


StateDirectory = Annotated[Path, BeforeValidator(_directory), Field(validate_default=True)]
