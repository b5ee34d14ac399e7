import asyncio

import pytest

from shoal_agent.core.effects import SOLVES_MAX, Solve
from shoal_agent.core.events import Solved
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import Candidate, Infeasible, problem_of
from shoal_agent.shell.solver import Solver
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import Terms
from tests.support.toy import toy_facts

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
