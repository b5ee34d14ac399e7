"""How many calls of one service run at a time: a gate whose width may change while calls wait at it.

Whoever comes first goes first. A narrower gate takes effect as those inside leave; nobody is thrown out. Unlike a
semaphore it has no permits to get lost: it only counts who is inside.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Width:
    """A gate of ``width``; use it on one loop."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        """How many are inside."""
        return self._inside

    def set(self, width: int) -> None:
        """So many from now on."""
        self._width = width
        self._admit()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a place, and leave it at the end."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._waiting.remove(place)
            else:
                self._leave()  # it was let in just as it gave up
            raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        self._inside -= 1
        self._admit()

    def _admit(self) -> None:
        for place in list(self._waiting):
            if self._inside >= self._width:
                return
            self._waiting.remove(place)
            if not place.done():
                self._inside += 1
                place.set_result(None)
