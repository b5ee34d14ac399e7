"""The planner in a virtual world: in place, and remembered.

Nodes that believe the same pose the same problem, and the planner is a function of the problem alone: of five voters
who ask at once, one pays.
"""

from functools import lru_cache
from typing import Final

from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import Infeasible, Split, SplitProblem

SOLUTIONS_MAX: Final = 4096
"""Problems remembered, over worlds: a few kilobytes each."""


@lru_cache(maxsize=SOLUTIONS_MAX)
def solution(problem: SplitProblem) -> Split | Infeasible:
    """What the planner answers."""
    return split_model(problem)
