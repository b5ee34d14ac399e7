"""The planner beside the loop: a search over eight nodes takes a tenth of a second, a hundred tokens' worth of waiting.

One thread, one problem at a time, at most SOLVES_MAX of them; each is answered once. The planner is a function of the
problem alone, so it does not matter where it runs: the simulator calls it in place.
"""

from functools import partial

from shoal_agent.core.backbone import Backbone, BackboneProblem
from shoal_agent.core.effects import SOLVES_MAX, Solve
from shoal_agent.core.events import Solved
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import Infeasible, Split, SplitProblem
from shoal_agent.highs import place
from shoal_agent.shell.lanes import Lanes
from shoal_agent.shell.ports import Post


class Solver:
    """Create it inside the loop; ``close`` it at the end."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._lanes = Lanes("planner", 1)
        self._waiting = 0

    def solve(self, effect: Solve) -> None:
        """Answered by Solved."""
        assert self._waiting < SOLVES_MAX, "the node asks for no more at once"
        self._waiting += 1
        self._lanes.submit(partial(_answer, effect.problem), partial(self._solved, effect.ticket))

    def _solved(self, ticket: int, answer: Split | Infeasible | Backbone) -> None:
        self._waiting -= 1
        self._post(Solved(ticket, answer))

    async def close(self) -> None:
        """Wait for what is under way."""
        await self._lanes.close()


def _answer(problem: SplitProblem | BackboneProblem) -> Split | Infeasible | Backbone:
    return Backbone(place(problem).counts) if isinstance(problem, BackboneProblem) else split_model(problem)
