r"""The backbone: on which machines the core services stand. The question and the shape of an answer, as values.

Core services are heavy and stateful, and moving one costs minutes, so they are placed rarely and together: every 10 to
60 minutes, or when somebody comes or goes. Which machine runs how many instances of what is a whole-numbered puzzle:
each machine has several kinds of room, each service must be there often enough, and at two places at least, so that
any single machine may die. The puzzle is::

    choose    x[m][v]  instances of service m on machine v (whole), b[m][v] = 1 where there is any, else 0
    minimise  sum x (c - xi Q)  +  omega sum_e rate_e sum_uv tau_uv(size_e) y_e,uv  +  rho sum b  +  chi bytes moved
    such that
      room      sum_m needs[m][k] x[m][v] <= (1 - reserve_v) capacity[v][k]        what is kept is for light services
      demand    sum_v x[m][v] >= ceil(headroom_m rate_m time_m)
      cover     sum_(v != f) x[m][v] >= ceil(survive_m rate_m time_m)              for every machine f that may die
      hosts     hosts_min <= sum_v b[m][v] <= hosts_max                            at least two; not everywhere
      zones     some host outside of every zone                                    where a service asks for it
      trust     b[m][v] = 0 where trust_v < trust_m
      links     sum_e rate_e size_e y_e,uv <= share of the bandwidth from u to v
      budget    sum x c <= budget;  pairs: sum b >= pairs_min                      where they are given

y_e,uv is the share of edge e's traffic that goes from u to v: no host sends or takes more than its instances' share of
the demand. c is the service's own price and its share of the machine's (the largest of its shares of any kind of
room). Q, between 0 and 1, says how good a machine is for a service (``backbone_cost``). Placement as a programme like
this is Zhu et al. 2026 (arXiv 2601.19563), eq. 14; all from ``zones`` on, and cover, links, moving, is ours.

*Why xi is at most the cheapest price.* With a larger one an instance would earn more than it costs, and the best
answer would fill every machine with instances that nobody asked for. So the objective is never negative, either.

*Everything is a whole number*: whoever is asked to agree to a placement computes its price again, and must get the
same. Times are in microseconds, rates in thousandths per second, shares in thousandths, money in whatever small unit.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from shoal_agent.core.problem import Links
from shoal_protocol.ids import NodeId

WHOLE_MAX: Final = 1 << 53
"""No figure may be larger: above it the solver's floating-point numbers are not exact; 9 PB is more than there is."""
MACHINES_MAX: Final = 200
SERVICES_MAX: Final = 64
"""A programme of 200 x 64 pairs takes its minutes and no gigabytes; what is larger should be parted first."""
KINDS_MAX: Final = 18
"""Room of several kinds, and what only one may have: a primary's seat, a place for each of 16 stages (``footing``)."""
FLOW_MACHINES_MAX: Final = 20
"""With more machines the shares y are left out, and Q alone tells what is far: 30 take a minute, 20 ten seconds."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A node and what it offers: ``capacity`` by kind of room, ``price`` of all of it."""

    node: NodeId
    capacity: tuple[int, ...]
    reserve_permille: int = 0
    """Of every kind: what core services must leave to light ones."""
    zone: str = ""
    """Machines of one zone fail together."""
    trust: int = 0
    price: int = 0

    def __post_init__(self) -> None:
        whole(f"trust of {self.node}", self.trust)
        whole(f"price of {self.node}", self.price)
        whole(f"reserve_permille of {self.node}", self.reserve_permille, most=1000)
        for kind, offered in enumerate(self.capacity):
            whole(f"capacity {kind} of {self.node}", offered)


