"""GA, the paper's search baseline: a genetic algorithm over which instances to start, every slot.

A chromosome says for every service with waiting stages on which nodes to start up to ``GENES_MAX`` instances (or none).
Its fitness is the paper's own objective (19), with the routing of Algorithm 1; what does not fit is not started.
Ten chromosomes, thirty generations, one gene in ten mutates, as in the authors' code; the best two live on, parents are
the better of two drawn, children cross uniformly. Genes are drawn from the servers and the nodes where inputs wait, for
chance alone would rarely hit one of them. What routes of a service come to depends on its own genes alone, so each
choice is worked out once per slot.
"""

from random import Random
from typing import Final

from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.paper_rule import Group, PaperRule, Routing, Seat, age, drop_idle, fits, send_cores
from shoal_agent.experiments.paper_a.scenario import Scenario
from shoal_agent.experiments.paper_a.world import Stage, World

POPULATION: Final = 10
GENERATIONS: Final = 30
MUTATED: Final = 0.1
ELITE: Final = 2
GENES_MAX: Final = 6
"""Instances of one service started in one slot, at most; never more than stages wait for it."""
NOWHERE: Final = -1

Genes = tuple[int, ...]
"""Nodes, sorted; ``NOWHERE`` for none."""
Chromosome = dict[int, Genes]


class Genetic:
    """(19) by chance and selection."""

    def __init__(self, scenario: Scenario, *, eta: float, epsilon: float, seed: int) -> None:
        self._rule = PaperRule(scenario, eta=eta, epsilon=epsilon)
        self._eta = eta
        self._rng = Random(seed)
        self._group = Group(None)

    def decide(self, world: World) -> None:
        """One slot."""
        age(world)
        send_cores(world)
        drop_idle(world, [self._group])
        waiting: dict[int, list[Stage]] = {}
        for stage in world.waiting:
            if stage.node is None and not stage.service.core:
                waiting.setdefault(stage.service.number, []).append(stage)
        if not waiting:
            return
        search = Search(world, self._rule, self._group, waiting, self._eta)
        best = self._evolve(world, search, list(waiting))
        for number, genes in best.items():
            routing = search.routing(number, genes)[1]
            self._rule.apply(world, self._group, waiting[number], routing, world.scenario.services[number])

    def _evolve(self, world: World, search: "Search", services: list[int]) -> Chromosome:
        pools = {m: _pool(world, search.waiting[m]) for m in services}
        none: Chromosome = {m: (NOWHERE,) * min(len(search.waiting[m]), GENES_MAX) for m in services}
        drawn = ({m: self._genes(pools[m], len(none[m])) for m in services} for _ in range(POPULATION - 1))
        crowd = [none, *drawn]
        for _ in range(GENERATIONS):
            crowd.sort(key=search.worth)
            children = [self._child(pools, search, crowd) for _ in range(POPULATION - ELITE)]
            crowd = [*crowd[:ELITE], *children]
        return search.possible(min(crowd, key=search.worth))

    def _genes(self, pool: list[int], count: int) -> Genes:
        return tuple(sorted(self._rng.choices(pool, k=count)))

    def _child(self, pools: dict[int, list[int]], search: "Search", crowd: list[Chromosome]) -> Chromosome:
        mother, father = (min(self._rng.sample(crowd, 2), key=search.worth) for _ in range(2))
        child: Chromosome = {}
        for number in mother:
            pairs = zip(mother[number], father[number], strict=True)
            genes = [pair[self._rng.random() < 0.5] for pair in pairs]  # noqa: PLR2004 - a fair coin
            mutated = (self._rng.choice(pools[number]) if self._rng.random() < MUTATED else gene for gene in genes)
            child[number] = tuple(sorted(mutated))
        return child


def _pool(world: World, stages: list[Stage]) -> list[int]:
    """Where an instance could make sense, and nowhere."""
    sources = [
        stage.task.ended[parent][0] for stage in stages for parent in stage.task.pipeline.parents[stage.service.number]
    ]
    return sorted(dict.fromkeys([NOWHERE, *world.scenario.gateways, *sources]))


class Search:
    """One slot's question; answers are remembered."""

    def __init__(
        self, world: World, rule: PaperRule, group: Group, waiting: dict[int, list[Stage]], eta: float
    ) -> None:
        self._world = world
        self._rule = rule
        self._group = group
        self.waiting = waiting
        self._eta = eta
        self._known: dict[tuple[int, Genes], tuple[float, Routing]] = {}
        self._worths: dict[tuple[tuple[int, Genes], ...], float] = {}

    def routing(self, number: int, genes: Genes) -> tuple[float, Routing]:
        """Penalty and cost of these instances, and the routes."""
        key = (number, genes)
        if key not in self._known:
            started = [node for node in genes if node != NOWHERE]
            seats = [*self._rule.seats(self._group, number), *(Seat(node, None, 0, 0.0) for node in started)]
            routing = self._rule.route(self._world, number, self.waiting[number], seats)
            cost = 0.0
            for node in sorted(dict.fromkeys(started)):
                pool, count = self._world.pool(node, number), started.count(node)
                cost += tables.LIGHT_BOOT * max(0, len(pool.instances) + count - pool.booted)
                cost += tables.LIGHT_RUN * count
            self._known[key] = (routing.penalty + self._eta * cost, routing)
        return self._known[key]

    def possible(self, chromosome: Chromosome) -> Chromosome:
        """Without the instances that do not fit."""
        taken = self._world.used.copy()  # rows are replaced, never changed
        kept: Chromosome = {}
        for number, genes in chromosome.items():
            service = self._world.scenario.services[number]
            nodes: list[int] = []
            for node in genes:
                if node == NOWHERE or not fits(self._world, taken, node, service):
                    continue
                taken[node] = [u + n for u, n in zip(taken[node], service.needs, strict=True)]
                nodes.append(node)
            kept[number] = (*[NOWHERE] * (len(genes) - len(nodes)), *nodes)  # both sorted, as genes are
        return kept

    def worth(self, chromosome: Chromosome) -> float:
        """(19); the less the better."""
        key = tuple(chromosome.items())
        if key not in self._worths:
            self._worths[key] = sum(self.routing(*item)[0] for item in self.possible(chromosome).items())
        return self._worths[key]
