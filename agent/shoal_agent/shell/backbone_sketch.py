"""A backbone on paper: machines, core services and what they send each other, in a file.

TOML, or JSON if the file's name ends so; figures and their units are those of ``core/backbone.py``::

    kinds = ["cpu", "memory_mb"]

    [[machines]]
    name = "mec-1"
    capacity = {cpu = 16, memory_mb = 32_000}
    reserve_permille = 300                       # kept for light services
    zone = "rack-1"
    trust = 2
    price = 120

    [[services]]
    name = "llm"
    needs = {cpu = 4, memory_mb = 14_000}        # of one instance; at least two hosts, unless hosts_min says more
    rate_milli = 3000                            # three requests a second
    time_us = 400_000
    trust = 2
    price = 10

    [[edges]]
    sender = "encoder"
    receiver = "llm"
    rate_milli = 3000
    size_bytes = 300_000

    [[links]]                                    # default_link is any pair that is not listed
    between = ["mec-1", "mec-2"]
    rtt_us = 2000
    bytes_per_s = 100_000_000

    [current.llm]                                # what stands now, so that moving has its price
    mec-1 = 1

    [weights]                                    # in the unit of prices
    quality = 5
    network = 40
    host = 3
    moved_mb = 1

What is wrong in the form of it is reported at once, each fault with its path; then what contradicts itself.
"""

from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from shoal_agent.config import faults_in, read_sketch
from shoal_agent.config_values import Name, Whole
from shoal_agent.core.backbone import (
    MACHINES_MAX,
    SERVICES_MAX,
    WHOLE_MAX,
    BackboneProblem,
    CoreService,
    Edge,
    Machine,
    Weights,
)
from shoal_agent.core.problem import Link, Links
from shoal_agent.shell.sketch import LinkPart, NamedLink
from shoal_protocol.ids import NodeId

HINT: Final = "mend the lines named; shoal plan backbone --help shows a file"
Figure = Annotated[Whole, Field(ge=0, le=WHOLE_MAX)]
ByName = dict[str, Figure]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MachinePart(_Part):
    """One machine; what of a kind is not named is 0."""

    name: Name
    capacity: ByName
    reserve_permille: Figure = 0
    zone: str = ""
    trust: Figure = 0
    price: Figure = 0


class ServicePart(_Part):
    """One core service; what is not given is as in the core."""

    name: Name
    needs: ByName
    rate_milli: Figure = 0
    time_us: Figure = 0
    headroom_permille: Figure = 1300
    survive_permille: Figure = 1000
    trust: Figure = 0
    hosts_min: Figure = 2
    hosts_max: Figure = MACHINES_MAX
    per_host_max: Figure = WHOLE_MAX
    across_zones: bool = False
    price: Figure = 0
    weight_bytes: Figure = 0
    deadline_us: Figure = 0


class EdgePart(_Part):
    """What one service sends another."""

    sender: Name
    receiver: Name
    rate_milli: Figure
    size_bytes: Figure


class WeightsPart(_Part):
    """What is worth how much."""

    quality: Figure = 0
    network: Figure = 0
    host: Figure = 0
    moved_mb: Figure = 0


class BackboneSketch(_Part):
    """The whole file."""

    kinds: tuple[Name, ...]
    machines: Annotated[tuple[MachinePart, ...], Field(min_length=1, max_length=MACHINES_MAX)]
    services: Annotated[tuple[ServicePart, ...], Field(min_length=1, max_length=SERVICES_MAX)]
    edges: tuple[EdgePart, ...] = ()
    default_link: LinkPart = LinkPart()
    links: tuple[NamedLink, ...] = ()
    link_share_permille: Figure = 500
    half_life_us: Figure = 10_000
    current: dict[str, ByName] = {}
    weights: WeightsPart = WeightsPart()
    budget: Figure = WHOLE_MAX
    pairs_min: Figure = 0


def load_backbone(file: Path) -> BackboneProblem:
    """The problem in ``file``; ConfigError names every fault."""
    sketch = read_sketch(BackboneSketch, file, HINT)
    try:
        return problem_of(sketch)
    except ValueError as fault:
        raise faults_in(file, [str(fault)], HINT) from fault


def problem_of(sketch: BackboneSketch) -> BackboneProblem:
    """The problem that ``sketch`` describes; ValueError if it contradicts itself."""
    kinds = list(sketch.kinds)
    machines = tuple(
        Machine(NodeId(m.name), _row(f"capacity of {m.name}", m.capacity, kinds), **_rest(m, "name", "capacity"))
        for m in sketch.machines
    )
    services = tuple(
        CoreService(s.name, _row(f"needs of {s.name}", s.needs, kinds), **_rest(s, "name", "needs"))
        for s in sketch.services
    )
    names, hosts = [service.name for service in services], [str(machine.node) for machine in machines]
    edges = tuple(
        Edge(_index("edges", e.sender, names), _index("edges", e.receiver, names), e.rate_milli, e.size_bytes)
        for e in sketch.edges
    )
    for name in sketch.current:
        _index("current", name, names)
    stands = tuple(_row(f"current.{name}", sketch.current.get(name, {}), hosts) for name in names)
    return BackboneProblem(
        sketch.kinds,
        machines,
        services,
        edges,
        _links(sketch, hosts),
        sketch.link_share_permille,
        stands if sketch.current else (),
        Weights(**_rest(sketch.weights)),
        sketch.half_life_us,
        budget=sketch.budget,
        pairs_min=sketch.pairs_min,
    )


def _links(sketch: BackboneSketch, hosts: list[str]) -> Links:
    """The links as the core sees them, both ways."""
    known = {}
    for each in sketch.links:
        one, other = (NodeId(hosts[_index("links", name, hosts)]) for name in each.between)
        known[one, other] = known[other, one] = Link(each.rtt_us, each.bytes_per_s)
    return Links(Link(sketch.default_link.rtt_us, sketch.default_link.bytes_per_s), known)


def _rest(part: BaseModel, *apart: str) -> dict[str, Any]:
    """The fields of ``part`` that are called as in the core."""
    return part.model_dump(exclude=set(apart))


def _row(what: str, figures: ByName, names: list[str]) -> tuple[int, ...]:
    """A figure for each name; what is not named is 0."""
    for name in figures:
        _index(what, name, names)
    return tuple(figures.get(name, 0) for name in names)


def _index(what: str, name: str, names: list[str]) -> int:
    if name not in names:
        raise ValueError(f"{what}: no {name}; there are {', '.join(names)}")
    return names.index(name)
