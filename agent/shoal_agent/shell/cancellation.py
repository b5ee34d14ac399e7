"""Cancelling what was written by others.

Before Python 3.12, ``asyncio.wait_for`` may swallow a cancellation: if what it waits for is done in the same turn of
the loop, it returns the result and forgets that it was cancelled. Code built on it (aiomqtt is) may then wait for
ever for something that will not come, and whoever cancelled it waits with it. So such code runs in a task of its
own, is waited for with ``asyncio.wait``, which has no such gap, and is cancelled until it has heard.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

AGAIN_S: Final = 0.1
"""Long enough for a task to end in order, short enough that nobody notices that it was told twice."""

Result = TypeVar("Result")


async def finish(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, or its exception, or our own cancellation: never lost on the way."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task])
    finally:
        await cancel(task)
    return task.result()


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Returns when all of ``tasks`` have ended; how they did is theirs."""
    waiting = {task for task in tasks if not task.done()}
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()
