r"""What a placement of the backbone costs, term by term, in whole numbers: the same for whoever works it out.

*How good is a machine for a service?* Demand goes where answers come from soon, and there it is worth most where
most time is left (Zhu et al. 2026, eqs. 15 and 16, scaled so that the best machine of each service has 1)::

    before(v, m) = max over senders p of  min over machines u of  before(u, p) + time_p + tau_uv(size)
    left(v, m)   = max(LEFT_MIN, (deadline_m - before(v, m) - time_m) / time of what follows m)
    Q(v, m)      = 2^(-before(v, m) / half life) * left(v, m) / the largest such

Powers are taken in decimal arithmetic, which is the same on every machine; floating point is not. Of services that
begin a pipeline all machines are equal here; where their clients are matters too, and whoever knows it gives Q itself.

*What goes where?* Between the hosts of two services traffic takes the nearest ways there are, no host carrying more
than its instances' share of the demand. With x_u need_b on offer at u, x_v need_a wanted at v, and need_a need_b to be
sent in all, everything is whole, and this is the transport problem: successive cheapest ways, with room to take
back what was sent, find its optimum (Ford and Fulkerson). Links are shared out edge by edge, the heaviest first; each
edge is optimal in what is left, which all together need not be: a placement whose traffic does not fit in this way
counts as one whose traffic does not fit.

*tau* is half a round trip and the time on the link, and nothing within one machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from typing import Final

from shoal_agent.core.backbone import FLOW_MACHINES_MAX, BackboneProblem, Counts, Edge, in_order, price_of

LEFT_MIN: Final = Decimal("0.01")
"""A machine that comes too late is still better the earlier it is."""
DIGITS: Final = 12
"""More than thousandths need."""
_LN2: Final = Decimal("0.693147180560")
_MICRO: Final = 1_000_000
_NANO: Final = 1_000_000_000

Shares = Mapping[tuple[int, int], int]
"""Units of one edge's traffic by (sending machine, receiving machine)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The objective by its terms; ``quality`` is what good machines earn, and is subtracted."""

    run: int
    quality: int
    network: int
    hosts: int
    moving: int

    @property
    def total(self) -> int:
        """The objective; never negative."""
        return self.run - self.quality + self.network + self.hosts + self.moving


