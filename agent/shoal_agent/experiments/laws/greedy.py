"""T7: how near the backbone comes to the best without a solver.

Where HiGHS is out of time, a search places the backbone: built greedily, improved step by step
(``core/backbone_search.py``), alone or led by the programme without whole numbers. Submodular greedy is within half of
the best in theory and within a tenth in practice; here both are held against the integer programme on random clusters
of unequal machines, and must be within a tenth on each of them. A ratio is the programme's price over the search's: 1
is as good, and 0 stands where the search found nothing although there is an answer.
"""

from random import Random
from typing import Final

from shoal_agent.core.backbone import BackboneProblem, CoreService, Edge, Machine, Weights
from shoal_agent.core.backbone_search import search
from shoal_agent.core.problem import Link, Links
from shoal_agent.experiments.options import Options, Progress
from shoal_agent.experiments.pool import each
from shoal_agent.experiments.report import Band, Chart, Report, Row
from shoal_agent.experiments.statistics import interval, mean, percentile
from shoal_agent.experiments.traces import trace_hash
from shoal_agent.highs import Limits, guided, place
from shoal_agent.sim.seeds import generator
from shoal_protocol.ids import NodeId

INSTANCES: Final = 200
TRIED_MAX: Final = 300
"""Some of the random clusters are too small for what they are asked."""
GAP: Final = 0.001
TIME_S: Final = 60.0
"""Never reached at this size: a run that reached it would depend on the machine."""
RATIO_MIN: Final = 0.9

Ratios = tuple[float, float] | None
"""Of the search alone and of the guided one; None: there is no placement."""


def instance(seed: int) -> BackboneProblem:
    """Four to seven unequal machines in three zones, a chain of two to four services."""
    rng = generator(seed, "backbone")
    hosts = tuple(_machine(index, rng) for index in range(rng.randint(4, 7)))
    chain = tuple(_service(index, rng) for index in range(rng.randint(2, 4)))
    edges = tuple(
        Edge(index, index + 1, min(chain[index].rate_milli, chain[index + 1].rate_milli), rng.randint(10**4, 10**6))
        for index in range(len(chain) - 1)
    )
    measured = {}
    for index, one in enumerate(hosts):
        for other in hosts[:index]:
            link = Link(rng.randint(500, 12_000), rng.randint(20, 120) * 10**6)
            measured[one.node, other.node] = measured[other.node, one.node] = link
    weights = Weights(quality=8, network=rng.choice((0, 40, 400)), host=rng.choice((0, 3, 10)))
    return BackboneProblem(("cpu", "memory"), hosts, chain, edges, Links(measured=measured), weights=weights)


def _machine(index: int, rng: Random) -> Machine:
    return Machine(
        NodeId(f"n{index:02}"),
        (rng.randint(12, 64), rng.randint(8, 48)),
        rng.choice((0, 200, 300)),
        f"z{index % 3}",
        rng.randint(0, 2),
        rng.randint(50, 400),
    )


def _service(index: int, rng: Random) -> CoreService:
    return CoreService(
        f"s{index}",
        (rng.randint(1, 8), rng.randint(1, 4)),
        1000 * rng.randint(5, 30),
        rng.randint(20_000, 80_000),
        price=rng.randint(10, 30),
        trust=rng.choice((0, 0, 1)),
        hosts_max=rng.randint(2, 4),
        across_zones=rng.choice((True, False, False)),
        deadline_us=300_000,
    )


def ratios(seed: int) -> tuple[str, Ratios]:
    """The digest of the instance, and how good both searches are."""
    problem = instance(seed)
    digest = trace_hash(repr(problem))
    best = place(problem, Limits(TIME_S, GAP))
    if best.cost is None:
        return digest, None
    alone, led = search(problem), guided(problem)
    price = best.cost.total
    return digest, (
        price / alone.cost.total if alone is not None else 0.0,
        price / led.cost.total if led is not None else 0.0,
    )


def run(options: Options, progress: Progress, wanted: int = INSTANCES) -> Report:
    """The first ``wanted`` of the instances that have an answer; the seeds are fixed."""
    tried = wanted * TRIED_MAX // INSTANCES
    answers = each(ratios, range(tried), options.jobs, progress, lambda seed: f"instance {seed}")
    good = [ratio for _, ratio in answers if ratio is not None][:wanted]
    alone, led = [ratio[0] for ratio in good], [ratio[1] for ratio in good]
    return Report(
        "greedy",
        trace_hash([digest for digest, _ in answers]),
        [
            f"{tried} random clusters of 4 to 7 machines and 2 to 4 services, the first {wanted} that have an answer",
            f"best: HiGHS to a gap of {GAP:g}; ratio = its price / the search's, 0 where the search found nothing",
            "price: machines, instances, quality, network, hosts; the seeds are its own, whatever --seeds says",
        ],
        [_row("search", alone), _row("search-guided", led)],
        [
            Band("instances", float(len(good)), float(wanted)),
            Band("worst ratio, search", min(alone, default=0.0), RATIO_MIN),
            Band("worst ratio, guided search", min(led, default=0.0), RATIO_MIN),
        ],
        [Chart("greedy", "Best price / price found", "", "ratio", violins={"search": alone, "search-guided": led})],
    )


def _row(method: str, values: list[float]) -> Row:
    return Row(
        method,
        ci={"ratio": interval(values)},
        extra={
            "ratio": mean(values),
            "p05": percentile(values, 5),
            "worst": min(values, default=0.0),
            "found": mean([float(value > 0) for value in values]),
        },
    )
