"""Backbone problems for tests: small ones by hand, random ones by seed."""

from itertools import pairwise
from random import Random

from shoal_agent.core.backbone import BackboneProblem, CoreService, Counts, Edge, Machine, Weights
from shoal_agent.core.problem import Link, Links
from shoal_protocol.ids import NodeId


def machine(name: str, memory: int = 16, **changes) -> Machine:
    return Machine(NodeId(name), (memory,), **changes)


def service(name: str, memory: int = 4, **changes) -> CoreService:
    """One instance is enough, on two machines."""
    return CoreService(name, (memory,), **({"price": 10} | changes))


def problem(machines, services, **changes) -> BackboneProblem:
    return BackboneProblem(("memory",), tuple(machines), tuple(services), **changes)


def links_of(machines: tuple[Machine, ...], rng: Random) -> Links:
    measured = {}
    for index, one in enumerate(machines):
        for other in machines[:index]:
            link = Link(rng.randint(500, 12_000), rng.randint(20, 120) * 10**6)
            measured[one.node, other.node] = measured[other.node, one.node] = link
    return Links(measured=measured)


def random_problem(
    seed: int, machines: tuple[int, int] = (4, 10), services: tuple[int, int] = (2, 6)
) -> BackboneProblem:
    """A cluster of unequal machines in three zones and a chain of services; often tight, sometimes impossible."""
    rng = Random(seed)
    hosts = tuple(
        Machine(
            NodeId(f"n{v:02}"),
            (rng.randint(8, 64), rng.randint(8, 48)),
            rng.choice((0, 200, 300)),
            f"z{v % 3}",
            rng.randint(0, 2),
            rng.randint(50, 400),
        )
        for v in range(rng.randint(*machines))
    )
    chain = tuple(
        CoreService(
            f"s{m}",
            (rng.randint(1, 8), rng.randint(1, 4)),
            1000 * rng.randint(5, 40),
            rng.randint(20_000, 80_000),
            price=rng.randint(10, 30),
            trust=rng.choice((0, 0, 1)),
            hosts_max=rng.randint(2, 4),
            across_zones=rng.random() < 0.3,
            weight_bytes=rng.randint(10**7, 10**9),
            deadline_us=300_000,
        )
        for m in range(rng.randint(*services))
    )
    edges = tuple(
        Edge(m, m + 1, min(a.rate_milli, b.rate_milli), rng.randint(10**4, 10**6))
        for m, (a, b) in enumerate(pairwise(chain))
    )
    stands: Counts = ()
    if rng.random() < 0.5:
        stands = tuple(tuple(rng.randint(0, 1) for _ in hosts) for _ in chain)
    weights = Weights(8, rng.choice((0, 40, 400)), rng.choice((0, 3, 10)), rng.choice((0, 1)))
    return BackboneProblem(
        ("cpu", "memory"), hosts, chain, edges, links_of(hosts, rng), current=stands, weights=weights
    )


def card_problem(seed: int = 5) -> BackboneProblem:
    """Ten machines and six services with four kinds of room: the size whose time is promised."""
    rng = Random(seed)
    hosts = tuple(
        Machine(
            NodeId(f"n{v:02}"),
            (rng.randint(16, 96), rng.randint(8, 48), rng.randint(64, 400), rng.randint(64, 256)),
            300,
            f"z{v % 3}",
            rng.randint(0, 2),
            rng.randint(50, 400),
        )
        for v in range(10)
    )
    chain = tuple(
        CoreService(
            f"s{m}",
            (rng.randint(2, 16), rng.randint(1, 4), rng.randint(4, 32), rng.randint(4, 32)),
            1000 * rng.randint(10, 60),
            rng.randint(20_000, 80_000),
            price=rng.randint(10, 30),
            trust=rng.randint(0, 1),
            hosts_max=3,
            weight_bytes=rng.randint(10**7, 10**9),
            deadline_us=300_000,
        )
        for m in range(6)
    )
    edges = tuple(
        Edge(m, m + 1, min(a.rate_milli, b.rate_milli), rng.randint(10**4, 10**6))
        for m, (a, b) in enumerate(pairwise(chain))
    )
    weights = Weights(quality=8, network=40, host=3)
    return BackboneProblem(("cpu", "ram", "gpu", "vram"), hosts, chain, edges, links_of(hosts, rng), weights=weights)
