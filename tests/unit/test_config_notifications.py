"""The tables of the channels and of what users wish, and what they mean to the telling."""

from datetime import time

import pytest

from marginguard.app.notifications import (
    changed_channels,
    channels_of,
    routing_of,
    set_up,
    setup_problems,
)
from marginguard.config import load_config
from marginguard.domain.errors import ConfigError
from marginguard.domain.notice import Event
from tests.notifying import a_notice, an_alarm

REST = """
[[accounts]]
id = "main"
network = "signet"
key = "a-key"
secret = "a-secret"
passphrase = "a-passphrase"
[[guards]]
id = "night"
account = "main"
margin_threshold = 80
action = "close_position"
"""


@pytest.fixture
def load(tmp_path):
    def load(text, after=""):
        path = tmp_path / "config.toml"
        path.write_text(text + REST + after)
        path.chmod(0o600)
        return load_config(path, {})

    return load


def routing(config):
    return routing_of(config)


EVERYTHING = """
[notifications.email]
host = "mail.example.com"
sender = "guard@example.com"
security = "tls"
username = "guard"
password = "s3cr3t-password"
[notifications.telegram]
token = "123:s3cr3t-token"
[notifications.webhook]
url = "https://example.com/for-everybody"
secret = "s3cr3t-signature"
[notifications.sms]
provider = "twilio"
account_sid = "AC1"
auth_token = "s3cr3t-twilio"
sender = "+15005550006"
[[users]]
id = "ana"
email = "ana@example.com"
telegram_chat_id = 42
phone = "+34600111222"
timezone = "Europe/Madrid"
"""


async def test_everything_that_is_set_up_becomes_a_channel_and_reaches_the_user(load):
    config = load(EVERYTHING)
    channels = channels_of(config.notifications)
    assert [channel.name for channel in channels] == ["telegram", "email", "webhook", "sms"]
    assert set_up(config.notifications) == {channel.name for channel in channels}
    found = routing_of(config)
    assert found.channels_of("ana") == ("telegram", "email", "webhook", "sms")
    assert found.recipient("ana", "telegram").to == "42"
    assert found.recipient("ana", "webhook").to == "https://example.com/for-everybody"
    assert found.recipient("ana", "email").timezone == "Europe/Madrid"
    assert {"s3cr3t-password", "123:s3cr3t-token", "s3cr3t-signature", "s3cr3t-twilio"} <= (
        config.secret_values()
    )
    for channel in channels:
        await channel.aclose()


def test_by_default_the_webhook_alone_is_there_and_reaches_nobody(load):
    assert routing(load("")).channels_of("owner") == ()
    told = load('[notifications.webhook]\nurl = "https://example.com/hook"\n')
    assert routing(told).first(a_notice()) == [("owner", "webhook")]


def test_sms_stands_in_for_others_unless_the_user_wants_it_at_once(load):
    assert ("ana", "sms") not in routing(load(EVERYTHING)).first(an_alarm())
    wishes = '[users.notifications]\nevents = { sms = ["threshold_alert"] }\n'
    assert ("ana", "sms") in routing(load(EVERYTHING + wishes)).first(an_alarm())


def test_wishes_are_taken_over(load):
    wishes = """[users.notifications]
channels = ["email", "telegram"]
events = { telegram = ["daemon"], email = "all" }
quiet_hours = "22:30-07:00"
max_per_hour = 5
max_per_day = 50
"""
    found = routing(load(EVERYTHING + wishes))
    preferences = found.preferences_of("ana")
    assert found.channels_of("ana") == ("email", "telegram")
    assert preferences.events == {"telegram": frozenset({Event.DAEMON})}
    assert (preferences.quiet_hours.start, preferences.quiet_hours.end) == (time(22, 30), time(7))
    assert preferences.quiet_hours.timezone.key == "Europe/Madrid"
    assert (preferences.max_per_hour, preferences.max_per_day) == (5, 50)


