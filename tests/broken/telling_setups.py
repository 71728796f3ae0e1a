"""Set-ups that are broken between the guard and its owner."""

from contextlib import asynccontextmanager

from aiohttp import web
from aiosmtpd.controller import Controller

from tests.broken.playing import Setup
from tests.broken.setups import free_port

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


class _Taker:
    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - the library's protocol
        return "250 taken"


@asynccontextmanager
async def _telegram():
    async def send(request):
        asked = await request.post()
        if str(asked.get("chat_id")) == CHAT:
            chat = {"id": int(CHAT), "type": "private"}
            return web.json_response(
                {"ok": True, "result": {"message_id": 1, "date": 1_700_000_000, "chat": chat}}
            )
        refusal = {"ok": False, "error_code": 400, "description": "Bad Request: chat not found"}
        return web.json_response(refusal, status=400)

    app = web.Application()
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
    async with _telegram() as url:
        stage.config(extra=_TELEGRAM.format(url=url, chat="1"))
        yield
        stage.config(extra=_TELEGRAM.format(url=url, chat=CHAT))
        yield


for _name, _action, _says, _work in (
    ("smtp-refused", "verify_smtp_config", "email", _smtp_refused),
    ("wrong-chat-id", "verify_telegram_chat_id", "telegram", _wrong_chat),
):
    TELLING_SETUPS[_name] = Setup(
        name=_name, command=("notify", "test"), action=_action, says=_says, work=_work
    )
