"""Templates of an SMS gateway: what is refused at load, in words that name the key."""

import pytest

from marginguard.domain.errors import ConfigError
from marginguard.notify.sms_requests import Gateway, GatewaySettings, Twilio, TwilioSettings

URL = "https://sms.example.com/send"


def problems_of(**settings):
    with pytest.raises(ConfigError) as refusal:
        Gateway(GatewaySettings(**{"url": URL, **settings}))
    return refusal.value.problems


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"body": "{{ text"}, "[notifications.sms] body: line 1:"),
        ({"body": "a\n{% if %}"}, "[notifications.sms] body: line 2:"),
        ({"headers": {"X-To": "{{ to|nosuch }}"}}, "[notifications.sms] headers.X-To: line 1:"),
        ({"body": "{{ txet }}"}, "[notifications.sms] body: 'txet' is undefined"),
        ({"body": "{{ 1 / 0 }}"}, "[notifications.sms] body: division by zero"),
        ({"url": "http://sms.example.com"}, "[notifications.sms] url: http is allowed to this"),
        ({"url": "{{ to }}"}, "[notifications.sms] url: it is not an address"),
        ({"headers": {"X-Text": "{{ text }}"}}, "[notifications.sms] headers.X-Text must be one"),
        ({"method": "DELETE"}, "[notifications.sms] method must be one of"),
    ],
)
def test_a_template_with_a_fault_is_refused_with_its_place(settings, words):
    (problem,) = problems_of(**settings)

    assert problem.startswith(words)


def test_every_template_that_does_not_parse_is_named():
    assert len(problems_of(body="{{", headers={"X-A": "{%"})) == 2


@pytest.mark.parametrize("content_type", ["Content-Type", "content-type"])
def test_json_that_a_quote_in_the_text_would_break_is_refused(content_type):
    (problem,) = problems_of(
        headers={content_type: "application/json"}, body='{"text": "{{ text }}"}'
    )

    assert "{{ text|tojson }}" in problem


def test_the_same_body_is_allowed_where_it_is_not_json():
    gateway = Gateway(GatewaySettings(url=URL, body='{"text": "{{ text }}"}'))

    assert gateway.request(to="+1", text='a "b"', message_id="1").body == b'{"text": "a "b""}'


def test_the_settings_do_not_show_secrets():
    secret = "s3cr3t"
    settings = GatewaySettings(
        url=f"{URL}/{secret}", headers={"X-Key": secret}, body=secret, secret=secret
    )
    assert secret not in repr(settings)
    assert secret not in repr(TwilioSettings(account_sid="AC", auth_token=secret, sender="+1"))


def test_twilios_address_must_be_encrypted():
    with pytest.raises(ConfigError, match=r"\[notifications.sms\] base_url: http is allowed"):
        Twilio(
            TwilioSettings(
                account_sid="AC", auth_token="x", sender="+1", base_url="http://api.example.com"
            )
        )
