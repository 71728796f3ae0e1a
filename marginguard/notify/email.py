"""The e-mail channel: one SMTP submission for each message, encrypted but on this machine."""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime
from enum import StrEnum
from html import escape
from typing import Final

import aiosmtplib

from marginguard.domain.errors import ConfigError
from marginguard.domain.notice import Severity
from marginguard.notify.channel import Action, Delivered, Delivery, Failed
from marginguard.notify.destination import is_loopback_host
from marginguard.notify.message import Message
from marginguard.notify.wording import one_line

_QUIT_TIMEOUT_S: Final = 1.0
_VERIFY: Final = "check host, port, security, username and password in [notifications.email]"


class Security(StrEnum):
    """How the connection to the mail server is encrypted.

    `starttls`: from the start of the conversation on (usually port 587). `tls`: from the first
    byte (usually port 465). `none`: not at all, which is for a server on this machine alone.
    """

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class EmailSettings:
    """The mail server, and who writes. Each message is given `timeout_s` seconds in all."""

    host: str
    port: int
    sender: str
    security: Security = Security.STARTTLS
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout_s: float = 15.0


class EmailChannel:
    """Sends each message as text and HTML over a connection of its own.

    Raises `ConfigError` for a sender that is no address and for an unencrypted connection that
    leaves this machine. `tls_context` replaces the system's certificates.
    """

    name = "email"

    def __init__(
        self, settings: EmailSettings, *, tls_context: ssl.SSLContext | None = None
    ) -> None:
        if settings.security is Security.NONE and not is_loopback_host(settings.host):
            raise ConfigError(
                '[notifications.email] security = "none" is allowed for a server on this machine'
                f' alone, and {settings.host} is not: use "starttls" or "tls"'
            )
        try:
            self._sender = mail_address(settings.sender)
        except ValueError as error:
            raise ConfigError(f"[notifications.email] sender: {error}") from error
        self._settings = settings
        self._tls_context = tls_context or ssl.create_default_context()

    async def send(self, message: Message) -> Delivery:
        """Hand the message to the mail server once."""
        try:
            mail = self._mail(message, mail_address(message.to))
        except ValueError as error:
            return _bad_address(error)
        client = self._client()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await client.connect()
                await client.send_message(mail)
        except (aiosmtplib.SMTPException, OSError) as error:  # a TimeoutError is an OSError
            return self._failure(error)
        except ValueError as error:  # the library is stricter with addresses
            return _bad_address(error)
        else:
            await _quit(client)
            return Delivered()
        finally:
            client.close()

    async def aclose(self) -> None:
        """Do nothing: no connection outlives its message."""

    def _client(self) -> aiosmtplib.SMTP:
        settings = self._settings
        return aiosmtplib.SMTP(
            hostname=settings.host,
            port=settings.port,
            username=settings.username,
            password=settings.password,
            use_tls=settings.security is Security.TLS,
            start_tls=settings.security is Security.STARTTLS,
            tls_context=None if settings.security is Security.NONE else self._tls_context,
            # The whole conversation has one limit, set in `send`. A limit for each step as well
            # would be asyncio.wait_for, which before Python 3.12 may swallow a cancellation.
            timeout=None,
        )

    def _mail(self, message: Message, to: Address) -> EmailMessage:
        mail = EmailMessage(policy=SMTP_POLICY)
        mail["From"] = self._sender
        mail["To"] = to
        mail["Subject"] = one_line(message.subject)
        mail["Date"] = format_datetime(datetime.now(UTC))
        mail["Message-ID"] = f"<{message.id}@{self._sender.domain}>"
        mail["Auto-Submitted"] = "auto-generated"
        if message.severity is Severity.CRITICAL:
            mail["Importance"] = "high"
        mail.set_content(message.full_text)
        if message.html is not None:
            mail.add_alternative(_page(message, message.html), subtype="html")
        return mail

    def _failure(self, error: Exception) -> Failed:
        """Say what a failed submission means."""
        server = f"{self._settings.host}:{self._settings.port}"
        if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
            return _recipient_refused(server, error.recipients[0])
        if isinstance(error, aiosmtplib.SMTPResponseException):
            return _refused(server, error)
        return self._unfinished(error)

    def _unfinished(self, error: Exception) -> Failed:
        """Say what ended the conversation before the server answered to the message."""
        server = f"{self._settings.host}:{self._settings.port}"
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        for_good = False
        if isinstance(cause, ssl.SSLError):
            reason = f"no encrypted connection to the mail server {server}: {one_line(str(cause))}"
        elif isinstance(error, TimeoutError):
            reason = (
                f"the mail server {server} did not answer within {self._settings.timeout_s:g} s"
            )
        elif isinstance(error, aiosmtplib.SMTPConnectError):
            reason = f"cannot connect to the mail server {server}: {one_line(str(cause))}"
        elif isinstance(error, OSError):
            reason = f"the mail server {server} broke off: {one_line(str(error))}"
        else:
            # The library's plain errors: the server lacks what is asked for, such as STARTTLS.
            reason = f"the mail server {server} cannot do it: {one_line(str(error))}"
            for_good = True
        return Failed(
            reason=reason, action=Action.VERIFY_SMTP_CONFIG, advice=_VERIFY, for_good=for_good
        )


