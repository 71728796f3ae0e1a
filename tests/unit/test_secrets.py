"""Where a secret may come from, and that it never comes out again (Failure 36)."""

import os
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from marginguard.config import AccountSettings, Config, load_config
from marginguard.domain.errors import ConfigError

CANARY = "canary-4f1d9b"

TEMPLATE = """
[[accounts]]
id = "main"
network = "signet"
key = "env:OTHER"
secret = "{}"
passphrase = "env:OTHER"
"""


def load(tmp_path: Path, secret: str, mode: int = 0o600, **environ: str) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(TEMPLATE.format(secret))
    path.chmod(mode)
    return load_config(path, {"OTHER": "other", **environ})


def secret_of(config: Config) -> str:
    return config.accounts[0].secret.get_secret_value()


def problem(tmp_path: Path, secret: str, mode: int = 0o600, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, secret, mode, **environ)
    (line,) = caught.value.problems
    prefix = f'{tmp_path / "config.toml"}: accounts[1] "main".secret: '
    assert line.startswith(prefix)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return line.removeprefix(prefix)


def test_a_secret_is_found_in_the_environment(tmp_path: Path) -> None:
    assert secret_of(load(tmp_path, "env:MINE", MINE=CANARY)) == CANARY


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_secret_is_found_in_a_file_beside_the_configuration(tmp_path: Path, ending: str) -> None:
    (tmp_path / "mine").write_bytes(f"{CANARY}{ending}".encode())
    assert secret_of(load(tmp_path, "file:mine")) == CANARY
    assert secret_of(load(tmp_path, f"file:{tmp_path}/mine")) == CANARY


def test_a_secret_is_found_among_systemds_credentials(tmp_path: Path) -> None:
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / "mine").write_text(f"{CANARY}\n")
    config = load(tmp_path, "credential:mine", CREDENTIALS_DIRECTORY=str(directory))
    assert secret_of(config) == CANARY


def test_a_secret_may_stand_in_a_private_file(tmp_path: Path) -> None:
    assert secret_of(load(tmp_path, CANARY)) == CANARY


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_secret_in_a_file_that_others_read_is_refused(tmp_path: Path, mode: int) -> None:
    words = problem(tmp_path, CANARY, mode)
    assert f"(mode {mode:04o}): run `chmod 600 {tmp_path / 'config.toml'}`" in words


def test_a_reference_may_stand_in_a_file_that_others_read(tmp_path: Path) -> None:
    assert secret_of(load(tmp_path, "env:MINE", 0o644, MINE=CANARY)) == CANARY


def test_a_secret_given_by_the_environment_is_not_written_into_the_file(tmp_path: Path) -> None:
    url = f"postgresql://me:{CANARY}@localhost/db"
    config = load(tmp_path, "env:OTHER", 0o644, MARGINGUARD_DATABASE__URL=url)
    assert config.database.url is not None
    assert config.database.url.get_secret_value() == url


def test_a_secret_file_that_everybody_reads_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "mine"
    file.write_text(CANARY)
    file.chmod(0o644)
    (words,) = load(tmp_path, "file:mine").warnings
    assert words == f"{file} holds a secret and everybody can read it"
    file.chmod(0o640)
    assert load(tmp_path, "file:mine").warnings == ()


