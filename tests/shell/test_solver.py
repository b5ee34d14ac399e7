import asyncio
import time

import pytest

from shoal_agent.core.backbone import Backbone
from shoal_agent.core.effects import SOLVES_MAX, Solve
from shoal_agent.core.events import Solved
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import Candidate, Infeasible, problem_of
from shoal_agent.shell.solver import Solver
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import Terms
from tests.support.backbones import card_problem, machine, problem, service
from tests.support.toy import toy_facts

STALL_S_MAX = 0.05
NODES = [NodeId(letter * 32) for letter in "abcdefgh"]
HARD = problem_of(toy_facts(16), Terms(stages_min=3), 512, tuple(Candidate(n, 10**9, 10**9) for n in NODES))
NOTHING = problem_of(toy_facts(16), Terms(), 512, ())


async def test_a_problem_is_solved_beside_the_loop():
    answers: asyncio.Queue[Solved] = asyncio.Queue()
    solver = Solver(answers.put_nowait)
    solver.solve(Solve(1, HARD))
    solver.solve(Solve(2, NOTHING))
    turns = 0
    while answers.empty():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10, "the loop went on turning"
    assert await answers.get() == Solved(1, split_model(HARD))
    second = await asyncio.wait_for(answers.get(), 10)
    assert second.ticket == 2
    assert isinstance(second.answer, Infeasible)
    await solver.close()


async def test_no_more_are_taken_than_were_agreed():
    answers: asyncio.Queue[Solved] = asyncio.Queue()
    solver = Solver(answers.put_nowait)
    for ticket in range(SOLVES_MAX):
        solver.solve(Solve(ticket, HARD))
    with pytest.raises(AssertionError):
        solver.solve(Solve(9, NOTHING))
    await solver.close()
    assert [answers.get_nowait().ticket for _ in range(SOLVES_MAX)] == list(range(SOLVES_MAX))


async def test_places_for_standbys_are_found_beside_the_loop():
    answers: asyncio.Queue[Solved] = asyncio.Queue()
    solver = Solver(answers.put_nowait)
    solver.solve(Solve(1, problem([machine("a"), machine("b")], [service("s")])))
    with pytest.raises(AssertionError):
        solver.solve(Solve(2, problem([machine("a"), machine("b")], [service("s")])))
    assert await asyncio.wait_for(answers.get(), 10) == Solved(1, Backbone(((1, 1),)))
    solver.solve(Solve(3, problem([machine("a"), machine("b", 3)], [service("s")])))
    assert await asyncio.wait_for(answers.get(), 10) == Solved(3, Backbone(None))
    await solver.close()


async def test_no_split_waits_for_the_backbone():
    """Its programme may take seconds, and a repair has two of them."""
    answers: asyncio.Queue[Solved] = asyncio.Queue()
    solver = Solver(answers.put_nowait)
    solver.solve(Solve(1, card_problem(9)))
    solver.solve(Solve(2, NOTHING))
    assert [(await asyncio.wait_for(answers.get(), 30)).ticket for _ in range(2)] == [2, 1]
    await solver.close()


async def test_heartbeats_go_on_while_a_backbone_of_ten_machines_is_solved():
    """HiGHS lets go of the interpreter. A machine under load stalls anybody now and then: the best of three counts."""
    stalls: list[float] = []
    while len(stalls) < 3 and (not stalls or min(stalls) >= STALL_S_MAX):
        answers: asyncio.Queue[Solved] = asyncio.Queue()
        solver, worst = Solver(answers.put_nowait), 0.0
        solver.solve(Solve(1, card_problem(9)))
        while answers.empty():
            before = time.monotonic()
            await asyncio.sleep(0.005)
            worst = max(worst, time.monotonic() - before - 0.005)
        await solver.close()
        stalls.append(worst)
    assert min(stalls) < STALL_S_MAX, stalls
