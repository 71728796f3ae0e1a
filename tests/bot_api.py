"""A look-alike of Telegram's Bot API over HTTP."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime

from aiohttp import web
from aiohttp.test_utils import TestServer

TOKEN = "123456:s3cr3t-bot-token"
BOT_NAME = "GuardBot"
_LONG_S = 30.0


class BotApi:
    """Answers as the Bot API does, or what a test has scripted.

    `answer` is for every sendMessage, `poll_answers` for the next calls of getUpdates.
    """

    def __init__(self):
        self.messages = []
        self.answer = None
        self.poll_answers = []
        self.polls = []
        self.pending = []
        self.release = asyncio.Event()
        self._ids = 1000
        self._changed = asyncio.Condition()
        self.app = web.Application()
        self.app.router.add_post("/bot{token}/sendMessage", self._send_message)
        self.app.router.add_post("/bot{token}/getMe", self._get_me)
        self.app.router.add_post("/bot{token}/getUpdates", self._get_updates)

    @contextlib.asynccontextmanager
    async def serving(self):
        """Serve inside the block; `url` is where."""
        async with TestServer(self.app) as server:
            self.url = str(server.make_url("/"))
            yield self
            self.release.set()
            await self._notify()

    async def writes(self, text, *, chat_id=4711, chat_type="private", **fields):
        """Let somebody write to the bot; returns the update's id."""
        message = {
            "message_id": self._ids,
            "date": int(datetime.now(UTC).timestamp()),
            "chat": {"id": chat_id, "type": chat_type},
            "from": {"id": 4711, "is_bot": False, "first_name": "Ana"},
            "text": text,
            **fields,
        }
        return await self.updates(message=message)

    async def updates(self, **update):
        """Add an update of any kind; returns its id."""
        self._ids += 1
        self.pending.append({"update_id": self._ids, **update})
        await self._notify()
        return self._ids

    async def until(self, condition):
        """Wait until `condition()` holds after a request."""
        async with asyncio.timeout(_LONG_S), self._changed:
            await self._changed.wait_for(condition)

    def will_refuse(self, status, description, **parameters):
        """Answer every sendMessage with an error."""
        self.answer = refusal(status, description, **parameters)

    async def _get_me(self, request):
        if request.match_info["token"] != TOKEN:
            return web.json_response(_error(401, "Unauthorized"), status=401)
        me = {"id": 1, "is_bot": True, "first_name": "Guard", "username": BOT_NAME}
        return web.json_response({"ok": True, "result": me})

    async def _get_updates(self, request):
        form = dict(await request.post())
        self.polls.append(form)
        await self._notify()
        if self.poll_answers:
            status, body = self.poll_answers.pop(0)
            return web.Response(status=status, text=body, content_type="application/json")
        offset = int(form.get("offset", 0))
        # Whoever asks for later ones has seen the earlier.
        self.pending = [update for update in self.pending if update["update_id"] >= offset]
        async with self._changed:
            await self._changed.wait_for(lambda: self.pending or self.release.is_set())
        return web.json_response({"ok": True, "result": self.pending})

    async def _send_message(self, request):
        form = await request.post()
        self.messages.append(dict(form))
        await self._notify()
        if self.answer == "hang":
            await self.release.wait()
        elif self.answer == "drip":
            return await self._drip(request)
        elif self.answer is not None:
            status, body = self.answer
            return web.Response(status=status, text=body, content_type="application/json")
        if request.match_info["token"] != TOKEN:
            return web.json_response(_error(401, "Unauthorized"), status=401)
        chat = {"id": int(form["chat_id"]), "type": "private"}
        result = {"message_id": 1, "date": 0, "chat": chat, "text": form["text"]}
        return web.json_response({"ok": True, "result": result})

    async def _drip(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while not self.release.is_set():
                await response.write(b" ")
                await asyncio.sleep(0.02)
        return response

    async def _notify(self):
        async with self._changed:
            self._changed.notify_all()


def refusal(status, description, **parameters):
    """Return the status and body of an answer that refuses."""
    return status, json.dumps(_error(status, description, **parameters))


def _error(status, description, **parameters):
    answer = {"ok": False, "error_code": status, "description": description}
    return answer | ({"parameters": parameters} if parameters else {})
