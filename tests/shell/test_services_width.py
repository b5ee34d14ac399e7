import asyncio

import pytest

from shoal_agent.shell.services.width import Width


async def enter(width: Width, inside: list[int], number: int, leave: asyncio.Event) -> None:
    async with width.one():
        inside.append(number)
        await leave.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def scene():
    width, inside, leave = Width(1), [], asyncio.Event()
    tasks = [asyncio.create_task(enter(width, inside, number, leave)) for number in range(4)]
    await settle()
    yield width, inside, leave, tasks
    leave.set()
    width.set(9)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(width) == 0


async def test_as_many_as_it_is_wide_are_inside_in_their_order(scene):
    width, inside, leave, tasks = scene
    assert (inside, len(width)) == ([0], 1)
    width.set(3)
    await settle()
    assert inside == [0, 1, 2]
    leave.set()
    await asyncio.gather(*tasks)
    assert inside == [0, 1, 2, 3]


async def test_a_narrower_gate_throws_nobody_out(scene):
    width, inside, _, tasks = scene
    width.set(2)
    width.set(1)
    await settle()
    assert len(width) == 2
    tasks[0].cancel()
    await settle()
    assert (inside, len(width)) == ([0, 1], 1)
    tasks[1].cancel()
    await settle()
    assert inside == [0, 1, 2]


async def test_who_gives_up_waiting_keeps_no_place(scene):
    width, inside, _, tasks = scene
    tasks[1].cancel()
    await settle()
    width.set(2)
    await settle()
    assert inside == [0, 2]


async def test_who_gives_up_just_as_it_is_let_in_makes_room(scene):
    width, inside, _, tasks = scene
    width.set(2)
    tasks[1].cancel()
    await settle()
    assert inside == [0, 2]
    assert len(width) == 2
