"""Reading sockets in sips: all there is, then nothing for a moment.

A heartbeat costs its hearer two or three times as much when it comes alone: the processor was elsewhere, and the code
that takes it in has to come back into its caches first. What comes in many small pieces is therefore taken together,
as network cards do with their interrupts (coalescing): whatever lies in any of the sockets is read, and then nobody
looks at them for ``LULL_S``. All brokers are read in the same sip, since they carry the same words at the same time:
the second copy finds everything warm, and the loop is woken half as often. Who is quiet loses nothing by it: the first
message after a silence is read at once.

Whoever waits for an answer on a socket is in a ``hurry``; meanwhile there are no lulls for that one.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LULL_S: Final = 0.1
"""A tenth of the time between two heartbeats: nothing that is judged by them is judged finer. What is urgent does not
come this way alone: votes and phases travel over the data plane as well."""
SIPS_MAX: Final = 16
"""Reads in a row of one socket; then other work has its turn, and what is left comes right after it: it may lie where
no kernel sees it, for TLS decrypts more than it is asked for."""


class Lull:
    """The common rhythm of several sockets. Either somebody looks at all of them, or they rest and a timer runs."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sources: list[Source] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def resting(self) -> bool:
        """Whether nobody looks, except for those in a hurry."""
        return self._timer is not None

    def join(self, source: socket.socket, read: Callable[[], bool]) -> "Source":
        """Read ``source`` with the others by calling ``read``: it takes a piece, or says that there is none.

        Replaces any other reader of that socket.
        """
        joined = Source(self, self._loop, source, read)
        self._sources.append(joined)
        joined.look()
        return joined

    def leave(self, source: "Source") -> None:
        """Read the others without ``source``."""
        self._sources.remove(source)

    def sip(self) -> None:
        """Read all there is; then rest, unless that was nothing."""
        self._timer = None
        sips = max([source.drink() for source in self._sources], default=0)
        if not sips:
            for source in self._sources:
                source.look()
            return
        self._timer = self._loop.call_later(LULL_S if sips < SIPS_MAX else 0.0, self.sip)
        for source in self._sources:
            source.rest()


class Source:
    """One socket in a lull. Once it is closed, nothing more is done to it."""

    def __init__(
        self, lull: Lull, loop: asyncio.AbstractEventLoop, source: socket.socket, read: Callable[[], bool]
    ) -> None:
        self._lull = lull
        self._loop = loop
        self._source = source
        self._read = read
        self._hurries = 0
        self._looking = False

    @contextmanager
    def hurry(self) -> Iterator[None]:
        """Read at once whatever comes during the block."""
        self._hurries += 1
        self.look()
        try:
            yield
        finally:
            self._hurries -= 1
            if self._lull.resting:
                self.rest()

    def end(self) -> None:
        """No lulls any more; whoever closes the socket takes the reader away."""
        self._lull.leave(self)
        self._hurries += 1
        self.look()

    def look(self) -> None:
        """Read as soon as there is something."""
        if not self._looking and not self._closed():
            self._looking = True
            self._loop.add_reader(self._source.fileno(), self._stirred)

    def rest(self) -> None:
        """Do not look, unless somebody is in a hurry."""
        if self._looking and not self._hurries and not self._closed():
            self._looking = False
            self._loop.remove_reader(self._source.fileno())

    def drink(self) -> int:
        """Read all there is, or as much as fits into one turn; how often something was there."""
        for sips in range(SIPS_MAX):
            if self._closed() or not self._read():
                return sips
        return SIPS_MAX

    def _stirred(self) -> None:
        if not self._hurries:
            self._lull.sip()
        elif self.drink() == SIPS_MAX:
            self._loop.call_soon(self._stirred)

    def _closed(self) -> bool:
        return self._source.fileno() < 0
