"""One read for all who ask at the same time: the exchange allows few."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from marginguard.domain.errors import MarginguardError

_T = TypeVar("_T")


class Shared(Generic[_T]):
    """A read that several may wait for.

    Who asks gets what a read brought, its failure included, that began after the asking: never
    an answer that was under way before. So any number that ask at once cost two reads at most.
    """

    def __init__(self, read: Callable[[], Awaitable[_T]]) -> None:
        self._read = read
        self._line = asyncio.Lock()
        self._begun = 0
        # Wrapped, since a read may well bring None.
        self._result: tuple[_T] | MarginguardError | None = None

    async def get(self) -> _T:
        """Return what a read brought that began just now; raises what it raised."""
        begun_before = self._begun
        async with self._line:
            if self._begun == begun_before or self._result is None:
                self._begun += 1
                self._result = None
                try:
                    self._result = (await self._read(),)
                except MarginguardError as error:
                    self._result = error
            result = self._result
        if isinstance(result, MarginguardError):
            raise result
        return result[0]
