"""E-mail against a real SMTP server in process: encryption, login, refusals, silence."""

import asyncio
import contextlib
import email
import email.policy
import ssl
from types import SimpleNamespace

import pytest
import trustme
from aiohttp.test_utils import unused_port
from aiosmtpd.smtp import SMTP, AuthResult

from marginguard.domain.errors import ConfigError
from marginguard.domain.notice import Severity
from marginguard.notify.channel import Action, Delivered, Failed
from marginguard.notify.email import EmailChannel, EmailSettings, Security
from tests.notices import a_message

PASSWORD = "s3cr3t-mail-password"


class Inbox:
    """An SMTP server's behaviour: takes mail, or answers what a test has scripted."""

    def __init__(self):
        self.mails = []
        self.logins = []
        self.encrypted = []
        self.answers = {}

    async def handle_MAIL(self, server, session, envelope, address, options):  # noqa: N802
        if (answer := self.answers.get("MAIL")) is None:
            envelope.mail_from = address
        return answer or "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        if (answer := self.answers.get("RCPT")) is None:
            envelope.rcpt_tos.append(address)
        return answer or "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        if (answer := self.answers.get("DATA")) is not None:
            return answer
        self.encrypted.append(session.ssl is not None or server.transport_is_tls)
        self.mails.append(
            SimpleNamespace(
                sender=envelope.mail_from,
                recipients=envelope.rcpt_tos,
                content=email.message_from_bytes(envelope.content, policy=email.policy.default),
            )
        )
        return "250 OK"

    async def handle_QUIT(self, server, session, envelope):  # noqa: N802
        if self.answers.get("QUIT") == "hang":
            await asyncio.Event().wait()
        return "221 Bye"

    def authenticate(self, server, session, envelope, mechanism, login):
        self.logins.append((login.login.decode(), login.password.decode()))
        return AuthResult(success=login.password.decode() == PASSWORD, handled=False)


