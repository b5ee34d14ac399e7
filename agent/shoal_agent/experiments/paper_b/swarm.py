"""A swarm without plans, by the rules of Petals: every server picks its blocks alone, every client its own way.

*Blocks.* A server holds one contiguous run, as long as its memory is. It takes the run that is served worst: of all
windows the one whose sorted throughputs are the least, compared number by number. From time to time it asks whether it
should move: it leaves in thought, lets all others choose again until nobody moves, and moves if the slowest block is
now served at less than ``QUALITY`` of what it would be; never if a block would be left with nobody [read in its code].

*Ways.* The client runs the first blocks and the last one itself, as Petals clients run embeddings and head; between,
it takes the cheapest path through (block, server), where a hop costs half a round trip and 18 ms, and a block what its
server announces. It knows no bandwidths, shares no knowledge with other clients, and leaves out who failed it.

A server that moves drops its blocks first and then loads: it serves nothing meanwhile.
"""

from dataclasses import dataclass, replace
from typing import Final

from shoal_agent.core.decision import FETCH_BYTES_PER_S, OPEN_BYTES_PER_S
from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.control import Moved
from shoal_agent.experiments.paper_b.serving import Leg, Route
from shoal_agent.experiments.paper_b.trace import Steps, Trace, delayed

ANNOUNCE_S: Final = 60.0
THINK_S: Final = 20.0
"""One server after the other thinks, so each does every two minutes."""
QUALITY: Final = 0.75
EPSILON: Final = 0.001
ROUNDS_MAX: Final = 10
HOP_S: Final = 0.018
FIRST: Final = cluster.PRIVATE_HEAD
END: Final = cluster.BLOCKS - 1
"""The client keeps the blocks before FIRST and from END on."""


@dataclass(frozen=True, slots=True)
class Span:
    """Blocks ``start..end-1`` on ``node``, open from ``ready`` on."""

    node: int
    start: int
    end: int
    ready: float = 0.0


class Swarm:
    """All servers and the one client."""

    def __init__(self, trace: Trace) -> None:
        self.tick_s = THINK_S
        self.moved = Moved()
        self._busy: tuple[Steps, ...] = tuple(delayed(steps, ANNOUNCE_S) for steps in trace.busy)
        self._dead: dict[int, None] = {}
        self._spans: dict[int, Span] = {}
        self._disk: dict[int, set[int]] = {node: set() for node in cluster.EDGE}
        self._turn = 0
        self._fetching: dict[int, float] = {}
        self._known: tuple[object, Route | None] = (None, None)
        for node in cluster.EDGE:
            start = choose(self._served(0.0), length(node))
            self._spans[node] = Span(node, start, start + length(node))
            self._disk[node].update(range(start, start + length(node)))

    def route(self, now: float) -> Route | None:
        """The cheapest way of those that are announced."""
        spans = [span for span in self._spans.values() if span.node not in self._dead and span.ready <= now]
        rates = tuple(self._rate(span.node, now) for span in spans)
        key = (tuple(spans), rates)
        if self._known[0] != key:
            self._known = key, way(spans, rates)
        return self._known[1]

    def admits(self, now: float, under_way: int) -> bool:
        """Everybody."""
        return now >= 0.0 and under_way > 0

    def serves(self, epoch: int, now: float) -> bool:
        """There are no epochs; who dropped its blocks is found when a request gets there."""
        return epoch == 0 and now >= 0.0

    def tick(self, now: float) -> None:
        """The next server thinks whether to move."""
        node = cluster.EDGE[self._turn % len(cluster.EDGE)]
        self._turn += 1
        if node in self._dead or self._spans[node].ready > now:
            return
        others = {n: span for n, span in self._spans.items() if n not in self._dead}
        rates = {n: self._rate(n, now) for n in others}
        start = better(node, others, rates)
        if start is not None:
            self._move(node, start, now)

    def found(self, node: int, now: float) -> None:
        """The client will not ask it again."""
        assert now >= 0.0, "after the beginning"
        self._dead[node] = None

    def heard(self, node: int, now: float) -> None:
        """It joins as a new server does."""
        self._dead.pop(node, None)
        alive = {n: span for n, span in self._spans.items() if n != node and n not in self._dead}
        self._move(node, choose(served(alive, {n: self._rate(n, now) for n in alive}), length(node)), now)

    def ended(self, now: float, *, late: bool) -> None:
        """Nobody counts."""

    def fetching(self, node: int, now: float) -> bool:
        """For its new blocks."""
        return now < self._fetching.get(node, 0.0)

    def _rate(self, node: int, now: float) -> float:
        """Blocks a second, as announced."""
        return cluster.SPEED[node] * (1.0 - self._busy[node].at(now))

    def _served(self, now: float) -> list[float]:
        return served(self._spans, {node: self._rate(node, now) for node in self._spans})

    def _move(self, node: int, start: int, now: float) -> None:
        blocks = set(range(start, start + length(node)))
        missing = len(blocks - self._disk[node]) * cluster.BLOCK_BYTES
        self._disk[node] |= blocks
        self._fetching[node] = now + missing / FETCH_BYTES_PER_S
        ready = self._fetching[node] + len(blocks) * cluster.BLOCK_BYTES / OPEN_BYTES_PER_S
        self._spans[node] = Span(node, start, start + length(node), ready)
        self.moved.fetched_bytes += missing
        self.moved.epochs += 1


