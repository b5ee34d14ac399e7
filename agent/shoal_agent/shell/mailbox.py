"""What waits to be published on one broker.

Each link has its own, so that a slow broker delays nobody else. It is bounded and it coalesces: of a retained topic
only the latest message is worth sending, and it keeps the place in line of the one it replaces. When it is full, the
oldest message that need not arrive goes first: an old heartbeat tells less than a new one. Votes, which are to arrive
at least once, go when there is nothing else to give up, and records last; nothing goes for something that matters
less.

Relayed messages wait apart, ``aside``: they leave when nothing else wants to, so that a heartbeat waits for one of them
at most, however many there are. Of those the newest is dropped when there are too many; it will be sent again.

A message is taken out only when it was sent. One that was under way when its link broke is sent again by the next
link; receivers know copies by their bytes.
"""

import asyncio
from collections import deque
from itertools import count

from shoal_agent.core.effects import Broadcast


def _rank(message: Broadcast) -> tuple[bool, bool]:
    """Of two messages the lower is given up first; among equals, the older one."""
    return message.retain, message.at_least_once


class Mailbox:
    """A queue for one reader, on the loop's thread."""

    def __init__(self, messages_max: int, aside_max: int = 0) -> None:
        self._messages_max = messages_max
        self._aside: deque[Broadcast] = deque()
        self._aside_max = aside_max
        self._waiting: dict[str | int, Broadcast] = {}
        self._serial = count()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: Broadcast) -> int:
        """Queue ``message``; the number of messages that were dropped for it (0 or 1)."""
        key = message.topic if message.retain else next(self._serial)
        dropped = 0
        if key not in self._waiting and len(self._waiting) >= self._messages_max:
            least = min(self._waiting, key=lambda each: _rank(self._waiting[each]))
            if _rank(message) < _rank(self._waiting[least]):
                return 1
            del self._waiting[least]
            dropped = 1
        self._waiting[key] = message
        self._changed.set()
        return dropped

    def put_aside(self, message: Broadcast) -> bool:
        """Queue ``message`` behind everything else; False if there is no place for it."""
        if len(self._aside) >= self._aside_max:
            return False
        self._aside.append(message)
        self._changed.set()
        return True

    async def first(self) -> Broadcast:
        """The message that is next, once there is one; it stays until it is ``sent``."""
        while not self._waiting and not self._aside:
            self._changed.clear()
            await self._changed.wait()
        return next(iter(self._waiting.values())) if self._waiting else self._aside[0]

    def sent(self, message: Broadcast) -> None:
        """Take ``message`` out, unless a newer one took its place meanwhile."""
        if self._aside and self._aside[0] is message:
            self._aside.popleft()
            return
        for key, waiting in self._waiting.items():
            if waiting is message:
                del self._waiting[key]
                break
        self._changed.set()

    def forget_passing(self) -> None:
        """The link broke: what is not retained was meant for a moment that is over."""
        self._aside.clear()
        self._waiting = {key: message for key, message in self._waiting.items() if message.retain}
        self._changed.set()

    async def emptied(self) -> None:
        """Returns when nothing waits."""
        while self._waiting:
            self._changed.clear()
            await self._changed.wait()
