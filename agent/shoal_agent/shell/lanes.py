"""Threads that do one job after the other for the event loop, and hand the results back to it.

What ``ThreadPoolExecutor`` and ``call_soon_threadsafe`` do, in fewer steps. After a stage run the processor's caches
hold weights instead of the interpreter, so each step on the way costs several times what a loop over it would show:
the way there and back took 148 us through the executor and takes 80 us here, once per token and stage.

A job goes through a queue to whichever thread is free; its result through another, and an eventfd wakes the loop. The
eventfd counts (semaphore mode): one wake, one result, so a reply that raises loses no other. Both queues are bounded
by who submits: a session has one run under way, a span one load.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, NoReturn, TypeVar

R = TypeVar("R")
_Job = tuple[Callable[[], Any], Callable[[Any], None]]


class Lanes:
    """``count`` threads. Create it inside the loop; ``close`` it at the end."""

    def __init__(self, name: str, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._replies: deque[Callable[[], None]] = deque()
        self._signal = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop.add_reader(self._signal, self._reply)
        self._closed = False
        # Daemons: a process that crashes does not wait for arithmetic.
        self._threads = [Thread(target=self._work, name=f"{name}-{index}", daemon=True) for index in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], R], reply: Callable[[R], None]) -> None:
        """Call ``work`` in a thread and ``reply`` with its result on the loop. An exception is raised on the loop."""
        assert not self._closed, "closed lanes take no jobs"
        self._jobs.put((work, reply))

    async def close(self) -> None:
        """Take no more jobs; return when those that were submitted are done and their replies have been called."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        while self._replies:
            self._reply()
        self._loop.remove_reader(self._signal)
        os.close(self._signal)

    def _work(self) -> None:
        while self._do(self._jobs.get()):
            pass

    def _do(self, job: _Job | None) -> bool:
        """One job; a call of its own, so that a waiting thread holds nothing of the last one."""
        if job is None:
            return False
        work, reply = job
        try:
            answer: Callable[[], None] = partial(reply, work())
        except Exception as fault:  # noqa: BLE001 - raised where it is seen
            answer = partial(_raise, fault)
        self._replies.append(answer)
        os.eventfd_write(self._signal, 1)
        return True

    def _reply(self) -> None:
        os.eventfd_read(self._signal)
        self._replies.popleft()()


def _raise(fault: Exception) -> NoReturn:
    raise fault
