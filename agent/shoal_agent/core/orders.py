"""Among more nodes than can be searched exactly: which eight are worth it.

The hard part of a split is *which* nodes, in which order. With the order given it is easy: nodes in a row, each takes a
run of blocks or is passed over, and the programme of ``search`` needs no sets any more::

    G(k, j, n) = min over u before n, i < j of  G(k - 1, i, u) (+) link(u, n, i) (+) stage(n, i, j)

for k stages: K N^2 L steps. So orders are tried (a first one by strength, the others shuffled), and the nodes of the
best split that was seen are handed to the exact search, filled up with the strongest: it finds their best order and
knows what orders cannot say (quality budget, the U). On random clusters of six whose links differ a hundredfold, the
nodes of the best of forty orders gave splits 4 % above the exact answer in the mean, and in most cases that answer.

*Everybody shuffles alike.* An order is that of a keyed hash over node ids: no generator, no seed to agree on. Readings
are no part of it, so that a plan does not jump because a figure moved in its last digit; who solves the same problem
tries the same orders. The number of orders shrinks as the cluster grows, so that the whole stays below a bound.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from shoal_agent.core.costs import idle_permille
from shoal_agent.core.figures import UNREACHED, Figures
from shoal_agent.core.problem import CANDIDATES_EXACT_MAX, Candidate, SplitProblem
from shoal_agent.core.search import arrivals, join_of, lay

ORDERS_MAX: Final = 40
"""More find nothing more: measured on clusters small enough for the exact search."""
ORDERED_MAX: Final = 24
"""Nodes in an order, the strongest; a weaker one would have to be very well placed."""
STEPS_MAX: Final = 4_000_000
"""Steps of all orders together: about half a second."""


def strongest(nodes: Sequence[Candidate], whole_bytes: int) -> list[Candidate]:
    """``nodes`` by speed times useful memory."""

    def power(candidate: Candidate) -> int:
        return candidate.speed_macs_per_s * idle_permille(candidate) * min(candidate.memory_bytes, whole_bytes)

    return sorted(nodes, key=lambda c: (-power(c), c.node))


def promising(problem: SplitProblem, ranked: Sequence[Candidate]) -> list[Candidate]:
    """Of ``ranked``, strongest first, those of the best split over all orders that were tried; nobody if none fits."""
    nodes = list(ranked[:ORDERED_MAX])
    figures = Figures(problem, nodes)
    stages_max = min(problem.stages_max, CANDIDATES_EXACT_MAX, figures.ends)
    steps = stages_max * len(nodes) ** 2 * figures.ends
    best: tuple[int, tuple[int, ...]] | None = None
    for number in range(max(2, min(ORDERS_MAX, STEPS_MAX // steps))):
        order = list(range(len(nodes))) if number == 0 else _shuffled(nodes, number)
        found = _along(problem, figures, order, stages_max)
        if found is not None and (best is None or found[0] < best[0]):
            best = found
    return [] if best is None else [nodes[index] for index in best[1]]


def _shuffled(nodes: Sequence[Candidate], number: int) -> list[int]:
    def key(index: int) -> bytes:
        return hashlib.blake2b(nodes[index].node.encode(), key=number.to_bytes(4, "big"), digest_size=16).digest()

    return sorted(range(len(nodes)), key=key)


def _along(
    problem: SplitProblem, figures: Figures, order: Sequence[int], stages_max: int
) -> tuple[int, tuple[int, ...]] | None:
    """(score, nodes) of the best split whose nodes stand in ``order``."""
    objective, join, ends = problem.objective, join_of(problem.objective), figures.ends
    best: tuple[int, tuple[int, ...]] | None = None
    closed = [UNREACHED] * (ends - 1)
    rows = {n: lay([figures.enter[n], *closed], figures.path[n], figures.reach[n], objective) for n in order}
    history = [rows]
    for stages in range(1, stages_max + 1):
        if stages > 1:
            rows = {}
            for place, n in enumerate(order):
                ways = [(history[-1][u], figures.link[u][n]) for u in order[:place] if u in history[-1]]
                if ways:
                    rows[n] = lay(arrivals(ways, objective), figures.path[n], figures.reach[n], objective)
            history.append(rows)
        for n in order if stages >= max(problem.stages_min, problem.nodes_min) else ():
            score = join(rows[n][ends], figures.leave[n]) if n in rows else UNREACHED
            if score < UNREACHED and (best is None or score < best[0]):
                best = score, _back(problem, figures, order, history, n)
    return best


def _back(
    problem: SplitProblem, figures: Figures, order: Sequence[int], history: Sequence[dict[int, list[int]]], last: int
) -> tuple[int, ...]:
    """The nodes of the way that ends with ``last`` after as many stages as ``history`` has."""
    objective, join, end = problem.objective, join_of(problem.objective), figures.ends
    nodes = [last]
    for place in range(len(history) - 1, 0, -1):
        before, cost_ns = history[place - 1], history[place][last][end]
        senders = [u for u in order[: order.index(last)] if u in before]
        came = arrivals([(before[u], figures.link[u][last]) for u in senders], objective)
        path, reach = figures.path[last], figures.reach[last]
        start = next(i for i in range(end) if reach[i] >= end and join(came[i], path[end] - path[i]) == cost_ns)
        last = next(u for u in senders if join(before[u][start], figures.link[u][last][start]) == came[start])
        nodes.append(last)
        end = start
    return tuple(reversed(nodes))