class Server(SMTP):
    transport_is_tls = False

    def connection_made(self, transport):
        super().connection_made(transport)
        self.transport_is_tls = transport.get_extra_info("sslcontext") is not None


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def server_tls(authority):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def trusting(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def inbox():
    return Inbox()


@contextlib.asynccontextmanager
async def serving(inbox, *, tls=None, starttls=None, login=False):
    """Serve the inbox on a free port; yields the port."""
    connections = []

    def protocol():
        server = Server(
            inbox,
            tls_context=starttls,
            require_starttls=starttls is not None,
            authenticator=inbox.authenticate if login else None,
            auth_required=login,
            auth_require_tls=starttls is not None or not login,
            hostname="mail.example.com",
        )
        connections.append(server)
        return server

    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in connections:
            if connection.transport is not None:
                connection.transport.abort()
            if (handler := connection._handler_coroutine) is not None:
                handler.cancel()
                await asyncio.gather(handler, return_exceptions=True)


@contextlib.asynccontextmanager
async def raw_server(talk):
    """Serve `talk(reader, writer)` on a free port; yields the port."""
    conversations = []

    async def converse(reader, writer):
        conversations.append(asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError):
                await talk(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*conversations)


def a_channel(port, *, tls_context=None, **settings):
    return EmailChannel(
        EmailSettings(
            **{
                "host": "127.0.0.1",
                "port": port,
                "sender": "guard@example.com",
                "security": Security.NONE,
                "timeout_s": 10.0,
                **settings,
            }
        ),
        tls_context=tls_context,
    )


async def outcome_of(inbox, message=None, **settings):
    async with serving(inbox) as port:
        return await a_channel(port, **settings).send(message or a_message())


# --- delivery -------------------------------------------------------------------------------


async def test_a_mail_has_the_text_and_the_html(inbox):
    assert await outcome_of(inbox) == Delivered()

    (mail,) = inbox.mails
    assert mail.sender == "guard@example.com"
    assert mail.recipients == ["owner@example.com"]
    assert mail.content["From"] == "guard@example.com"
    assert mail.content["To"] == "owner@example.com"
    assert mail.content["Subject"] == "marginguard WARNING: Action done"
    text = mail.content.get_body(["plain"]).get_content()
    assert text.replace("\r\n", "\n") == "Margin was added.\n\nPrice: 61,000.50 USD\n"
    assert "<p>Margin was added.</p>" in mail.content.get_body(["html"]).get_content()


async def test_starttls_encrypts_before_login_and_mail(inbox, server_tls, trusting):
    async with serving(inbox, starttls=server_tls, login=True) as port:
        channel = a_channel(
            port,
            security=Security.STARTTLS,
            username="guard",
            password=PASSWORD,
            tls_context=trusting,
        )
        assert await channel.send(a_message()) == Delivered()

    assert inbox.logins == [("guard", PASSWORD)]
    assert inbox.encrypted == [True]


async def test_implicit_tls_encrypts_from_the_first_byte(inbox, server_tls, trusting):
    async with serving(inbox, tls=server_tls) as port:
        channel = a_channel(port, security=Security.TLS, tls_context=trusting)
        assert await channel.send(a_message()) == Delivered()

    assert inbox.encrypted == [True]


async def test_the_message_id_is_the_same_at_every_attempt(inbox):
    async with serving(inbox) as port:
        channel = a_channel(port)
        await channel.send(a_message())
        await channel.send(a_message())

    assert [mail.content["Message-ID"] for mail in inbox.mails] == [
        "<00000000-0000-0000-0000-000000000007@example.com>"
    ] * 2


async def test_a_late_mail_says_first_when_it_was_meant(inbox):
    await outcome_of(inbox, a_message(late=True, late_note="Late: meant for <noon>."))

    content = inbox.mails[0].content
    assert content.get_body(["plain"]).get_content().startswith("Late: meant for <noon>.")
    html = content.get_body(["html"]).get_content()
    assert html.index("Late: meant for &lt;noon&gt;.") < html.index("Margin was added.")


@pytest.mark.parametrize(
    ("severity", "importance"), [(Severity.CRITICAL, "high"), (Severity.WARNING, None)]
)
async def test_only_a_critical_mail_is_marked_as_important(inbox, severity, importance):
    await outcome_of(inbox, a_message(severity=severity))

    assert inbox.mails[0].content["Importance"] == importance


async def test_a_line_break_in_the_subject_makes_no_header(inbox):
    await outcome_of(inbox, a_message(subject="Hello\r\nBcc: thief@example.com\n\nBody"))

    content = inbox.mails[0].content
    assert content["Bcc"] is None
    assert content["Subject"] == "Hello Bcc: thief@example.com Body"
    assert inbox.mails[0].recipients == ["owner@example.com"]


@pytest.mark.parametrize(
    "address",
    [
        "owner",
        "",
        "@example.com",
        "owner@",
        "owner@example.com\r\nBcc: thief@example.com",
        "owner@example.com, thief@example.com",
        "Owner <owner@example.com>",
    ],
)
async def test_what_is_no_address_is_refused_for_good_with_advice(inbox, address):
    delivery = await outcome_of(inbox, a_message(to=address))

    assert isinstance(delivery, Failed)
    assert delivery.for_good
    assert delivery.action is Action.VERIFY_EMAIL_ADDRESS
    assert inbox.mails == []


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "answer", "for_good", "action"),
    [
        ("RCPT", "550 No such user", True, Action.VERIFY_EMAIL_ADDRESS),
        ("RCPT", "450 Greylisted, come back", False, Action.WAIT),
        ("MAIL", "553 Not your address", True, Action.VERIFY_SMTP_CONFIG),
        ("MAIL", "451 Try later", False, Action.VERIFY_SMTP_CONFIG),
        ("DATA", "554 Looks like spam", True, Action.VERIFY_SMTP_CONFIG),
        ("DATA", "452 Disk full", False, Action.VERIFY_SMTP_CONFIG),
    ],
)
async def test_a_5xx_is_final_and_a_4xx_passes(inbox, command, answer, for_good, action):
    inbox.answers[command] = answer

    delivery = await outcome_of(inbox)

    assert isinstance(delivery, Failed)
    assert (delivery.for_good, delivery.action) == (for_good, action)
    assert answer in delivery.reason


async def test_a_refused_login_is_final_and_names_the_setting(inbox, server_tls, trusting):
    async with serving(inbox, starttls=server_tls, login=True) as port:
        delivery = await a_channel(
            port,
            security=Security.STARTTLS,
            username="guard",
            password="wrong-" + PASSWORD,
            tls_context=trusting,
        ).send(a_message())

    assert isinstance(delivery, Failed)
    assert delivery.for_good
    assert delivery.action is Action.VERIFY_SMTP_CONFIG
    assert "refuses the login" in delivery.reason
    assert "password" in delivery.advice
    assert PASSWORD not in repr(delivery)