def mail_address(text: str) -> Address:
    """Return an e-mail address; raises `ValueError`, which says why, if `text` is not one."""
    try:
        address = Address(addr_spec=text)
    except (MessageError, ValueError, IndexError) as error:  # the parser raises any of them
        raise ValueError(f"{text!r} is not an address like name@example.com") from error
    if not (address.username and address.domain) or any(c.isspace() for c in text):
        raise ValueError(f"{text!r} is not an address like name@example.com")
    return address


async def _quit(client: aiosmtplib.SMTP) -> None:
    """Take leave; the message is delivered, whatever the server makes of this."""
    with contextlib.suppress(aiosmtplib.SMTPException, OSError):
        async with asyncio.timeout(_QUIT_TIMEOUT_S):
            await client.quit()


def _page(message: Message, body: str) -> str:
    note = f"<p><strong>{escape(message.late_note)}</strong></p>\n" if message.late else ""
    return (
        '<!doctype html>\n<html><head><meta charset="utf-8"></head>\n'
        f"<body>\n{note}{body}\n</body></html>\n"
    )


def _bad_address(error: ValueError) -> Failed:
    return Failed(
        reason=f"the user's e-mail address cannot be used: {one_line(str(error))}",
        action=Action.VERIFY_EMAIL_ADDRESS,
        advice="correct the user's email",
        for_good=True,
    )


def _recipient_refused(server: str, error: aiosmtplib.SMTPRecipientRefused) -> Failed:
    for_good = error.code >= 500
    return Failed(
        reason=f"the mail server {server} does not take mail for {error.recipient}:"
        f" {error.code} {one_line(error.message)}",
        action=Action.VERIFY_EMAIL_ADDRESS if for_good else Action.WAIT,
        advice="check the user's email, and that the server may send mail there",
        for_good=for_good,
    )


def _refused(server: str, error: aiosmtplib.SMTPResponseException) -> Failed:
    """Say what an answer means: a 5xx code is final, a 4xx passes (RFC 5321, section 4.2.1)."""
    what = "refuses the message"
    advice = _VERIFY
    if isinstance(error, aiosmtplib.SMTPAuthenticationError):
        what = "refuses the login"
        advice = "check username and password in [notifications.email]; many providers want an"
        advice += " app password instead of the account's own"
    elif isinstance(error, aiosmtplib.SMTPSenderRefused):
        what = f"refuses the sender {error.sender}"
        advice = "set sender in [notifications.email] to an address that the login may use"
    for_good = error.code >= 500
    return Failed(
        reason=f"the mail server {server} {what}: {error.code} {one_line(error.message)}",
        action=Action.VERIFY_SMTP_CONFIG,
        advice=advice,
        for_good=for_good,
    )
