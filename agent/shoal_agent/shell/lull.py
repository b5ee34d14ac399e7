"""Reading a socket in sips: all there is, then nothing for a moment.

A heartbeat costs its hearer two or three times as much when it comes alone: the processor was elsewhere, and the code
that takes it in has to come back into its caches first. What comes in many small pieces is therefore taken together,
as network cards do with their interrupts (coalescing): whatever lies in the socket is read, and then nobody looks at
it for ``LULL_S``. Who is quiet loses nothing by it: the first message after a silence is read at once. Measured with
twenty agents on two brokers: hearing the others costs a fifth less.

Whoever waits for an answer on this socket is in a ``hurry``; meanwhile there are no lulls.
"""

import asyncio
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LULL_S: Final = 0.1
"""A tenth of the time between two heartbeats: nothing that is judged by them is judged finer. What is urgent does not
come this way alone: votes and phases travel over the data plane as well."""
SIPS_MAX: Final = 64
"""Reads in a row; then other work has its turn."""


class Lull:
    """Reads ``source`` by calling ``read``, which takes one message if there is one. Replaces any other reader."""

    def __init__(self, source: socket.socket, read: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._read = read
        self._timer: asyncio.TimerHandle | None = None
        self._hurries = 0
        self._poll = select.poll()
        self._poll.register(source.fileno(), select.POLLIN)
        self._look()

    @contextmanager
    def hurry(self) -> Iterator[None]:
        """Read at once whatever comes during the block."""
        self._hurries += 1
        self._wake()
        try:
            yield
        finally:
            self._hurries -= 1

    def end(self) -> None:
        """No lulls any more; whoever closes the socket takes the reader away."""
        self._hurries += 1
        self._wake()

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._look()

    def _look(self) -> None:
        self._timer = None
        if not self._closed():
            self._loop.add_reader(self._source.fileno(), self._sip)

    def _sip(self) -> None:
        for _ in range(SIPS_MAX):
            self._read()
            if self._closed():
                return
            if not self._poll.poll(0):
                break
        else:
            return
        if not self._hurries:
            self._loop.remove_reader(self._source.fileno())
            self._timer = self._loop.call_later(LULL_S, self._look)

    def _closed(self) -> bool:
        return self._source.fileno() < 0