def test_a_guard_narrows(load):
    narrowing = '[guards.notifications]\nchannels = ["email"]\nevents = ["position_changed"]\n'
    assert routing(load(EVERYTHING, narrowing)).first(a_notice()) == [("ana", "email")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[notifications.email]\nhost = "mail"', "notifications.email: give sender"),
        ('[notifications.email]\nusername = "x"', "give username and password together"),
        ("[notifications.email]\nport = 0", "port = 0: must be a whole number from 1 to 65535"),
        ('[notifications.email]\nsecurity = "ssl"', 'must be "starttls", "tls" or "none"'),
        ('[notifications.telegram]\ntimeout = "60s"', "at most 25s"),
        ('[notifications.webhook]\nurl = "http://example.com"', "must be an https:// address"),
        ('[notifications.sms]\nprovider = "twilio"', "needs account_sid, auth_token, sender too"),
        ('[notifications.sms]\nprovider = "gateway"', 'provider "gateway" needs url too'),
        ("[notifications.pager]\nurl = 'x'", "unknown key"),
        (
            '[[users]]\nid = "a"\n[users.notifications]\nquiet_hours = "22-7"',
            'such as "22:00-07:00"',
        ),
        (
            '[[users]]\nid = "a"\n[users.notifications]\nquiet_hours = "07:00-07:00"',
            "begins and ends at the same time",
        ),
        (
            '[[users]]\nid = "a"\n[users.notifications]\nchannels = ["email", "email"]',
            "names a channel twice",
        ),
        (
            '[[users]]\nid = "a"\n[users.notifications]\nevents = { email = ["alerts"] }',
            "execution_succeeded",
        ),
        (
            '[[users]]\nid = "a"\n[users.notifications]\nevents = { email = ["test"] }',
            "execution_succeeded",
        ),
        ('[[users]]\nid = "a"\n[users.notifications]\nmax_per_hour = 0', "from 1 to 10000"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(load, text, words):
    with pytest.raises(ConfigError) as refused:
        load(text + "\n")
    assert words in str(refused.value)


def test_commands_are_off_unless_they_are_asked_for(load):
    telegram = load('[notifications.telegram]\ntoken = "123:x"\n').notifications.telegram
    assert not telegram.commands
    asked = '[notifications.telegram]\ntoken = "1:x"\ncommands = true\ncommand_chats = [42, -100]\n'
    assert load(asked).notifications.telegram.command_chats == (42, -100)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("commands = true\ncommand_chats = [42]", "commands = true needs token too"),
        ('token = "1:x"\ncommands = true', "commands = true needs command_chats too"),
        ('command_chats = ["42"]', "a list of chat ids, which are whole numbers"),
        ("command_chats = [true]", "whole numbers"),
        ("command_chats = [0]", "whole numbers"),
        ("command_chats = [1.5]", "whole numbers"),
        ("command_chats = 42", "a list of chat ids"),
    ],
)
def test_who_may_command_is_never_guessed(load, keys, words):
    with pytest.raises(ConfigError) as refused:
        load(f"[notifications.telegram]\n{keys}\n")
    assert words in str(refused.value)
    assert "notifications.telegram" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '[notifications.email]\nhost = "mail.example.com"\nsender = "nobody"',
            "[notifications.email] sender: 'nobody' is not an address like name@example.com",
        ),
        (
            '[notifications.email]\nhost = "a.b"\nsender = "a@b.c"\nsecurity = "none"',
            'security = "none" is allowed for a server on this machine alone',
        ),
        (
            '[notifications.telegram]\ntoken = "1:x"\nbase_url = "http://example.com"',
            "[notifications.telegram] base_url: http is allowed to this machine alone",
        ),
        (
            '[notifications.webhook]\nurl = "https://192.168.1.5/hook"',
            "[notifications.webhook] url: 192.168.1.5 is a private address",
        ),
        (
            '[[users]]\nid = "ana"\nwebhook_url = "https://10.0.0.1/hook"',
            'webhook_url of user "ana": 10.0.0.1 is a private address',
        ),
        (
            '[notifications.sms]\nprovider = "gateway"\nurl = "https://a.example.com/{{ nr }}"',
            "[notifications.sms] url: 'nr' is undefined",
        ),
        ('[notifications]\ntemplates = "nowhere"', "there is no such directory of templates"),
        ('[notifications]\ntemplates = "broken"', "text.j2, line 2: 'nonsense' is undefined"),
    ],
)
def test_what_no_channel_or_template_can_work_with_is_found_beforehand(load, tmp_path, text, words):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "text.j2").write_text("{{ text }}\n{{ nonsense }}\n")
    (problem,) = setup_problems(load(text + "\n"))
    assert problem.startswith(f"{tmp_path}/config.toml: ")
    assert words in problem


def test_what_works_has_no_problems(load):
    private = "\nallow_private = true\n"
    assert setup_problems(load(EVERYTHING)) == []
    hook = '[notifications.webhook]\nurl = "https://192.168.1.5/hook"'
    assert setup_problems(load(hook + private)) == []


async def test_only_the_channels_whose_tables_change_are_made_anew(load):
    old = load(EVERYTHING).notifications
    changed = EVERYTHING.replace("s3cr3t-password", "another").replace("123:s3cr3t", "456:s3cr3t")
    found = changed_channels(old, load(changed).notifications)
    assert {name: channel.name for name, channel in found.items()} == {
        "telegram": "telegram",
        "email": "email",
    }
    without = changed_channels(old, load("").notifications)
    assert {name for name, channel in without.items() if channel is None} == {
        "telegram",
        "email",
        "sms",
    }
    assert changed_channels(old, load(EVERYTHING).notifications) == {}
    for channel in (*found.values(), without["webhook"]):
        await channel.aclose()