class Figures:
    """Every coefficient of a problem, worked out once; services by m, machines by v, kinds of room by k."""

    def __init__(self, problem: BackboneProblem) -> None:
        self.problem = problem
        machines, services = problem.machines, problem.services
        self.room = [[offered * (1000 - m.reserve_permille) // 1000 for offered in m.capacity] for m in machines]
        """room[v][k]."""
        loads = [service.rate_milli * service.time_us for service in services]
        self.need = [max(1, _up(load * s.headroom_permille)) for load, s in zip(loads, services, strict=True)]
        self.cover = [_up(load * s.survive_permille) for load, s in zip(loads, services, strict=True)]
        """Instances there must be, and that must be left whichever machine is lost."""
        self.most = [[self._most(m, v) for v in range(len(machines))] for m in range(len(services))]
        """most[m][v]: instances that machine could hold if it held nothing else; 0 where it is not trusted."""
        self.fewest = [self._fewest(m) for m in range(len(services))]
        """Instances a service cannot do with less of, given how many hosts it may have."""
        self.price = [[price_of(problem, m, v) for v in range(len(machines))] for m in range(len(services))]
        weights = problem.weights
        self.earned = [[weights.quality * q // 1000 for q in row] for row in qualities(problem)]
        self.moved = [self._moved_row(m) for m in range(len(services))]
        self.flows = len(machines) <= FLOW_MACHINES_MAX and bool(problem.edges)
        """Whether traffic is counted way by way."""

    def _most(self, service: int, machine: int) -> int:
        asked, host = self.problem.services[service], self.problem.machines[machine]
        if host.trust < asked.trust or host.node in asked.barred:
            return 0
        fits = (room // needed for needed, room in zip(asked.needs, self.room[machine], strict=True) if needed)
        return min(asked.per_host_max, *fits)

    def _fewest(self, service: int) -> int:
        """With H hosts, T instances leave T - ceil(T/H) after the worst loss: T = cover + ceil(cover / (H - 1))."""
        asked, cover = self.problem.services[service], self.cover[service]
        hosts = min(asked.hosts_max, sum(most > 0 for most in self.most[service]))
        survives = cover + -(-cover // (hosts - 1)) if hosts > 1 else 0
        return max(self.need[service], asked.hosts_min, survives)

    def _moved_row(self, service: int) -> list[int]:
        cost = self.problem.weights.moved_mb * self.problem.services[service].weight_bytes // _MICRO
        stands = self.problem.current[service] if self.problem.current else (0,) * len(self.problem.machines)
        return [0 if there else cost for there in stands]

    def tau_us(self, edge: Edge, sender: int, receiver: int) -> int:
        """Time of one transfer of ``edge``."""
        return tau_us(self.problem, sender, receiver, edge.size_bytes)

    def units(self, edge: Edge) -> int:
        """Into how many equal parts the traffic of ``edge`` is divided."""
        return self.need[edge.sender] * self.need[edge.receiver]

    def link_bytes_per_s(self, sender: int, receiver: int) -> int:
        """What the backbone may put on a link."""
        machines, links = self.problem.machines, self.problem.links
        whole_link = links.between(machines[sender].node, machines[receiver].node).bytes_per_s
        return whole_link * self.problem.link_share_permille // 1000


def _up(load: int) -> int:
    """Instances for a load of thousandths of a thousandth of microseconds per second."""
    return -(-load // (_NANO * 1000))


def tau_us(problem: BackboneProblem, sender: int, receiver: int, size_bytes: int) -> int:
    """Time of one transfer."""
    if sender == receiver:
        return 0
    link = problem.links.between(problem.machines[sender].node, problem.machines[receiver].node)
    return link.rtt_us // 2 + -(-size_bytes * _MICRO // max(link.bytes_per_s, 1))


def qualities(problem: BackboneProblem) -> Counts:
    """Q in thousandths, by service and machine."""
    if problem.quality_permille:
        return problem.quality_permille
    machines, services = range(len(problem.machines)), problem.services
    order = in_order(problem)
    before = [[0] * len(machines) for _ in services]
    follows = [0] * len(services)
    for m in order:
        for edge in (edge for edge in problem.edges if edge.receiver == m):
            done = [at + services[edge.sender].time_us for at in before[edge.sender]]
            for v in machines:
                soonest = min(done[u] + tau_us(problem, u, v, edge.size_bytes) for u in machines)
                before[m][v] = max(before[m][v], soonest)
    for m in reversed(order):
        after = (e.receiver for e in problem.edges if e.sender == m)
        follows[m] = max((services[r].time_us + follows[r] for r in after), default=0)
    with localcontext(Context(prec=DIGITS)):
        return tuple(_scaled([_worth(problem, m, at, follows[m]) for at in before[m]]) for m in range(len(services)))


def _worth(problem: BackboneProblem, service: int, before_us: int, follows_us: int) -> Decimal:
    asked = problem.services[service]
    near = (-_LN2 * before_us / problem.half_life_us).exp()
    if asked.deadline_us == 0:
        return near
    return near * max(LEFT_MIN, Decimal(asked.deadline_us - before_us - asked.time_us) / max(follows_us, 1))


def _scaled(worths: Sequence[Decimal]) -> tuple[int, ...]:
    largest = max(worths)
    return tuple(int(1000 * worth / largest) if largest else 0 for worth in worths)


def cost_of(figures: Figures, counts: Counts) -> Cost | None:
    """What ``counts`` cost, whether or not anything else is wrong with them; None if their traffic does not fit."""
    routes = route(figures, counts)
    if routes is None:
        return None
    run = quality = hosts = moving = 0
    for m, row in enumerate(counts):
        for v, count in enumerate(row):
            if count:
                run += count * figures.price[m][v]
                quality += count * figures.earned[m][v]
                hosts += figures.problem.weights.host
                moving += figures.moved[m][v]
    edges = zip(figures.problem.edges, routes, strict=False)
    return Cost(run, quality, sum(traffic_cost(figures, edge, shares) for edge, shares in edges), hosts, moving)


def traffic_cost(figures: Figures, edge: Edge, shares: Shares) -> int:
    """The network term of one edge."""
    time_us = sum(units * figures.tau_us(edge, u, v) for (u, v), units in shares.items())
    return figures.problem.weights.network * edge.rate_milli * time_us // (_NANO * figures.units(edge))


def route(figures: Figures, counts: Counts) -> list[Shares] | None:
    """The ways of every edge's traffic, by edge; None if it does not fit, or there are too few instances for it."""
    if not figures.flows:
        return []
    edges = figures.problem.edges
    alone = [send(figures, edge, counts, None) for edge in edges]
    free = [shares for shares in alone if shares is not None]
    if len(free) < len(edges):
        return None
    return free if fits(figures, free) else _shared_out(figures, counts)


def fits(figures: Figures, routes: Sequence[Shares]) -> bool:
    """Whether the links hold the traffic of all edges on these ways."""
    used: dict[tuple[int, int], int] = {}
    for edge, shares in zip(figures.problem.edges, routes, strict=True):
        _book(figures, edge, shares, used)
    return all(taken <= figures.link_bytes_per_s(*pair) for pair, taken in used.items())


def _shared_out(figures: Figures, counts: Counts) -> list[Shares] | None:
    """The edges one after the other, each with what those before left of the links."""
    edges = figures.problem.edges
    order = sorted(range(len(edges)), key=lambda index: (-edges[index].rate_milli * edges[index].size_bytes, index))
    used: dict[tuple[int, int], int] = {}
    found: dict[int, Shares] = {}
    for index in order:
        shares = send(figures, edges[index], counts, used)
        if shares is None:
            return None
        found[index] = shares
        _book(figures, edges[index], shares, used)
    return [found[index] for index in range(len(edges))]


def _book(figures: Figures, edge: Edge, shares: Shares, used: dict[tuple[int, int], int]) -> None:
    for (u, v), units in shares.items():
        if u != v:
            taken = -(-edge.rate_milli * edge.size_bytes * units // (1000 * figures.units(edge)))
            used[u, v] = used.get((u, v), 0) + taken


def send(figures: Figures, edge: Edge, counts: Counts, used: Mapping[tuple[int, int], int] | None) -> Shares | None:
    """The cheapest ways for one edge's traffic beside what is ``used`` of the links already (None: no limits)."""
    offers = {u: n * figures.need[edge.receiver] for u, n in enumerate(counts[edge.sender]) if n}
    wants = {v: n * figures.need[edge.sender] for v, n in enumerate(counts[edge.receiver]) if n}
    total, load = figures.units(edge), edge.rate_milli * edge.size_bytes
    ways = {(u, v): figures.tau_us(edge, u, v) for u in offers for v in wants}
    limits = dict.fromkeys(ways, total)
    if used is not None and load:
        for u, v in ways:
            left = max(0, figures.link_bytes_per_s(u, v) - used.get((u, v), 0))
            limits[u, v] = total if u == v else min(total, left * 1000 * total // load)
    return _transport(_Transport(offers, wants, ways, limits), total)


@dataclass(slots=True)
class _Transport:
    """What is left to offer, to want and to send on each way."""

    offers: dict[int, int]
    wants: dict[int, int]
    ways: dict[tuple[int, int], int]
    limits: dict[tuple[int, int], int]


def _transport(state: _Transport, total: int) -> Shares | None:
    """Send ``total`` by the cheapest ways, one after the other; None if it does not all go."""
    sent: dict[tuple[int, int], int] = {}
    while total:
        path = _cheapest_path(state, sent)
        if path is None:
            return None
        first, last = path[0][0], path[-1][1]
        room = [total, state.offers[first], state.wants[last]]
        room += [state.limits[u, v] - sent.get((u, v), 0) for u, v in path[::2]]
        room += [sent[u, v] for v, u in path[1::2]]
        amount = min(room)
        for index, (a, b) in enumerate(path):
            way = (b, a) if index % 2 else (a, b)
            sent[way] = sent.get(way, 0) + (-amount if index % 2 else amount)
        state.offers[first] -= amount
        state.wants[last] -= amount
        total -= amount
    return {way: units for way, units in sent.items() if units}


def _cheapest_path(state: _Transport, sent: Shares) -> list[tuple[int, int]] | None:
    """Sender, receiver, sender, ..., receiver: forth where there is room, back where something was sent.

    Bellman and Ford's relaxations, over two tables of distances: machines as senders and as receivers.
    """
    forth = {u: 0 for u, left in state.offers.items() if left}
    back: dict[int, int] = {}
    to_receiver: dict[int, int] = {}
    to_sender: dict[int, int] = {}
    changed = True
    while changed:
        changed = False
        for (u, v), cost in state.ways.items():
            if u in forth and sent.get((u, v), 0) < state.limits[u, v] and forth[u] + cost < back.get(v, 1 << 80):
                back[v], to_receiver[v], changed = forth[u] + cost, u, True
            if v in back and sent.get((u, v), 0) and back[v] - cost < forth.get(u, 1 << 80):
                forth[u], to_sender[u], changed = back[v] - cost, v, True
    ends = [(cost, v) for v, cost in back.items() if state.wants[v]]
    if not ends:
        return None
    v, path = min(ends)[1], []
    while True:
        u = to_receiver[v]
        path.append((u, v))
        if u not in to_sender:
            return path[::-1]
        path.append((to_sender[u], u))
        v = to_sender[u]