def length(node: int) -> int:
    """How many blocks ``node`` holds; the client's own are on its machine too."""
    kept = (FIRST + cluster.BLOCKS - END) * cluster.BLOCK_BYTES if node == cluster.INGRESS else 0
    return min(END - FIRST, (cluster.MEMORY_MB[node] * 1_000_000 - kept) // cluster.BLOCK_BYTES)


def served(spans: dict[int, Span], rates: dict[int, float]) -> list[float]:
    """The throughput of every block."""
    total = [0.0] * cluster.BLOCKS
    for node, span in sorted(spans.items()):
        for block in range(span.start, span.end):
            # Petals: a request uses half of a server's blocks on average.
            total[block] += rates[node] / ((span.end - span.start + 1) / 2)
    return total


def choose(throughputs: list[float], count: int) -> int:
    """Where the run of ``count`` blocks that is served worst begins."""
    starts = range(FIRST, END - count + 1)
    return min(starts, key=lambda start: (sorted(throughputs[start : start + count]), start))


def better(node: int, spans: dict[int, Span], rates: dict[int, float]) -> int | None:
    """Where ``node`` should move to; None if it should stay."""
    before = min(served(spans, rates)[FIRST:END])
    there = {n: span for n, span in spans.items() if n != node}
    if before > 0 and min(served(there, rates)[FIRST:END]) == 0:
        return None  # the swarm would be disjoint
    start = choose(served(there, rates), length(node))
    if start == spans[node].start:
        return None
    there[node] = Span(node, start, start + length(node))
    for _ in range(ROUNDS_MAX):
        moved = False
        for other in sorted(there):
            rest = {n: span for n, span in there.items() if n != other}
            chosen = choose(served(rest, rates), length(other))
            moved = moved or chosen != there[other].start
            there[other] = replace(there[other], start=chosen, end=chosen + length(other))
        if not moved:
            break
    after = min(served(there, rates)[FIRST:END])
    return start if after > 0 and before / after < QUALITY - EPSILON else None


def way(spans: list[Span], rates: tuple[float, ...]) -> Route | None:
    """The shortest path through (block, server) from FIRST to END."""
    best: dict[int, tuple[float, tuple[Leg, ...]]] = {}
    """By server: the cheapest way whose last block so far ran there."""
    for block in range(FIRST, END):
        arrived = min(best.values(), default=None, key=lambda entry: entry[0])
        reached: dict[int, tuple[float, tuple[Leg, ...]]] = {}
        for span, rate in zip(spans, rates, strict=True):
            if not span.start <= block < span.end:
                continue
            ways: list[tuple[float, tuple[Leg, ...]]] = []
            if span.node in best:
                cost, legs = best[span.node]
                ways.append((cost, (*legs[:-1], replace(legs[-1], last=block))))
            if block == FIRST or arrived is not None:
                cost, legs = (0.0, ()) if arrived is None else arrived
                ways.append((cost + _hop_s(span.node), (*legs, Leg(span.node, block, block))))
            if ways:
                cost, legs = min(ways, key=lambda entry: entry[0])
                reached[span.node] = cost + 1.0 / rate, legs
        best = reached
    if not best:
        return None
    _, legs = min(best.values(), key=lambda entry: entry[0])
    ends = Leg(cluster.INGRESS, 0, FIRST - 1), Leg(cluster.INGRESS, END, cluster.BLOCKS - 1)
    return Route(0, (ends[0], *legs, ends[1]))


def _hop_s(node: int) -> float:
    return 0.0 if node == cluster.INGRESS else cluster.RTT_S / 2 + HOP_S
