"""What a method may know of its world: what machines tell of themselves.

Machines tell of their load and links as the agent's records do: a change at once, but at most one word every
``DRIFT_SPACING_S``. Requests are counted where they come, by the core's ``demand``.
"""

from shoal_agent.core.gossip import DRIFT_SPACING_S
from shoal_agent.core.problem import Demand
from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.trace import Trace, delayed


class Sight:
    """What is known of load and links."""

    def __init__(self, trace: Trace, *, fresh: bool) -> None:
        spacing_s = 0.0 if fresh else DRIFT_SPACING_S
        self._busy = tuple(delayed(steps, spacing_s) for steps in trace.busy)
        self._link = tuple(delayed(steps, spacing_s) for steps in trace.link)

    def conditions(self, now: float, nodes: tuple[int, ...], demand: Demand) -> cluster.Conditions:
        """As they were told last."""
        busy = tuple(round(1000 * steps.at(now)) for steps in self._busy)
        return cluster.Conditions(nodes, busy, tuple(round(1000 * steps.at(now)) for steps in self._link), demand)
