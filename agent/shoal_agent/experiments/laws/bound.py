"""The least cost that anybody could reach, and where the capacity region ends.

If all rates were known and instances could be shared out in fractions, started for nothing, the best is a transport
problem: tasks of node i run at j, itself or a neighbour, for ``price_j / rate`` and the price of sending, and no node
serves more than its room. No controller costs less on average (randomness and starts only add), so the *gap* of a
controller is its cost minus this. The region ends where the transport has no answer any more.

Solved by successive shortest paths (Bellman and Ford): send along the cheapest way, which may take back what was sent
before, until all is sent or there is no way.
"""

from dataclasses import dataclass
from math import inf
from typing import Final

from shoal_agent.experiments.laws.setting import Setting

DUST: Final = 1e-9
STEPS: Final = 24
"""Halvings: the edge of the region to one part in ten million."""


@dataclass(slots=True)
class _Edge:
    """A way and what may still go along it; ``back`` is the index of the way in which it is taken back."""

    to: int
    price: float
    room: float
    back: int


def least_cost(setting: Setting) -> float:
    """Per slot; infinite outside the capacity region. For the first service alone."""
    nodes, kind = setting.nodes, setting.services[0]
    source, sink = 2 * nodes, 2 * nodes + 1
    graph: list[list[_Edge]] = [[] for _ in range(2 * nodes + 2)]
    for here in range(nodes):
        _join(graph, source, here, 0.0, setting.loads[here][0])
        _join(graph, nodes + here, sink, setting.prices[here] / kind.rate, setting.room * kind.rate)
        for there in (here, *setting.neighbours[here]):
            _join(graph, here, nodes + there, 0.0 if there == here else setting.send, inf)
    left, cost = sum(load[0] for load in setting.loads), 0.0
    while left > DUST:
        price, way = _cheapest(graph, source, sink)
        if not way:
            return inf
        amount = min(left, *(edge.room for edge in way))
        for edge in way:
            edge.room -= amount
            graph[edge.to][edge.back].room += amount
        left -= amount
        cost += amount * price
    return cost


def edge_of_region(setting: Setting) -> float:
    """The multiple of the loads at which the network is just not overloaded."""
    low, high = 0.0, 1.0
    while least_cost(setting.times(high)) < inf:
        low, high = high, 2 * high
    for _ in range(STEPS):
        middle = (low + high) / 2
        if least_cost(setting.times(middle)) < inf:
            low = middle
        else:
            high = middle
    return low


def _join(graph: list[list[_Edge]], here: int, there: int, price: float, room: float) -> None:
    graph[here].append(_Edge(there, price, room, len(graph[there])))
    graph[there].append(_Edge(here, -price, 0.0, len(graph[here]) - 1))


def _cheapest(graph: list[list[_Edge]], source: int, sink: int) -> tuple[float, list[_Edge]]:
    """The price of the cheapest way that has room, and its edges; none if there is no way."""
    price = [inf] * len(graph)
    came: list[tuple[int, _Edge] | None] = [None] * len(graph)
    price[source] = 0.0
    changed = [source]
    while changed:
        again: dict[int, None] = {}
        for here in changed:
            for edge in graph[here]:
                if edge.room > DUST and price[here] + edge.price < price[edge.to] - DUST:
                    price[edge.to] = price[here] + edge.price
                    came[edge.to] = (here, edge)
                    again[edge.to] = None
        changed = list(again)
    way: list[_Edge] = []
    at = sink
    while (step := came[at]) is not None:
        at, edge = step
        way.append(edge)
    return price[sink], way
