import asyncio
import gc
import os
import threading
import weakref

import pytest

from shoal_agent.shell.lanes import Lanes

WAIT_S = 10


@pytest.fixture
async def lanes():
    made = Lanes("test", 1)
    yield made
    if not made._closed:
        await made.close()


class Payload:
    """Something a weak reference can watch."""


async def result(lanes, work):
    answer = asyncio.get_running_loop().create_future()
    lanes.submit(work, answer.set_result)
    return await asyncio.wait_for(answer, WAIT_S)


async def test_work_happens_elsewhere_and_its_result_comes_back_on_the_loop(lanes):
    answer = asyncio.get_running_loop().create_future()
    lanes.submit(threading.current_thread, lambda worker: answer.set_result((worker, threading.current_thread())))
    worker, replied_in = await asyncio.wait_for(answer, WAIT_S)
    assert worker.name == "test-0"
    assert replied_in is threading.current_thread()


async def test_jobs_are_done_one_by_one_in_order(lanes):
    done, replied = [], []
    for number in range(100):
        lanes.submit(lambda number=number: done.append(number) or number, replied.append)
    await lanes.close()
    assert done == replied == list(range(100))


async def test_several_lanes_work_at_the_same_time():
    lanes = Lanes("pair", 2)
    barrier = threading.Barrier(2)
    results = await asyncio.gather(*(result(lanes, lambda: barrier.wait(WAIT_S)) for _ in range(2)))
    assert sorted(results) == [0, 1]
    await lanes.close()


async def test_the_loop_turns_while_a_lane_works(lanes):
    gate = threading.Event()
    waiting = asyncio.ensure_future(result(lanes, lambda: gate.wait(WAIT_S)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    gate.set()
    assert await waiting is True


async def test_an_exception_is_raised_on_the_loop_and_stops_nothing(lanes):
    seen = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context["exception"]))
    done = threading.Event()
    lanes.submit(lambda: 1 / 0, seen.append)
    lanes.submit(lambda: 1, lambda number: {}[number])
    lanes.submit(done.set, lambda _: None)
    assert done.wait(WAIT_S), "now three replies wait for one turn of the loop"
    assert await result(lanes, lambda: 7) == 7
    assert [type(fault) for fault in seen] == [ZeroDivisionError, KeyError]


async def test_a_waiting_lane_holds_nothing_of_its_last_job(lanes):
    payload = Payload()
    watched = weakref.ref(payload)

    def work(held=payload):
        return held is not None

    del payload
    assert await result(lanes, work) is True
    del work
    gc.collect()
    assert watched() is None


async def test_closing_waits_for_jobs_and_replies_and_leaves_nothing(lanes):
    replied, gate = [], threading.Event()
    lanes.submit(lambda: gate.wait(WAIT_S), replied.append)
    lanes.submit(lambda: 2, replied.append)
    closing = asyncio.ensure_future(lanes.close())
    await asyncio.sleep(0)
    assert not closing.done()
    gate.set()
    await asyncio.wait_for(closing, WAIT_S)
    assert replied == [True, 2]
    assert not any(thread.name.startswith("test-") for thread in threading.enumerate())
    with pytest.raises(OSError):
        os.fstat(lanes._signal)
    with pytest.raises(AssertionError, match="no jobs"):
        lanes.submit(int, replied.append)
