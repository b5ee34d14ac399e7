"""A cluster on paper: nodes and links in a file, for planning without one machine running.

TOML, or JSON if the file's name ends so::

    ingress = "desk"                     # where requests come in; its zone is the trusted one
    [default_link]                       # any pair that is not listed
    rtt_us = 500
    bytes_per_s = 100_000_000

    [[nodes]]
    name = "desk"
    speed_macs_per_s = 10_000_000_000
    memory = "2 GiB"
    busy_permille = 100              # what other programs take of it
    waiting_permille = 0             # how much of the time it works for other deployments
    zone = "home"
    price_per_hour = 0.02

    [[links]]
    between = ["desk", "rack"]
    rtt_us = 4000
    bytes_per_s = 5_000_000

Everything wrong with it is reported at once, each fault with its path, as for a configuration: a link to a node that
is not there, a price below zero or NaN, a memory of nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from shoal_agent.config import faults_in, read_sketch
from shoal_agent.config_values import Bytes, Name, Whole
from shoal_agent.core.problem import LAN, Candidate, Link, Links
from shoal_protocol.ids import NodeId
from shoal_protocol.limits import MACS_PER_S_MAX

NODES_MAX: Final = 200
"""As many as a plan of a whole cluster is looked at with."""
HINT: Final = "mend the lines named; shoal plan --help shows a file"
Permille = Annotated[Whole, Field(ge=0, le=1000)]
Price = Annotated[float, Field(ge=0, le=1e4, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LinkPart(_Part):
    """What a link carries, both ways."""

    rtt_us: Annotated[Whole, Field(ge=0, le=60_000_000)] = LAN.rtt_us
    bytes_per_s: Annotated[Whole, Field(gt=0, lt=2**63)] = LAN.bytes_per_s


class NamedLink(LinkPart):
    """The link between two nodes."""

    between: tuple[Name, Name]


class NodePart(_Part):
    """One machine."""

    name: Name
    speed_macs_per_s: Annotated[Whole, Field(gt=0, le=MACS_PER_S_MAX)]
    memory: Annotated[Bytes, Field(lt=2**63)]
    busy_permille: Permille = 0
    waiting_permille: Permille = 0
    zone: Name = "default"
    price_per_hour: Price = 0.0


class Sketch(_Part):
    """The whole file."""

    ingress: Name | None = None
    default_link: LinkPart = LinkPart()
    nodes: Annotated[tuple[NodePart, ...], Field(min_length=1, max_length=NODES_MAX)]
    links: Annotated[tuple[NamedLink, ...], Field(max_length=NODES_MAX**2)] = ()

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The nodes as the planner sees them; their names are their ids."""
        return tuple(
            Candidate(
                NodeId(node.name),
                node.speed_macs_per_s,
                node.memory,
                node.busy_permille,
                node.waiting_permille,
                node.zone,
            )
            for node in self.nodes
        )

    @property
    def ways(self) -> Links:
        """The links as the planner sees them."""
        known = {}
        for each in self.links:
            one, other = (NodeId(name) for name in each.between)
            known[one, other] = known[other, one] = Link(each.rtt_us, each.bytes_per_s)
        return Links(Link(self.default_link.rtt_us, self.default_link.bytes_per_s), known)


def load_sketch(file: Path) -> Sketch:
    """The cluster in ``file``; ConfigError names every fault."""
    sketch = read_sketch(Sketch, file, HINT)
    contradictions = list(_contradictions(sketch))
    if contradictions:
        raise faults_in(file, contradictions, HINT)
    return sketch


def _contradictions(sketch: Sketch) -> Iterator[str]:
    """Faults between parts that are each well formed."""
    names = [node.name for node in sketch.nodes]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield f"nodes[{index}].name: {name} is there already"
    if sketch.ingress is not None and sketch.ingress not in names:
        yield f"ingress: no node {sketch.ingress}; there are {', '.join(names)}"
    seen = set()
    for index, link in enumerate(sketch.links):
        yield from (f"links[{index}].between: no node {name}" for name in link.between if name not in names)
        if link.between[0] == link.between[1]:
            yield f"links[{index}].between: a node needs no link to itself"
        pair = tuple(sorted(link.between))
        if pair in seen:
            yield f"links[{index}].between: {' and '.join(pair)} are linked already"
        seen.add(pair)
