"""Every method by its name, made for one trace. All that plan share one planner, so each question is asked once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from shoal_agent.core.decision import Choice
from shoal_agent.core.problem import Split, stages_of
from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.adaptive import Adaptive, Rules, first_plan
from shoal_agent.experiments.paper_b.auction import Auction
from shoal_agent.experiments.paper_b.control import Moved
from shoal_agent.experiments.paper_b.fixed import Fixed, Oracle
from shoal_agent.experiments.paper_b.measures import Figures, figures
from shoal_agent.experiments.paper_b.serving import Serving
from shoal_agent.experiments.paper_b.swarm import Swarm
from shoal_agent.experiments.paper_b.trace import Trace
from shoal_protocol.messages import PlanStage

PERIOD_S: Final = 60.0
CENTRE_RTT_S: Final = 0.05
STRONGEST: Final = max(cluster.EDGE, key=lambda node: cluster.MEMORY_MB[node])

_RULES: Final[dict[str, Rules]] = {
    "ours": Rules(),
    "periodic": Rules(choices=(Choice.RESPLIT,), impatient=True, period_s=PERIOD_S, repairs=False),
    "always-resplit": Rules(choices=(Choice.RESPLIT,), impatient=True),
    "redistribute-only": Rules(choices=(Choice.REDISTRIBUTE,)),
    "resplit-only": Rules(choices=(Choice.RESPLIT,)),
    "no-standby": Rules(standbys=0),
    "central": Rules(fresh=True, agrees=False),
    "central-rtt": Rules(fresh=True, agrees=False, centre_rtt_s=CENTRE_RTT_S),
    "auction": Rules(choices=(Choice.RESPLIT,)),
}

METHODS: Final = (
    "ours",
    "static",
    "static-standby",
    *(name for name in _RULES if name != "ours"),
    "petals",
    "single-node",
    "cloud-only",
    "oracle",
)


class Bench:
    """One trace, and a planner that remembers what it was asked about it."""

    def __init__(self, trace: Trace, width: str) -> None:
        self._trace = trace
        self._sizes = cluster.sizes_of(width)
        self._planner = cluster.Planner(self._sizes)

    def measure(self, method: str) -> Figures:
        """Run ``method`` on the trace."""
        if method in _RULES:
            return self._adaptive(method)
        special: dict[str, Callable[[], Figures]] = {"petals": self._petals, "oracle": self._oracle}
        return special.get(method, lambda: self._fixed(method))()

    def _adaptive(self, method: str) -> Figures:
        rules = _RULES[method]
        if method == "central-rtt":
            rules = replace(rules, centre=self._trace.centre)
        solver = Auction(self._planner) if method == "auction" else self._planner
        adaptive = Adaptive(self._trace, solver, rules)
        return self._ran(Serving(self._trace, self._sizes, adaptive), adaptive.control.moved)

    def _fixed(self, method: str) -> Figures:
        fixed = Fixed(self._stages(method), standbys=method == "static-standby")
        return self._ran(Serving(self._trace, self._sizes, fixed), fixed.control.moved)

    def _stages(self, method: str) -> tuple[PlanStage, ...]:
        match method:
            case "single-node":
                return (PlanStage(cluster.NODES[STRONGEST], 0, cluster.BLOCKS - 1),)
            case "cloud-only":
                seen = cluster.usual(self._trace, (cluster.INGRESS, cluster.CLOUD))
                split = self._planner.split(seen)
                assert isinstance(split, Split), "a cloud holds any model"
                return stages_of(split)
            case _:
                return first_plan(self._trace, self._planner, int(method == "static-standby"))

    def _petals(self) -> Figures:
        swarm = Swarm(self._trace)
        return self._ran(Serving(self._trace, self._sizes, swarm), swarm.moved)

    def _oracle(self) -> Figures:
        return self._ran(Serving(self._trace, self._sizes, Oracle(self._trace, self._planner)), Moved())

    def _ran(self, serving: Serving, moved: Moved) -> Figures:
        return figures(serving.run(), self._trace.length_s, moved.fetched_bytes, moved.epochs)
