"""`marginguard notify test` against a receiver on this machine."""

import asyncio
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from marginguard.cli import main

USERS = """
[[users]]
id = "ana"
webhook_url = "{url}"
[[users]]
id = "ben"
email = "ben@example.com"
"""


class Receiver:
    def __init__(self):
        self.bodies = []
        self.status = 204

    async def receive(self, request):
        self.bodies.append(await request.json())
        return web.Response(status=self.status)


@pytest.fixture
async def receiver():
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.receive)
    async with TestServer(app) as server:
        receiver.url = str(server.make_url("/hook"))
        yield receiver


@pytest.fixture
def notify(tmp_path, receiver):
    async def notify(*arguments, text=USERS):
        path = tmp_path / "config.toml"
        path.write_text(text.format(url=receiver.url))
        path.chmod(0o600)
        command = ["notify", "test", "--config", str(path), *arguments]
        return await asyncio.to_thread(CliRunner().invoke, main, command)

    return notify


async def test_a_user_who_is_reached_gets_a_test_message(notify, receiver):
    result = await notify("--user", "ana")
    assert result.exit_code == 0
    assert "ok: ana by webhook: The test message to user ana was sent." in result.stdout
    (body,) = receiver.bodies
    assert (body["type"], body["data"]["user_id"]) == ("test", "ana")


async def test_each_user_is_tried_and_one_who_is_not_reached_is_a_problem(notify, receiver):
    result = await notify()
    assert result.exit_code == 1
    assert len(receiver.bodies) == 1
    assert "FAILED: ben by none: User ben is reached by no channel" in result.stdout


async def test_a_receiver_that_refuses_is_a_problem_with_the_next_step(notify, receiver):
    receiver.status = 404
    result = await notify("--user", "ana", "--json")
    assert result.exit_code == 1
    (finding,) = json.loads(result.stdout)["findings"]
    assert "404" in finding["issue"]
    assert finding["action"] == "verify_webhook_url"
    assert not finding["works"]


@pytest.mark.parametrize(
    ("arguments", "action"),
    [
        (("--user", "ben", "--channel", "webhook"), "setup_webhook_url"),
        (("--user", "ben", "--channel", "email"), "verify_smtp_config"),
        (("--user", "ben", "--channel", "telegram"), "verify_telegram_token"),
        (("--user", "ben", "--channel", "sms"), "verify_sms_config"),
    ],
)
async def test_what_is_missing_is_said_for_the_channel_that_is_asked_for(notify, arguments, action):
    result = await notify(*arguments, "--json")
    assert result.exit_code == 1
    (finding,) = json.loads(result.stdout)["findings"]
    assert finding["action"] == action


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--user", "eve"), 'there is no user "eve"'),
        (("--channel", "pigeon"), "'pigeon' is not one of"),
    ],
)
async def test_wrong_use_is_said_in_words(notify, arguments, words):
    result = await notify(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr


async def test_templates_with_an_error_are_refused_before_anything_is_sent(
    notify, receiver, tmp_path
):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "text.j2").write_text("{{ nothing }}")
    result = await notify(text='[notifications]\ntemplates = "templates"\n' + USERS)
    assert result.exit_code == 2
    assert "text.j2, line 1" in result.stderr
    assert receiver.bodies == []
