"""The planner in a virtual world: in place, and remembered.

Nodes that believe the same pose the same problem, and the planner is a function of the problem alone: of five voters
who ask at once, one pays.
"""

from functools import lru_cache
from typing import Final

from shoal_agent.core.backbone import Backbone, BackboneProblem
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import Infeasible, Split, SplitProblem
from shoal_agent.highs import BY_NODES, place

SOLUTIONS_MAX: Final = 4096
"""Problems remembered, over worlds: a few kilobytes each."""


@lru_cache(maxsize=SOLUTIONS_MAX)
def solution(problem: SplitProblem | BackboneProblem) -> Split | Infeasible | Backbone:
    """What the planner answers."""
    if isinstance(problem, BackboneProblem):
        return Backbone(place(problem, BY_NODES).counts)
    return split_model(problem)
