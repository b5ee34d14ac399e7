"""The planner beside the loop: a search over eight nodes takes a tenth of a second, a hundred tokens' worth of waiting.

One thread for splits, at most SOLVES_MAX of them, and one for the backbone, whose programme may take seconds that no
repair should wait; one problem at a time in each, and each is answered once. The planner is a function of the
problem alone, so it does not matter where it runs: the simulator calls it in place.
"""

from functools import partial

from shoal_agent.core.backbone import Backbone, BackboneProblem
from shoal_agent.core.effects import SOLVES_MAX, Solve
from shoal_agent.core.events import Solved
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import Infeasible, Split
from shoal_agent.highs import Solution, place
from shoal_agent.shell.lanes import Lanes
from shoal_agent.shell.ports import Post


class Solver:
    """Create it inside the loop; ``close`` it at the end."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._splits, self._backbone = Lanes("planner", 1), Lanes("backbone", 1)
        self._waiting = 0
        self._placing = False

    def solve(self, effect: Solve) -> None:
        """Answered by Solved."""
        ticket, problem = effect.ticket, effect.problem
        if isinstance(problem, BackboneProblem):
            assert not self._placing, "the node asks for one at a time"
            self._placing = True
            self._backbone.submit(partial(place, problem), partial(self._placed, ticket))
            return
        assert self._waiting < SOLVES_MAX, "the node asks for no more at once"
        self._waiting += 1
        self._splits.submit(partial(split_model, problem), partial(self._solved, ticket))

    def _solved(self, ticket: int, answer: Split | Infeasible) -> None:
        self._waiting -= 1
        self._post(Solved(ticket, answer))

    def _placed(self, ticket: int, answer: Solution) -> None:
        self._placing = False
        self._post(Solved(ticket, Backbone(answer.counts)))

    async def close(self) -> None:
        """Wait for what is under way."""
        await self._splits.close()
        await self._backbone.close()