@dataclass(frozen=True, slots=True)
class CoreService:
    """A service and what it asks for. ``needs`` is of one instance, by kind of room."""

    name: str
    needs: tuple[int, ...]
    rate_milli: int = 0
    """Requests in a thousand seconds."""
    time_us: int = 0
    """An instance is busy for so long with one request."""
    headroom_permille: int = 1300
    """Instances over the mean load; 2500 to 3000 if one is held while its input is on its way."""
    survive_permille: int = 1000
    """How much of the mean load the others must carry, whichever machine is lost."""
    trust: int = 0
    hosts_min: int = 2
    hosts_max: int = MACHINES_MAX
    per_host_max: int = WHOLE_MAX
    across_zones: bool = False
    barred: tuple[NodeId, ...] = ()
    """Machines it may not be on, whatever they offer."""
    price: int = 0
    """Of one instance, wherever it is."""
    weight_bytes: int = 0
    """What a machine fetches before it can be a host."""
    deadline_us: int = 0
    """Of the requests it is used for; 0: they have none."""

    def __post_init__(self) -> None:
        for name in ("rate_milli", "time_us", "trust", "price", "weight_bytes", "deadline_us"):
            whole(f"{name} of {self.name}", getattr(self, name))
        whole(f"headroom_permille of {self.name}", self.headroom_permille, least=1000)
        whole(f"survive_permille of {self.name}", self.survive_permille, most=1000)
        whole(f"hosts_min of {self.name}", self.hosts_min, least=1)
        whole(f"hosts_max of {self.name}", self.hosts_max, least=1)
        whole(f"per_host_max of {self.name}", self.per_host_max, least=1)
        for kind, needed in enumerate(self.needs):
            whole(f"need {kind} of {self.name}", needed)
        if not any(self.needs):
            raise ValueError(f"{self.name} needs nothing of any kind: there would be no end of instances")
        if self.hosts_min > self.hosts_max:
            raise ValueError(f"{self.name} asks for {self.hosts_min} hosts at least and {self.hosts_max} at most")


@dataclass(frozen=True, slots=True)
class Edge:
    """What one service sends to the next; both by index."""

    sender: int
    receiver: int
    rate_milli: int
    size_bytes: int

    def __post_init__(self) -> None:
        whole("rate_milli of an edge", self.rate_milli)
        whole("size_bytes of an edge", self.size_bytes)


@dataclass(frozen=True, slots=True)
class Weights:
    """What is worth how much, in the unit of prices."""

    quality: int = 0
    """xi: an instance on the best machine for it, over one on the worst."""
    network: int = 0
    """omega: one transfer under way, on the average."""
    host: int = 0
    """rho: one more machine with a service on it."""
    moved_mb: int = 0
    """chi: a megabyte fetched."""

    def __post_init__(self) -> None:
        for name in ("quality", "network", "host", "moved_mb"):
            whole(f"weight {name}", getattr(self, name))


Counts = tuple[tuple[int, ...], ...]
"""Instances by service and machine: an answer."""


@dataclass(frozen=True, slots=True)
class BackboneProblem:
    """Everything a placement depends on."""

    kinds: tuple[str, ...]
    """Names of the kinds of room, with their units: ``memory_mb``."""
    machines: tuple[Machine, ...]
    services: tuple[CoreService, ...]
    edges: tuple[Edge, ...] = ()
    links: Links = field(default_factory=Links)
    link_share_permille: int = 500
    """How much of a link the backbone may fill."""
    current: Counts = ()
    """What stands now; empty: nothing."""
    weights: Weights = field(default_factory=Weights)
    half_life_us: int = 10_000
    """A machine that is later by so much is worth half."""
    quality_permille: Counts = ()
    """Q, where it is known; empty: it is worked out."""
    budget: int = WHOLE_MAX
    """The most that all instances may cost."""
    pairs_min: int = 0
    """Pairs of a service and a host, in all: the paper's diversity."""

    def __post_init__(self) -> None:
        _check_shape(self)
        _check_edges(self)
        whole("link_share_permille", self.link_share_permille, most=1000)
        whole("half_life_us", self.half_life_us, least=1)
        whole("budget", self.budget)
        whole("pairs_min", self.pairs_min)
        cheapest = min(price_of(self, m, v) for m in range(len(self.services)) for v in range(len(self.machines)))
        if self.weights.quality > cheapest:
            raise ValueError(
                f"weight quality {self.weights.quality} is more than the cheapest instance costs ({cheapest}): "
                "instances would earn money, and the best placement would fill all machines with them"
            )


