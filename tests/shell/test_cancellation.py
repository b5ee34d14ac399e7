import asyncio
import gc

import pytest

from shoal_agent.shell.cancellation import cancel, finish


async def deaf(times: int) -> str:
    """Swallows the first cancellations."""
    for _ in range(times):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue
    await asyncio.Event().wait()
    return "never"


@pytest.mark.parametrize("times", [0, 1, 2])
async def test_a_task_that_does_not_hear_is_told_again(times):
    task = asyncio.create_task(deaf(times))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await cancel(task)
    assert task.cancelled()


async def test_results_and_errors_come_through():
    async def work(value: int) -> float:
        return 1 / value

    assert await finish(work(2)) == 0.5
    with pytest.raises(ZeroDivisionError):
        await finish(work(0))


async def test_our_own_cancellation_is_never_lost():
    """Even if the work is done in the very turn in which we are cancelled, as wait_for would have it."""
    done = asyncio.Event()

    async def outer() -> None:
        await finish(done.wait())
        raise AssertionError("it was cancelled")

    task = asyncio.create_task(outer())
    for _ in range(3):
        await asyncio.sleep(0)
    done.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_fate_of_cancelled_work_is_no_news():
    """An error on the way out belongs to nobody, and is not reported as one that was never looked at."""

    async def stumbles() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    heard = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: heard.append(context))
    task = asyncio.create_task(stumbles())
    await asyncio.sleep(0)
    await cancel(task)
    assert task.done()
    del task
    gc.collect()
    assert heard == []