async def test_without_starttls_on_the_server_nothing_is_sent(inbox, trusting):
    async with serving(inbox) as port:
        delivery = await a_channel(port, security=Security.STARTTLS, tls_context=trusting).send(
            a_message()
        )

    assert isinstance(delivery, Failed)
    assert delivery.for_good
    assert delivery.action is Action.VERIFY_SMTP_CONFIG
    assert inbox.mails == []


@pytest.mark.parametrize("security", [Security.STARTTLS, Security.TLS])
async def test_a_certificate_that_is_not_trusted_stops_the_mail(inbox, server_tls, security):
    starttls = server_tls if security is Security.STARTTLS else None
    tls = server_tls if security is Security.TLS else None
    async with serving(inbox, tls=tls, starttls=starttls) as port:
        delivery = await a_channel(port, security=security).send(a_message())

    assert isinstance(delivery, Failed)
    assert "no encrypted connection" in delivery.reason
    assert "certificate" in delivery.reason
    assert inbox.mails == []


async def test_a_server_without_login_is_said_to_have_none(inbox):
    delivery = await outcome_of(inbox, username="guard", password=PASSWORD)

    assert isinstance(delivery, Failed)
    assert delivery.for_good
    assert "AUTH" in delivery.reason
    assert inbox.mails == []


async def test_a_connection_that_breaks_off_is_tried_again(inbox):
    async def hang_up(reader, writer):
        writer.write(b"220 mail.example.com\r\n")
        await reader.readline()

    async with raw_server(hang_up) as port:
        delivery = await a_channel(port).send(a_message())

    assert isinstance(delivery, Failed)
    assert not delivery.for_good
    assert "broke off" in delivery.reason


# --- the network ----------------------------------------------------------------------------


async def test_a_server_that_is_not_there_is_tried_again(inbox):
    port = unused_port()

    delivery = await a_channel(port).send(a_message())

    assert isinstance(delivery, Failed)
    assert not delivery.for_good
    assert f"cannot connect to the mail server 127.0.0.1:{port}" in delivery.reason


async def test_a_server_that_hangs_costs_no_more_than_the_time_limit():
    """Failure 33: the mail server hangs."""

    async def say_nothing(reader, writer):
        await reader.read()

    async with raw_server(say_nothing) as port:
        async with asyncio.timeout(5):
            delivery = await a_channel(port, timeout_s=0.1).send(a_message())

    assert isinstance(delivery, Failed)
    assert not delivery.for_good
    assert "did not answer within 0.1 s" in delivery.reason


async def test_a_server_that_drips_costs_no_more_than_the_time_limit():
    """Failure 33: each line of the greeting comes in time, but it never ends."""

    async def drip(reader, writer):
        while True:
            writer.write(b"220-still here\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with raw_server(drip) as port:
        async with asyncio.timeout(5):
            delivery = await a_channel(port, timeout_s=0.2).send(a_message())

    assert isinstance(delivery, Failed)
    assert not delivery.for_good


async def test_a_server_that_hangs_after_taking_the_mail_has_taken_it(inbox):
    inbox.answers["QUIT"] = "hang"

    async with asyncio.timeout(8):
        assert await outcome_of(inbox) == Delivered()

    assert len(inbox.mails) == 1


async def test_a_cancelled_send_ends_at_once_and_stays_cancelled():
    reached = asyncio.Event()

    async def say_nothing(reader, writer):
        reached.set()
        await reader.read()

    async with raw_server(say_nothing) as port:
        sending = asyncio.create_task(a_channel(port, timeout_s=60).send(a_message()))
        await reached.wait()
        sending.cancel()
        await asyncio.wait({sending}, timeout=5)
        assert sending.cancelled()


# --- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["mail.example.com", "192.168.1.5", "8.8.8.8"])
def test_an_unencrypted_connection_may_not_leave_this_machine(host):
    with pytest.raises(ConfigError, match=r"\[notifications.email\] security"):
        a_channel(25, host=host)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_an_unencrypted_connection_to_this_machine_is_allowed(host):
    assert a_channel(25, host=host).name == "email"


def test_a_sender_that_is_no_address_is_refused():
    with pytest.raises(ConfigError, match=r"\[notifications.email\] sender: 'guard'"):
        a_channel(25, sender="guard")


def test_the_settings_do_not_show_the_password():
    settings = EmailSettings(host="h", port=1, sender="a@b.c", password=PASSWORD)
    assert PASSWORD not in repr(settings)
