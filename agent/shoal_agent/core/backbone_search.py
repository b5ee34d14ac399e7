"""A good placement of the backbone without a solver: built greedily, then mended and improved step by step.

*Building.* Services in order of how much of the cluster they take, the largest first, for large stones go into a jar
first. Each gets one instance after the other, where it does most for what the service still lacks (instances, hosts,
cover, a second zone) and of those where it costs least; a hint, such as the programme without whole numbers gives, says
where to look first. Nothing is ever put where it does not fit.

*Descending.* Then steps, the first that helps is taken, until none does::

    drop     an instance nobody needs          add      one that somebody lacks
    shift    an instance elsewhere             move     all of a host's instances elsewhere
    swap     two services' instances between two machines          empty    a machine: all it has goes to another
    spread   a service over another number of hosts: with more of them fewer instances survive the loss of one
    evict    one service's instance elsewhere, so that another, which lacks something, gets its room

Where no step helps, two services are taken off and put back one after the other, with more of them than needed beside
those they talk to, where that pays. A step helps if less is lacking afterwards, or as much at a lower price.

*Mending.* In a tight cluster that may end where something lacks although an answer exists: the cheap machines are full
of those that could be elsewhere, and each single step away makes it worse. Then *ejection chains* (Glover 1996) lead
through worse placements: one more instance of what lacks is forced onto some machine, whoever is in its way goes and
lacks something next, and so on. Of all places the one is taken after which least is lacking, where a place counts for
as much more as it was forced already, and whoever is to go for as much as its place was forced: no chain goes round
for ever. With nothing lacking, a second descent follows.

Everything is tried in the order of indices, so whoever searches finds the same. A local optimum may be dear, and the
end of mending is the end of patience: ``None`` means "I did not find one", never "there is none".
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Final

from shoal_agent.core.backbone import BackboneProblem, Counts
from shoal_agent.core.backbone_cost import Cost, Figures, Shares, cost_of, fits, send, traffic_cost

STEPS_MAX: Final = 2_000
"""Steps of one descent: each helps, so an end there is; this is for giants."""
MENDS_MAX: Final = 200
"""Places forced for one board: in tight clusters of 4 to 7 machines 60 were enough wherever there was an answer."""
REBUILT_MAX: Final = 12
"""Services of whom two at a time are taken off and put back: 132 pairs."""

Hint = Mapping[tuple[int, int], int]
"""How much a programme without whole numbers likes (service, machine), in thousandths of an instance."""


@dataclass(frozen=True, slots=True)
class Found:
    """A placement that keeps every rule, and its price."""

    counts: Counts
    cost: Cost


def search(problem: BackboneProblem, hint: Hint | None = None) -> Found | None:
    """The best of a few descents; None if none of them ends with a placement that keeps every rule."""
    figures = Figures(problem)
    best: Found | None = None
    for start in _starts(figures, hint or {}):
        start.descend()
        if start.score()[0] and start.mend():
            start.descend()
        cost = cost_of(figures, start.counts)
        if cost is None or start.score()[0]:
            continue
        if best is None or cost.total < best.cost.total:
            best = Found(start.counts, cost)
    return best


def _starts(figures: Figures, hint: Hint) -> Iterator["_Board"]:
    """Boards to begin with: services by size, one by one or evenly; what follows the hint; what stands now."""
    by_size = sorted(range(len(figures.need)), key=lambda m: (-_size(figures, m), m))
    yield _built(figures, by_size, {})
    yield _settled(figures, by_size)
    if hint:
        yield _built(figures, by_size, hint)
    if figures.problem.current:
        yield _kept(figures, by_size)
    yield _built(figures, by_size[::-1], {})


def _size(figures: Figures, m: int) -> int:
    """The largest part of any kind of room that service ``m`` takes of all there is, in millionths."""
    kinds = range(len(figures.problem.kinds))
    whole = [sum(room[k] for room in figures.room) for k in kinds]
    needs = figures.problem.services[m].needs
    return max(1_000_000 * figures.need[m] * needs[k] // max(whole[k], 1) for k in kinds)


def _built(figures: Figures, order: list[int], hint: Hint) -> "_Board":
    board = _Board(figures)
    for m in order:
        board.fill(m, hint)
    return board


def _settled(figures: Figures, order: list[int]) -> "_Board":
    board = _Board(figures)
    for m in order:
        board.settle(m)
    return board


def _kept(figures: Figures, order: list[int]) -> "_Board":
    """What stands now, as far as it may, and what it lacks."""
    board = _Board(figures)
    for m, row in enumerate(figures.problem.current):
        for v, count in enumerate(row):
            for _ in range(min(count, figures.most[m][v])):
                board.do([(m, v, 1)])
    for m in order:
        board.fill(m, {})
    return board


_Step = list[tuple[int, int, int]]
"""Changes of the number of instances: (service, machine, by)."""
_Forced = dict[tuple[int, int], int]
"""How often one more of a service was forced onto a machine."""
_Score = tuple[int, int]
"""(what is lacking, price): less is better, in this order."""


class _Board:
    """A placement in the making: nothing stands where it does not fit, but something may be lacking."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._problem = problem = figures.problem
        self._rows = [[0] * len(problem.machines) for _ in problem.services]
        self._left = [list(room) for room in figures.room]
        self._known: dict[tuple[int, tuple[int, ...]], _Score] = {}
        self._ways: dict[tuple[int, tuple[int, ...], tuple[int, ...]], tuple[Shares, int]] = {}
        self._crowded = self._may_crowd()

    @property
    def counts(self) -> Counts:
        """As an answer has it."""
        return tuple(tuple(row) for row in self._rows)

    def _may_crowd(self) -> bool:
        """Whether links could matter: only if all traffic on the narrowest of them would be too much for it."""
        machines = range(len(self._problem.machines))
        traffic = sum(edge.rate_milli * edge.size_bytes // 1000 for edge in self._problem.edges)
        pairs = [(u, v) for u in machines for v in machines if u != v]
        return self._figures.flows and any(self._figures.link_bytes_per_s(*pair) < traffic for pair in pairs)

    def do(self, step: _Step) -> bool:
        """Make a step; False, and nothing is changed, if there is no room for it."""
        for done, (m, v, by) in enumerate(step):
            if not self._change(m, v, by):
                for n, w, back in reversed(step[:done]):
                    self._change(n, w, -back)
                return False
        return True

    def _change(self, m: int, v: int, by: int) -> bool:
        needs, left = self._problem.services[m].needs, self._left[v]
        count = self._rows[m][v] + by
        if not 0 <= count <= self._figures.most[m][v] or any(n * by > r for n, r in zip(needs, left, strict=True)):
            return False
        self._rows[m][v] = count
        for k, needed in enumerate(needs):
            left[k] -= needed * by
        return True

    # --- how good it is ---------------------------------------------------------------------------------------------

    def score(self) -> _Score:
        """What is lacking in all, and the price."""
        rows = [tuple(row) for row in self._rows]
        lack = price = 0
        for m, row in enumerate(rows):
            key = m, row
            if key not in self._known:
                self._known[key] = self._service_score(m, row)
            lack, price = lack + self._known[key][0], price + self._known[key][1]
        lack += self._lack_of_all(rows)
        if not self._figures.flows:
            return lack, price
        ways = [self._way(index, rows) for index in range(len(self._problem.edges))]
        if self._crowded and not lack and not fits(self._figures, [shares for shares, _ in ways]):
            cost = cost_of(self._figures, tuple(rows))
            return (1, price) if cost is None else (0, cost.total)
        return lack, price + sum(cost for _, cost in ways)

    def _service_score(self, m: int, row: tuple[int, ...]) -> _Score:
        figures, service = self._figures, self._problem.services[m]
        hosts, total = [v for v, count in enumerate(row) if count], sum(row)
        # Cover is summed over whoever may be lost, hosts that are missing included: counted for the worst alone, the
        # first of two instances that are lacking would seem to be of no use.
        losses = [row[v] for v in hosts] + [0] * (service.hosts_min - len(hosts))
        lack = max(0, figures.need[m] - total) + sum(max(0, figures.cover[m] - (total - lost)) for lost in losses)
        lack += max(0, service.hosts_min - len(hosts)) + max(0, len(hosts) - service.hosts_max)
        zones = dict.fromkeys(self._problem.machines[v].zone for v in hosts)
        lack += service.across_zones and len(zones) < 2  # noqa: PLR2004 - one zone may fail
        each = self._problem.weights.host
        price = sum(row[v] * (figures.price[m][v] - figures.earned[m][v]) + each + figures.moved[m][v] for v in hosts)
        return lack, price

    def _lack_of_all(self, rows: list[tuple[int, ...]]) -> int:
        problem = self._problem
        lack = max(0, problem.pairs_min - sum(count > 0 for row in rows for count in row)) if problem.pairs_min else 0
        price = self._figures.price
        spent = sum(n * price[m][v] for m, row in enumerate(rows) for v, n in enumerate(row) if n)
        over = spent - problem.budget
        return lack + (1 + 100 * over // max(problem.budget, 1) if over > 0 else 0)

    def _way(self, index: int, rows: list[tuple[int, ...]]) -> tuple[Shares, int]:
        """The ways of one edge, were it alone, and what they cost; none while there are too few instances."""
        edge = self._problem.edges[index]
        key = index, rows[edge.sender], rows[edge.receiver]
        if key not in self._ways:
            shares = send(self._figures, edge, tuple(rows), None) or {}
            self._ways[key] = shares, traffic_cost(self._figures, edge, shares)
        return self._ways[key]

    # --- building ---------------------------------------------------------------------------------------------------

    def fill(self, m: int, hint: Hint) -> None:
        """Give service ``m`` what it lacks, as far as there is room for it."""
        while True:
            before = self.score()[0]
            best: tuple[int, bool, int, int] | None = None
            for v in range(len(self._left)):
                if not self.do([(m, v, 1)]):
                    continue
                lack, price = self.score()
                liked = hint.get((m, v), 0) >= 1000 * self._rows[m][v] - 500
                self.do([(m, v, -1)])
                if lack < before:
                    key = lack, not liked, price, v
                    best = key if best is None else min(best, key)
            if best is None:
                return
            self.do([(m, best[3], 1)])

    def settle(self, m: int) -> None:
        """Give service ``m``, which has nothing, what it needs: one by one, or evenly on some hosts, if better."""
        self.fill(m, {})
        best, chosen = self.score(), self._standing([m])
        self.do([(m, v, -count) for m, v, count in chosen])
        for step in list(self._spreads(m)):
            if self.do(step):
                if self.score() < best:
                    best, chosen = self.score(), step
                self.do([(m, v, -count) for m, v, count in step])
        self.do(chosen)

    # --- mending ----------------------------------------------------------------------------------------------------

    def mend(self) -> bool:
        """Force what lacks into a place, again and again: True once every service has what it needs."""
        forced: _Forced = {}
        for _ in range(MENDS_MAX):
            lacking = [m for m, row in enumerate(self._rows) if self._service_score(m, tuple(row))[0]]
            if not lacking:
                return True
            options = [option for m in lacking for option in self._forcings(m, forced)]
            if not options:
                return False
            (_, _, *place), step = min(options)
            self.do(step)
            forced[place[0], place[1]] = forced.get((place[0], place[1]), 0) + 1
            for m in range(len(self._rows)):
                self.fill(m, {})
        return False

    def _forcings(self, m: int, forced: _Forced) -> Iterator[tuple[tuple[int, int, int, int], _Step]]:
        """One more of ``m`` on each machine, at the expense of others: (what it costs, price, m, machine), step."""
        for v in range(len(self._left)):
            for step in self._entries(m, v, forced) if self._rows[m][v] < self._figures.most[m][v] else ():
                if self.do(step):
                    lack, price = self.score()
                    self.do([(n, w, -by) for n, w, by in reversed(step)])
                    worn = sum(forced.get((n, w), 0) for n, w, by in step if by < 0 or (n, w) == (m, v))
                    yield (lack + worn, price, m, v), step

    def _entries(self, m: int, v: int, forced: _Forced) -> Iterator[_Step]:
        """One more of ``m`` on ``v``: others make room, and where it may have no more hosts it leaves one."""
        needs, room = self._problem.services[m].needs, list(self._left[v])
        step: _Step = []
        others = [n for n, row in enumerate(self._rows) if n != m for _ in range(row[v])]
        for n in sorted(others, key=lambda n: forced.get((n, v), 0)):
            if any(needed > left for needed, left in zip(needs, room, strict=True)):
                step.append((n, v, -1))
                room = [left + freed for left, freed in zip(room, self._problem.services[n].needs, strict=True)]
        hosts = [u for u, count in enumerate(self._rows[m]) if count]
        if self._rows[m][v] or len(hosts) < self._problem.services[m].hosts_max:
            yield [*step, (m, v, 1)]
        else:
            yield from ([(m, u, -self._rows[m][u]), *step, (m, v, 1)] for u in hosts)

    # --- descending -------------------------------------------------------------------------------------------------

    def descend(self) -> None:
        """Make steps until none helps."""
        for _ in range(STEPS_MAX):
            if not self._improve() and not self._rebuild():
                return

    def _rebuild(self) -> bool:
        """Take two services off and put them back, one after the other: True, and they stay so, if that helps."""
        before, pairs = self.score(), permutations(range(len(self._rows)), 2)
        for pair in pairs if len(self._rows) <= REBUILT_MAX else ():
            stood = self._standing(pair)
            self.do([(m, v, -count) for m, v, count in stood])
            for m in pair:
                self.settle(m)
            self._pad(pair)
            if self.score() < before:
                return True
            self.do([(m, v, -count) for m, v, count in self._standing(pair)])
            self.do(stood)
        return False

    def _pad(self, services: Iterable[int]) -> None:
        """One more instance beside those it talks to, wherever that pays: it may save the way to another host."""
        for m in services:
            joined = [e.sender + e.receiver - m for e in self._problem.edges if m in (e.sender, e.receiver)]
            for v in [v for v in range(len(self._left)) if any(self._rows[n][v] for n in joined)]:
                before = self.score()
                if self.do([(m, v, 1)]) and self.score() >= before:
                    self.do([(m, v, -1)])

    def _standing(self, services: Iterable[int]) -> _Step:
        return [(m, v, count) for m in services for v, count in enumerate(self._rows[m]) if count]

    def _improve(self) -> bool:
        """Make the first step that helps."""
        before = self.score()
        for step in self._steps():
            if not self.do(step):
                continue
            if self.score() < before:
                return True
            self.do([(m, v, -by) for m, v, by in reversed(step)])
        return False

    def _steps(self) -> Iterator[_Step]:
        machines, services = range(len(self._left)), range(len(self._rows))
        hosts = [(m, v) for m in services for v in machines if self._rows[m][v]]
        yield from ([(m, v, -1)] for m, v in hosts)
        for m, u in hosts:
            for v in machines:
                if v != u:
                    yield [(m, u, -1), (m, v, 1)]
                    if self._rows[m][u] > 1:
                        count = self._rows[m][u]
                        yield [(m, u, -count), (m, v, count)]
        yield from self._swaps(hosts)
        for u, v in permutations(machines, 2):
            yield [(m, at, by) for m, row in enumerate(self._rows) if row[u] for at, by in ((u, -row[u]), (v, row[u]))]
        yield from ([(m, v, 1)] for m in services for v in machines)
        for m in services:
            yield from self._spreads(m)
        yield from self._evictions(hosts)

    def _swaps(self, hosts: list[tuple[int, int]]) -> Iterator[_Step]:
        """One instance each, or all of them: two services change places."""
        for index, (m, u) in enumerate(hosts):
            for n, v in hosts[index + 1 :]:
                if m != n and u != v:
                    yield [(m, u, -1), (n, v, -1), (m, v, 1), (n, u, 1)]
                    a, b = self._rows[m][u], self._rows[n][v]
                    if a * b > 1:
                        yield [(m, u, -a), (n, v, -b), (m, v, a), (n, u, b)]

    def _spreads(self, m: int) -> Iterator[_Step]:
        """Service ``m`` on another number of hosts: more hosts need fewer instances to lose one of them."""
        service, need, cover = self._problem.services[m], self._figures.need[m], self._figures.cover[m]
        row = tuple(self._rows[m])
        price, earned, moved = self._figures.price[m], self._figures.earned[m], self._figures.moved[m]
        for hosts in range(max(2, service.hosts_min), min(service.hosts_max, len(row), service.hosts_min + 3) + 1):
            quota = max(-(-need // hosts), -(-cover // (hosts - 1)))
            able = [v for v in range(len(row)) if self._holds(m, v, quota - row[v])]
            able.sort(key=lambda v: (quota * (price[v] - earned[v]) + moved[v], v))
            chosen = able[:hosts]
            step = [(m, v, -count) for v, count in enumerate(row) if count]
            if len(chosen) == hosts:
                yield step + [(m, v, quota) for v in chosen]

    def _evictions(self, hosts: list[tuple[int, int]]) -> Iterator[_Step]:
        """Room for whoever lacks something, at the expense of somebody who can go elsewhere."""
        for m, row in enumerate(self._rows):
            if not self._service_score(m, tuple(row))[0]:
                continue
            for n, v in hosts:
                for w in range(len(row)) if n != m else ():
                    for count in dict.fromkeys((1, self._rows[n][v])) if w != v else ():
                        yield [(n, v, -count), (n, w, count), (m, v, 1)]

    def _holds(self, m: int, v: int, more: int) -> bool:
        """Whether ``more`` instances of ``m`` fit on ``v``."""
        needs = self._problem.services[m].needs
        fits = all(n * more <= r for n, r in zip(needs, self._left[v], strict=True))
        return fits and self._rows[m][v] + more <= self._figures.most[m][v]
