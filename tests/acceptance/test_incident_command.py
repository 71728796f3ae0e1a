"""`marginguard incident`: an archive with what a report needs, and nothing secret."""

import os
import stat
import subprocess
import sys
import tarfile
from datetime import UTC, datetime

import pytest

from marginguard.diagnose.incident import Incident, Part, redacted
from marginguard.diagnose.incident_config import secrets_in, without_secrets
from marginguard.storage.link import DatabaseLink
from marginguard.storage.records import apply
from tests.records import a_command, a_guard_state, an_action

CANARY = "canary-7f3a91c0"

CONFIG = """
# an old one: {c}-comment
[daemon]
state_dir = "{state}"
{database}
[heartbeat]
url = "https://example.com/{c}-heartbeat"
[notifications.webhook]
url = "https://example.com/{c}-hook"
secret = "{c}-signing"
[notifications.telegram]
token = "123456:{c}-token"
commands = true
command_chats = [7712345001, -7712345002]
[notifications.email]
host = "mail.example.com"
sender = "guard@example.com"
username = "guard@example.com"
password = "file:password"
[notifications.sms]
provider = "gateway"
url = "https://example.com/{c}-gateway"
headers = {{ Authorization = "Bearer {c}-bearer" }}
[[users]]
id = "ana"
email = "{c}@example.com"
telegram_chat_id = 7712345001
phone = "+34600111222"
webhook_url = "https://example.com/{c}-own-hook"
[[accounts]]
id = "main"
network = "signet"
key = "{c}-key"
secret = "env:LNM_SECRET"
passphrase = "{c}-passphrase"
[[guards]]
id = "long"
account = "main"
margin_threshold = 80
action = "close_position"
"""
# A daemon that let a secret slip into its log, and into a record.
LEAK = f"leak key={CANARY}-key secret={CANARY}-env mail={CANARY}@example.com p={CANARY}-password"


@pytest.fixture
def bin_dir(tmp_path):
    """A directory with a journalctl that knows a log with secrets in it."""
    directory = tmp_path / "bin"
    directory.mkdir()
    command = directory / "journalctl"
    command.write_text(f'#!/bin/sh\necho "asked $*"\necho "{LEAK}"\n')
    command.chmod(0o755)
    return directory


def packed(tmp_path, bin_dir, *arguments, text):
    """Write the configuration, make the archive, and return its files by name."""
    (tmp_path / "password").write_text(f"{CANARY}-password")
    (tmp_path / "password").chmod(0o600)
    config = tmp_path / "config.toml"
    config.touch(mode=0o600)
    config.write_text(text)
    archive = tmp_path / "incident.tar.gz"
    command = [sys.executable, "-m", "marginguard", "incident", "--config", str(config)]
    result = subprocess.run(
        [*command, "-o", str(archive), *arguments],
        env=os.environ | {"PATH": f"{bin_dir}:{os.environ['PATH']}", "LNM_SECRET": f"{CANARY}-env"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert CANARY not in result.stdout + result.stderr
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    with tarfile.open(archive) as opened:
        return {
            member.name.partition("/")[2]: opened.extractfile(member).read().decode()
            for member in opened.getmembers()
        }


async def test_nothing_secret_or_personal_is_in_the_archive(tmp_path, bin_dir, database_url):
    link = DatabaseLink(database_url)
    pool = await link.connect()
    now = datetime.now(UTC)
    action = an_action(intended_at=now, error=LEAK)
    asked = a_command(at=now, by="telegram chat 7712345003, user 4711", answer=LEAK)
    await apply(pool, [a_guard_state(since=now, updated_at=now), action, asked])
    await link.close(timeout_s=10.0)
    database = f'[database]\nurl = "{database_url}"'
    text = CONFIG.format(c=CANARY, state=tmp_path / "state", database=database)
    files = packed(tmp_path, bin_dir, "--since", "3h", text=text)
    for name, content in files.items():
        for secret in (CANARY, "771234500", "+34600111222", database_url):
            assert secret not in content, f"{secret} is in {name}"
    assert {"config.toml", "versions.json", "journal.log", "records/actions.jsonl"} <= set(files)
    assert str(action.id) in files["records/actions.jsonl"]
    assert "leak key=*** secret=***" in files["records/actions.jsonl"]
    assert "leak key=*** secret=***" in files["journal.log"]
    assert '"telegram chat ***"' in files["records/commands.jsonl"]
    assert "--unit marginguard --since @" in files["journal.log"]
    assert 'secret = "env:LNM_SECRET"' in files["config.toml"]
    assert 'network = "signet"' in files["config.toml"]


def test_a_database_that_does_not_answer_is_named_as_left_out(tmp_path, bin_dir):
    url = f"postgresql://ana:{CANARY}@127.0.0.1:1/none"
    database = f'[database]\nurl = "{url}"'
    text = CONFIG.format(c=CANARY, state=tmp_path / "state", database=database)
    files = packed(tmp_path, bin_dir, text=text)
    assert "records:" in files["README.txt"].partition("Left out:")[2]
    assert CANARY not in "".join(files.values())


def test_without_a_configuration_that_can_be_read_no_log_is_taken(tmp_path, bin_dir):
    text = CONFIG.format(c=CANARY, state=tmp_path / "state", database="[databse]")
    files = packed(tmp_path, bin_dir, text=text)
    assert "journal.log" not in files
    assert "databse" in files["config-faults.txt"]
    assert CANARY not in "".join(files.values())


def test_a_file_that_is_there_is_not_replaced(tmp_path):
    there = tmp_path / "there.tar.gz"
    there.write_text("mine")
    config = tmp_path / "config.toml"
    config.write_text("")
    result = subprocess.run(
        [sys.executable, "-m", "marginguard", "incident", "--config", config, "-o", there],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 2
    assert "is there already" in result.stderr
    assert there.read_text() == "mine"


def test_chats_and_members_of_groups_are_left_out_wherever_they_wrote():
    at = datetime.now(UTC)
    paused = "paused until 12:00:00 UTC by telegram chat -1009876543, user 5512345678"
    log = (
        'command.stranger by="telegram chat 6612345678" advice="add 6612345678 to command_chats"\n'
        "command.forwarded chat=7712345678\nmargin=25000 telegram chat 7 of 2026\n"
    )
    parts = (Part(name="guards.jsonl", text=paused), Part(name="journal.log", text=log))
    found = redacted(Incident(at=at, since=at, parts=parts, left_out=()), ())
    whole = "".join(part.text for part in found.parts)
    for id_ in ("1009876543", "5512345678", "6612345678", "7712345678"):
        assert id_ not in whole
    assert "add *** to command_chats" in whole
    assert "margin=25000 telegram chat 7 of 2026" in whole


def test_the_value_of_a_misspelt_key_is_not_shown():
    shown = without_secrets({"accounts": [{"id": "main", "secrett": "abc"}], "kee": 12345})
    assert shown == {"accounts": [{"id": "main", "secrett": "***"}], "kee": "***"}


def test_short_words_that_are_left_out_are_not_blotted_out_elsewhere():
    data = {"intervall": "30s", "notifications": {"email": {"username": "marginguard"}}}
    assert list(secrets_in(data)) == []
    assert list(secrets_in({"users": [{"phone": "+34600", "secrett": "12345678"}]})) == [
        "+34600",
        "12345678",
    ]
