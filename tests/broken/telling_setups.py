"""Set-ups that are broken between the guard and its owner."""

from contextlib import asynccontextmanager

from aiohttp import web
from aiosmtpd.controller import Controller

from tests.broken.playing import Setup
from tests.broken.setups import free_port
from tests.daemons import DaemonProcess

TELLING_SETUPS: dict[str, Setup] = {}

CHAT = "4711"

_MAIL = """
[[users]]
id = "ana"
email = "ana@example.com"
[notifications.email]
host = "127.0.0.1"
port = {port}
sender = "guard@example.com"
security = "none"
timeout = "3s"
"""
_TELEGRAM = """
[[users]]
id = "ana"
telegram_chat_id = "{chat}"
[notifications.telegram]
token = "123456:secret-token"
base_url = "{url}"
timeout = "3s"
"""
_SMS = """
[[users]]
id = "ana"
{phone}
[notifications.sms]
provider = "gateway"
url = "{url}/sms"
body = "{{{{ text }}}}"
"""


class _Taker:
    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - the library's protocol
        return "250 taken"


@asynccontextmanager
async def _messengers():
    async def send(request):
        asked = await request.post()
        if str(asked.get("chat_id")) == CHAT:
            chat = {"id": int(CHAT), "type": "private"}
            return web.json_response(
                {"ok": True, "result": {"message_id": 1, "date": 1_700_000_000, "chat": chat}}
            )
        refusal = {"ok": False, "error_code": 400, "description": "Bad Request: chat not found"}
        return web.json_response(refusal, status=400)

    async def take(_request):
        return web.Response()

    app = web.Application()
    app.router.add_post("/sms", take)
    app.router.add_post("/{rest:.*}", send)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _smtp_refused(stage):
    await stage.trade()
    port = free_port()
    server = Controller(_Taker(), hostname="127.0.0.1", port=port)
    server.start()
    try:
        stage.config(extra=_MAIL.format(port=1))
        yield
        stage.config(extra=_MAIL.format(port=port))
        yield
    finally:
        server.stop()


async def _wrong_chat(stage):
    await stage.trade()
    async with _messengers() as url:
        stage.config(extra=_TELEGRAM.format(url=url, chat="1"))
        yield
        stage.config(extra=_TELEGRAM.format(url=url, chat=CHAT))
        yield


async def _no_number(stage):
    await stage.trade()
    async with _messengers() as url:
        stage.config(extra=_SMS.format(url=url, phone=""))
        yield
        stage.config(extra=_SMS.format(url=url, phone='phone = "+34600111222"'))
        yield


async def _no_chat_in_status(stage):
    """Half set up: the token is there, and nobody to write to."""
    await stage.trade()
    server = await stage.database()
    url = await server.start()
    config = stage.config(database_url=url)
    daemon = await stage.stack.enter_async_context(DaemonProcess(config))
    await daemon.until("database.connected")
    while (await stage.say(("status",)))[0] != 0:
        pass  # until the daemon's first look has reached the database
    bot = _TELEGRAM.format(url="https://api.telegram.org", chat=CHAT)
    stage.config(extra=bot.replace('telegram_chat_id = "4711"', ""), database_url=url)
    yield
    stage.config(extra=bot, database_url=url)
    yield


for _name, _command, _action, _says, _work in (
    ("smtp-refused", "notify test", "verify_smtp_config", "email", _smtp_refused),
    ("wrong-chat-id", "notify test", "verify_telegram_chat_id", "telegram", _wrong_chat),
    ("no-number", "notify test --channel sms", "setup_sms_phone_number", "phone", _no_number),
    ("no-chat-id", "status", "setup_telegram_chat_id", "chat id", _no_chat_in_status),
):
    TELLING_SETUPS[_name] = Setup(
        name=_name, command=tuple(_command.split()), action=_action, says=_says, work=_work
    )
