"""Virtual time: an agenda of what happens in the world, and an event loop that lives by it."""

import asyncio
import heapq
from collections.abc import Callable
from itertools import count


class DeadlockError(Exception):
    """Everybody waits, and nothing is ever going to happen."""


class Agenda:
    """The world's clock, in seconds, and what is due when. Nothing else makes time pass."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, at_s: float, happening: Callable[[], None]) -> None:
        """Let `happening` happen at `at_s`; what is due at one time happens in order of asking."""
        heapq.heappush(self._due, (max(at_s, self.now_s), next(self._order), happening))

    def after(self, delay_s: float, happening: Callable[[], None]) -> None:
        """Let `happening` happen in `delay_s` seconds."""
        self.at(self.now_s + delay_s, happening)

    def pass_time(self, until_s: float) -> None:
        """Let time pass until `until_s`, and happen what is due by then."""
        while self._due and self._due[0][0] <= until_s:
            self._next()
        self.now_s = max(self.now_s, until_s)

    def idle(self, timeout_s: float | None) -> None:
        """Let one thing happen, or `timeout_s` seconds pass, whichever is sooner."""
        if timeout_s is None:
            if not self._due:
                raise DeadlockError
            self._next()
            return
        until_s = self.now_s + timeout_s
        if self._due and self._due[0][0] <= until_s:
            self._next()
        else:
            self.now_s = until_s

    def _next(self) -> None:
        at_s, _, happening = heapq.heappop(self._due)
        self.now_s = max(self.now_s, at_s)
        happening()


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop without sockets and threads: when nothing is ready, the agenda goes on.

    It is the loop's own selector: what asyncio takes for waiting is time that passes.
    """

    def __init__(self, agenda: Agenda) -> None:
        super().__init__()
        self.set_debug(False)
        self._agenda = agenda
        self._selector = self
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Return the world's time."""
        return self._agenda.now_s

    def select(self, timeout: float | None) -> list[object]:
        """Wait for nothing but time; while something is ready there is no waiting at all."""
        if timeout is None or timeout > 0:
            self._agenda.idle(timeout)
        return []

    def _process_events(self, event_list: list[object]) -> None:
        """There are no events but the agenda's."""

    def _write_to_self(self) -> None:
        """There is no other thread that could wake the loop."""

    def abandon(self) -> None:
        """Drop everything that still waits, as the end of a process does.

        The loop must have been stopped; nothing that runs here may reach the world any more.
        """
        self.set_exception_handler(lambda _loop, _context: None)
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
        for task in tasks:
            task._log_destroy_pending = False
        for task in tasks:
            _close(task)
        self._ready.clear()
        self._scheduled.clear()
        self.close()


def _close(task: "asyncio.Task[object]") -> None:
    """Close a task's coroutine; one that waits again on its way out is closed again."""
    for _ in range(20):
        try:
            task.get_coro().close()
        except RuntimeError:
            continue
        except BaseExceptionGroup:
            pass  # it ended, and a task group told of it
        return
