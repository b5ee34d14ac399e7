"""What a split is planned for: nodes and links of a file, or those that are heard of a cluster that runs.

A cluster is heard as ``shoal deploy`` hears it: who speaks for some seconds, in the incarnation of its record, with
room for the package. What is asked is what they tell of every deployment of that package. Links are those that
nodes measured of each other; a pair that nobody measured is a LAN.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shoal_agent.config import OperatorConfig
from shoal_agent.core.outlook import carrying, rounded_link, summed
from shoal_agent.core.pareto import PRICE_MICRO_MAX
from shoal_agent.core.problem import NO_DEMAND, Candidate, Demand, Link, Links
from shoal_agent.errors import ConfigError
from shoal_agent.shell.desk import Tell, open_desk
from shoal_agent.shell.operator import resolve_nodes
from shoal_agent.shell.sketch import Sketch
from shoal_agent.shell.survey import Heard, Package, able_hosts
from shoal_protocol.ids import DeploymentId, NodeId
from shoal_protocol.limits import TOKENS_PER_KS_MAX


@dataclass(frozen=True, slots=True)
class Scene:
    """Nodes, links and prices."""

    candidates: tuple[Candidate, ...]
    links: Links
    ingress: NodeId | None
    price_micro: Mapping[NodeId, int]
    """Of an hour, in millionths of whatever the currency is."""
    demand: Demand = NO_DEMAND
    """What clients ask of the model, in all its deployments."""

    def trusted(self, zones: tuple[str, ...]) -> tuple[str, ...]:
        """``zones``, or the ingress's own, or all if there is no ingress; ConfigError if nobody stands there."""
        there = {candidate.node: candidate.zone for candidate in self.candidates}
        missing = [zone for zone in zones if zone not in there.values()]
        if missing:
            known = ", ".join(sorted(dict.fromkeys(there.values())))
            raise ConfigError(f"nobody is in zone {missing[0]}", f"zones with nodes: {known}")
        if zones or self.ingress is None:
            return zones or tuple(sorted(dict.fromkeys(there.values())))
        if self.ingress not in there:
            fault = f"the ingress {self.ingress} is not among the nodes that can host: its zone is not known"
            raise ConfigError(fault, "name the zones: --trusted home")
        return (there[self.ingress],)


def scene_of(sketch: Sketch) -> Scene:
    """The cluster of a file."""
    prices = {NodeId(node.name): round(node.price_per_hour * 1_000_000) for node in sketch.nodes}
    ingress = None if sketch.ingress is None else NodeId(sketch.ingress)
    return Scene(sketch.candidates, sketch.ways, ingress, prices)


async def heard_scene(
    config: OperatorConfig, package: Package, ingress: str, prices: Mapping[str, float], tell: Tell
) -> Scene:
    """The cluster that is heard; ``ingress`` and the keys of ``prices`` are beginnings of node ids."""
    async with open_desk(config) as (operator, desk, _):
        roster = operator.roster
        (gate,) = resolve_nodes(roster, [ingress]) if ingress else (None,)
        micro = {node: _micro(name, price) for name, price in prices.items() for node in resolve_nodes(roster, [name])}
        await desk.connect()
        tell("listening for nodes ...")
        await desk.listen(frozenset(), 1, package)
        able = able_hosts(desk.survey, package, frozenset(), roster, ())
        tell(f"{len(able.candidates)} of {len(able.faults)} nodes can host it")
        heard = desk.survey.heard()
        serving = [name for name, known in sorted(desk.plans.items()) if known.plan.model == package.model]
        return Scene(able.candidates, _links(heard), gate, micro, _demand(heard, serving))


def _demand(heard: tuple[Heard, ...], deployments: Iterable[DeploymentId]) -> Demand:
    """What is asked of all of them together."""
    told = [summed((each.state for each in heard), name) for name in deployments]
    prompts, answers = sum(d.prompt_tokens_per_ks for d in told), sum(d.answer_tokens_per_ks for d in told)
    return Demand(min(prompts, TOKENS_PER_KS_MAX), min(answers, TOKENS_PER_KS_MAX))


def _micro(name: str, price: float) -> int:
    if not 0 <= price * 1_000_000 <= PRICE_MICRO_MAX:  # NaN is not between anything either
        raise ConfigError(f"{name} costs {price} an hour", f"a price from 0 to {PRICE_MICRO_MAX // 1_000_000}")
    return round(price * 1_000_000)


def _links(heard: tuple[Heard, ...]) -> Links:
    """As measured; one end's word is good for both, unless the other has its own."""
    measured: dict[tuple[NodeId, NodeId], Link] = {}
    rates: dict[tuple[NodeId, NodeId], int] = {}
    for each in heard:
        for link in each.state.links:
            measured[each.node, link.peer] = rounded_link(link)
            measured.setdefault((link.peer, each.node), rounded_link(link))
            rates[link.peer, each.node] = link.bytes_per_s
    return Links(measured=carrying(measured, rates))