@dataclass(frozen=True, slots=True)
class Backbone:
    """An answer. ``counts`` None: there is no placement, or none was found in time."""

    counts: Counts | None


def whole(name: str, value: object, *, least: int = 0, most: int = WHOLE_MAX) -> None:
    """Refuse NaN, fractions, negative prices: ValueError unless ``value`` is whole, from ``least`` to ``most``."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        top = "" if most == WHOLE_MAX else f" to {most}"
        raise ValueError(f"{name} is {value!r}: it must be a whole number, {least}{top or ' or more'}")


def price_of(problem: BackboneProblem, service: int, machine: int) -> int:
    """What one instance of ``service`` costs on ``machine``: its own price, and its share of the machine's."""
    asked, host = problem.services[service], problem.machines[machine]
    shares = (
        -(-host.price * needed // offered) if offered else host.price
        for needed, offered in zip(asked.needs, host.capacity, strict=True)
    )
    return asked.price + max(shares)


def _check_shape(problem: BackboneProblem) -> None:
    kinds, machines, services = problem.kinds, problem.machines, problem.services
    for name, found, most in (
        ("kinds", kinds, KINDS_MAX),
        ("machines", machines, MACHINES_MAX),
        ("services", services, SERVICES_MAX),
    ):
        if not 1 <= len(found) <= most:
            raise ValueError(f"{len(found)} {name}: there must be 1 to {most}")
    _refuse_twice("machine", (machine.node for machine in machines))
    _refuse_twice("service", (service.name for service in services))
    _refuse_twice("kind", kinds)
    for machine in machines:
        if len(machine.capacity) != len(kinds):
            raise ValueError(f"{machine.node} offers {len(machine.capacity)} kinds of room, there are {len(kinds)}")
    for service in services:
        if len(service.needs) != len(kinds):
            raise ValueError(f"{service.name} needs {len(service.needs)} kinds of room, there are {len(kinds)}")
    for name, table, most in (
        ("current", problem.current, WHOLE_MAX),
        ("quality_permille", problem.quality_permille, 1000),
    ):
        if table and (len(table) != len(services) or any(len(row) != len(machines) for row in table)):
            raise ValueError(f"{name} must have a row for each service, and in it a number for each machine")
        for row in table:
            for value in row:
                whole(name, value, most=most)


def _check_edges(problem: BackboneProblem) -> None:
    """Indices are in range, and no service is its own ancestor."""
    count = len(problem.services)
    for edge in problem.edges:
        if not (0 <= edge.sender < count and 0 <= edge.receiver < count):
            raise ValueError(f"an edge from {edge.sender} to {edge.receiver}: services are 0 to {count - 1}")
    _refuse_twice("edge", (f"{e.sender}-{e.receiver}" for e in problem.edges))
    if len(in_order(problem)) < count:
        raise ValueError("the edges go round in a circle: a pipeline ends somewhere")


def in_order(problem: BackboneProblem) -> list[int]:
    """Services such that every sender is before its receivers; those on a circle are left out."""
    waits = [0] * len(problem.services)
    for edge in problem.edges:
        waits[edge.receiver] += 1
    ready = [index for index, count in enumerate(waits) if count == 0]
    for index in ready:  # it grows meanwhile
        for edge in problem.edges:
            if edge.sender == index:
                waits[edge.receiver] -= 1
                if waits[edge.receiver] == 0:
                    ready.append(edge.receiver)
    return ready


def _refuse_twice(what: str, names: Iterable[str]) -> None:
    seen: dict[str, None] = {}
    for name in names:
        if name in seen:
            raise ValueError(f"{what} {name} is there twice")
        seen[name] = None