def test_a_secret_that_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "lines").write_text(f"{CANARY}\nmore\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_text("x" * 70_000)
    os.mkfifo(tmp_path / "pipe")
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert problem(tmp_path, "env:NONE") == "the environment variable NONE is not set"
    assert problem(tmp_path, "env:NONE", NONE="") == "is empty"
    assert problem(tmp_path, "") == "is empty"
    assert problem(tmp_path, "file:none") == (
        f"{tmp_path}/none cannot be read: No such file or directory"
    )
    assert "cannot be read: File name too long" in problem(tmp_path, f"file:{'x' * 300}")
    assert problem(tmp_path, r"file:a\u0000b") == "must be a single line without control characters"
    assert problem(tmp_path, "file:.") == f"{tmp_path} is not a file"
    assert problem(tmp_path, "file:pipe") == f"{tmp_path}/pipe is not a file"
    assert problem(tmp_path, "file:empty") == "is empty"
    assert problem(tmp_path, "file:lines") == "must be a single line without control characters"
    assert problem(tmp_path, "file:binary") == f"{tmp_path}/binary is not a text file"
    assert problem(tmp_path, "file:large") == f"{tmp_path}/large is too large to hold a secret"
    assert "$CREDENTIALS_DIRECTORY is not set" in problem(tmp_path, "credential:mine")
    assert "must be a name without slashes" in problem(tmp_path, "credential:../x", **credentials)
    assert "cannot be read" in problem(tmp_path, "credential:none", **credentials)


@pytest.mark.parametrize(
    "text",
    [
        f'[database]\nurl = "mysql://me:{CANARY}@localhost/db"',
        f'[notifications.webhook]\nurl = "http://example.com/{CANARY}"',
        f'[notifications.webhook]\nurl = "https://{CANARY}:x/"',
        f'[notifications]\nwebhook = "https://example.com/{CANARY}"',
        f'database = "postgresql://me:{CANARY}@localhost/db"',
        f'webhook = "{CANARY}"',
        f'[[accounts]]\nid = "a"\nsecrte = "{CANARY}"',
        f'[[accounts]]\nid = "a"\nkey = ["{CANARY}"]',
        f'[[accounts]]\nid = {{ secret = "{CANARY}" }}',
        f'[[accounts]]\nid = "a"\nrest_url = "https://me:{CANARY}@example.com/v3"',
        f'accounts = "{CANARY}"',
        f'guards = "{CANARY}"',
        f'[accounts.main]\nsecret = "{CANARY}"',
        f'secret = "{CANARY}',
    ],
)
def test_no_fault_shows_what_may_be_a_secret(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_refused_guard_does_not_show_what_may_be_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[[guards]]\nid = "g"\naccount = {{ key = "{CANARY}" }}\nkey = "{CANARY}"')
    assert CANARY not in repr(load_config(path, {}).refused_guards)


def test_a_webhook_is_encrypted_or_on_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    for url in ("https://example.com/x?token=y", "http://127.0.0.1:8080/x", "http://[::1]/x"):
        path.write_text("")
        config = load_config(path, {"MARGINGUARD_NOTIFICATIONS__WEBHOOK__URL": url})
        assert config.notifications.webhook.url is not None
        assert config.notifications.webhook.url.get_secret_value() == url


def test_a_configuration_does_not_print_its_secrets(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        CANARY,
        MARGINGUARD_DATABASE__URL=f"postgresql://me:{CANARY}@localhost/db",
        MARGINGUARD_NOTIFICATIONS__WEBHOOK__URL=f"https://example.com/{CANARY}",
    )
    assert CANARY not in repr(config)
    assert CANARY not in str(config)
    assert CANARY not in config.accounts[0].model_dump_json()


def test_a_models_own_error_does_not_print_secrets() -> None:
    with pytest.raises(ValidationError) as caught:
        AccountSettings.model_validate({"id": "a", "secret": CANARY, "secrte": CANARY})
    assert CANARY not in str(caught.value)


def test_everything_secret_is_known_to_the_redaction(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        CANARY,
        MARGINGUARD_DATABASE__URL="postgresql://me:p%40ss-word@localhost/db",
        MARGINGUARD_NOTIFICATIONS__WEBHOOK__URL="https://example.com/hooks/a-very-long-token-x?k=v",
    )
    assert config.secret_values() == {
        CANARY,
        "other",
        "postgresql://me:p%40ss-word@localhost/db",
        "p%40ss-word",
        "p@ss-word",
        "https://example.com/hooks/a-very-long-token-x?k=v",
        "a-very-long-token-x",
    }
