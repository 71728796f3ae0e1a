"""One open WebSocket to the exchange's stream: requests with their answers, and pushes."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

import aiohttp
import structlog

from marginguard.domain.errors import Malformed, Rejected, Unreachable
from marginguard.lnmarkets import stream_protocol
from marginguard.lnmarkets.stream_protocol import Answer, Frame
from marginguard.ports import Clock

_CLOSED: Final = frozenset(
    {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED}
)


class BoundedLog:
    """Logs a recurring fault when it first happens and then at most once in `every_s`."""

    def __init__(self, event: str, clock: Clock, *, every_s: float = 60.0, **context: str) -> None:
        self._event = event
        self._clock = clock
        self._every_s = every_s
        self._context = context
        self._told_s: float | None = None
        self._untold = 0
        self.count = 0

    def note(self, reason: str) -> None:
        """Count one occurrence."""
        self.count += 1
        self._untold += 1
        now_s = self._clock.monotonic()
        if self._told_s is not None and now_s - self._told_s < self._every_s:
            return
        structlog.get_logger().warning(
            self._event, reason=reason, times=self._untold, **self._context
        )
        self._told_s, self._untold = now_s, 0


class Connection:
    """An open connection: requests with their answers, and the pushes in between."""

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse[bool],
        *,
        answer_s: float,
        malformed: BoundedLog,
    ) -> None:
        self._socket = socket
        self._answer_s = answer_s
        self._malformed = malformed
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._requests = 0

    async def call(self, method: str, params: dict[str, object] | None = None) -> object:
        """Send a request and return its result, while `read` runs.

        Raises `Unreachable` when no answer comes in time, `Rejected` or `Unauthorized` when it
        is a refusal, `Transient` when it is another error.
        """
        self._requests += 1
        request_id = str(self._requests)
        answered = self._waiting[request_id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._answer_s):
                await self._socket.send_frame(
                    stream_protocol.request(request_id, method, params), aiohttp.WSMsgType.TEXT
                )
                answer = await answered
        except TimeoutError as error:
            raise Unreachable(f"no answer to {method} within {self._answer_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{method} could not be sent: {cause(error)}") from error
        finally:
            del self._waiting[request_id]
        if answer.error is not None:
            raise answer.error
        return answer.result

    async def subscribe(self, topics: Iterable[str]) -> tuple[str, ...]:
        """Subscribe to each topic by itself and return those that the exchange grants.

        One refusal must not take the others along; raises `Rejected` when every one is refused,
        and else what `call` raises.
        """
        granted = []
        refused: dict[str, Rejected] = {}
        for topic in topics:
            try:
                await self.call("subscribe", {"topics": [topic]})
            except Rejected as error:
                refused[topic] = error
            else:
                granted.append(topic)
        for topic, refusal in refused.items():
            if not granted:
                raise refusal
            structlog.get_logger().warning(
                "stream.topic_refused",
                topic=topic,
                error=str(refusal),
                advice="see that the key has the permissions to read; until then the interval"
                " does this topic's work",
            )
        return tuple(granted)

    async def read(self, push: Callable[[Frame], None]) -> NoReturn:
        """Hand on every push, in order, until the connection ends: raises `Unreachable`.

        A message that cannot be used is counted and left out.
        """
        receive = self._socket.receive
        text = aiohttp.WSMsgType.TEXT
        parse = stream_protocol.parse
        while True:
            message = await receive()
            try:
                if message.type is not text:
                    raise self._not_text(message.type, message.data)
                frame = parse(message.data)
            except Malformed as error:
                self._malformed.note(str(error))
                continue
            if type(frame) is Answer:
                self._settle(frame)
            elif frame is not None:
                push(frame)

    async def beat(self, every_s: float) -> NoReturn:
        """Ask for a sign of life now and then; raises `Unreachable` when none comes."""
        while True:
            await asyncio.sleep(every_s)
            await self.call("ping")

    def _settle(self, answer: Answer) -> None:
        answered = self._waiting.get(answer.id)
        if answered is None:
            self._malformed.note("an answer to nothing that was asked")
        elif not answered.done():
            answered.set_result(answer)

    def _not_text(self, kind: aiohttp.WSMsgType, data: object) -> Malformed | Unreachable:
        if kind in _CLOSED:
            return Unreachable(f"the exchange hung up (code {self._socket.close_code})")
        if kind is aiohttp.WSMsgType.ERROR:
            return Unreachable(f"the connection broke: {data}")
        return Malformed("a message of the stream is not text")


def cause(error: Exception) -> str:
    """Return what an error says of itself, or at least its name."""
    return str(error) or type(error).__name__
