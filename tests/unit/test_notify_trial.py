"""Trying a channel: the test message, and the finding with the next step."""

from datetime import UTC, datetime

import pytest

from marginguard.domain.errors import ConfigError
from marginguard.notify.channel import Action, Delivered, Failed
from marginguard.notify.rendering import Recipient
from marginguard.notify.trial import missing_recipient, try_channel

AT = datetime(2026, 3, 14, 12, 0, 5, tzinfo=UTC)
CHANNELS = ["email", "telegram", "webhook", "sms"]


class FakeChannel:
    def __init__(self, name, delivery):
        self.name = name
        self.delivery = delivery
        self.messages = []

    async def send(self, message):
        self.messages.append(message)
        return self.delivery

    async def aclose(self):
        pass


def recipient(timezone="Europe/Madrid"):
    return Recipient(user_id="ana", to="ana@example.com", timezone=timezone)


@pytest.mark.parametrize("name", CHANNELS)
async def test_a_channel_that_works_is_said_to_work_and_where_to_look(name):
    finding = await try_channel(FakeChannel(name, Delivered()), recipient(), at=AT)

    assert finding.works
    assert finding.issue == "The test message to user ana was sent."
    assert "look" in finding.solution
    assert finding.action is None


async def test_the_test_message_says_that_it_is_one():
    channel = FakeChannel("webhook", Delivered())

    await try_channel(channel, recipient(), at=AT)

    (message,) = channel.messages
    assert "This is a test of marginguard, sent 2026-03-14 13:00:05 CET." in message.text
    assert "test message" in message.subject
    assert message.payload["type"] == "test"
    assert message.payload["id"] == str(message.id)
    assert message.to == "ana@example.com"


async def test_a_failure_becomes_a_finding_with_the_next_step():
    failure = Failed(
        reason="the server refuses the login",
        action=Action.VERIFY_SMTP_CONFIG,
        advice="check the password",
        for_good=True,
    )

    finding = await try_channel(FakeChannel("email", failure), recipient(), at=AT)

    assert not finding.works
    assert finding.issue == "email: the server refuses the login."
    assert finding.solution == "Check the password."
    assert finding.action is Action.VERIFY_SMTP_CONFIG


async def test_a_wish_to_wait_is_told():
    failure = Failed(reason="too many", action=Action.WAIT, advice="wait", retry_after_s=37.0)

    finding = await try_channel(FakeChannel("telegram", failure), recipient(), at=AT)

    assert finding.issue == "telegram: too many. It may be tried again in 37 s."


async def test_a_zone_that_does_not_exist_is_refused_before_anything_is_sent():
    channel = FakeChannel("email", Delivered())

    with pytest.raises(ConfigError, match="Mars/Base"):
        await try_channel(channel, recipient(timezone="Mars/Base"), at=AT)

    assert channel.messages == []


@pytest.mark.parametrize(
    ("name", "key", "action"),
    [
        ("email", "email =", Action.SETUP_EMAIL_ADDRESS),
        ("telegram", "telegram_chat_id =", Action.SETUP_TELEGRAM_CHAT_ID),
        ("webhook", "webhook_url =", Action.SETUP_WEBHOOK_URL),
        ("sms", "phone =", Action.SETUP_SMS_PHONE_NUMBER),
    ],
)
def test_a_user_who_cannot_be_told_is_said_what_to_add(name, key, action):
    finding = missing_recipient(name, "ana")

    assert not finding.works
    assert key in finding.solution
    assert finding.action is action
