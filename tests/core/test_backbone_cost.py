from itertools import product

import pytest

from shoal_agent.core.backbone import Edge, Weights
from shoal_agent.core.backbone_cost import Cost, Figures, cost_of, qualities, route, send, tau_us
from shoal_agent.core.problem import Link, Links
from tests.support.backbones import machine, problem, random_problem, service

SLOW = Links(Link(rtt_us=2000, bytes_per_s=1_000_000))


def test_instances_follow_rate_time_headroom_and_what_must_survive():
    one = service("s", rate_milli=30_000, time_us=100_000, headroom_permille=1500, survive_permille=800)
    figures = Figures(problem([machine("a"), machine("b")], [one]))
    assert (figures.need, figures.cover) == ([5], [3])  # 3 are busy: 4.5 with headroom, 2.4 after a loss


@pytest.mark.parametrize(("hosts_max", "cover", "fewest"), [(2, 3, 6), (3, 3, 5), (4, 3, 4), (9, 3, 4), (3, 0, 2)])
def test_how_few_instances_survive_a_loss_on_so_many_hosts(hosts_max, cover, fewest):
    one = service("s", rate_milli=1000 * cover, time_us=1_000_000, headroom_permille=1000, hosts_max=hosts_max)
    figures = Figures(problem([machine(name, 99) for name in "abcde"], [one]))
    assert (figures.cover, figures.fewest) == ([cover], [fewest])
    spread = [divmod(fewest, hosts) for hosts in range(2, min(hosts_max, 5) + 1)]
    assert max(fewest - each - (over > 0) for each, over in spread) >= cover


def test_a_reserve_and_trust_leave_less_room():
    hosts = [machine("a", 16, reserve_permille=300), machine("b", 16), machine("c", 16, trust=1)]
    figures = Figures(problem(hosts, [service("s", 4, trust=1), service("t", 4)]))
    assert figures.room == [[11], [16], [16]]
    assert figures.most == [[0, 0, 4], [2, 4, 4]]


def test_every_term_is_told_apart():
    hosts, pair = [machine("a"), machine("b"), machine("c")], [service("s", weight_bytes=5_000_000), service("t")]
    asked = problem(
        hosts,
        pair,
        edges=(Edge(0, 1, 2_000, 1_000),),
        links=SLOW,
        current=((1, 0, 0), (1, 1, 1)),
        quality_permille=((1000, 500, 0), (0, 0, 0)),
        weights=Weights(quality=10, network=1000, host=3, moved_mb=2),
    )
    cost = cost_of(Figures(asked), ((1, 1, 0), (0, 1, 1)))
    # Both services can meet on b. Five megabytes go to b; a has them.
    assert cost == Cost(run=40, quality=15, network=0, hosts=12, moving=10)
    apart = cost_of(Figures(asked), ((1, 0, 0), (0, 1, 0)))
    assert apart is not None
    assert apart.network == 1000 * 2 * 2000 // 1_000_000  # two a second, 2 ms each: 0.004 under way
    assert cost.total == 40 - 15 + 12 + 10


def test_the_nearest_machine_after_the_one_before_is_best():
    links = Links(SLOW.default, {})
    asked = problem(
        [machine("a"), machine("b", trust=0)], [service("s"), service("t")], edges=(Edge(0, 1, 1, 1000),), links=links
    )
    assert qualities(asked) == ((1000, 1000), (1000, 1000))
    far = Links(Link(0, 10**9), {(a, b): Link(20_000, 10**9) for a, b in (("a", "b"), ("b", "a"))})
    late = problem(
        [machine("a", 8), machine("b", 8)],
        [service("s", time_us=1000, deadline_us=4000), service("t", time_us=1000, deadline_us=4000)],
        edges=(Edge(0, 1, 1, 1),),
        links=far,
        half_life_us=1,
    )
    assert qualities(late)[0] == (1000, 1000)
    assert tau_us(late, 0, 1, 1) == 10_001


def test_traffic_beyond_what_the_nearest_can_take_goes_farther():
    hosts = [machine("a"), machine("b"), machine("c")]
    pair = [service("s", rate_milli=2_000, time_us=1_000_000, headroom_permille=1000) for _ in range(2)]
    pair = [pair[0], service("t", rate_milli=2_000, time_us=1_000_000, headroom_permille=1000)]
    figures = Figures(problem(hosts, pair, edges=(Edge(0, 1, 1000, 1000),), links=SLOW))
    shares = send(figures, figures.problem.edges[0], ((2, 0, 0), (1, 1, 0)), None)
    assert shares == {(0, 0): 2, (0, 1): 2}  # half of it stays, and instances carry no more than their share


def test_ways_are_the_cheapest_there_are():
    """Against every whole division, on small cases with unequal links."""
    for seed in range(6):
        asked = random_problem(seed, (4, 4), (2, 2))
        figures = Figures(asked)
        edge = asked.edges[0]
        counts = tuple((figures.need[m], 1, 0, 1) for m in range(2))
        shares = send(figures, edge, counts, None)
        assert shares is not None
        assert sum(shares.values()) == figures.units(edge)
        best = _cheapest_by_force(figures, edge, counts)
        assert sum(n * figures.tau_us(edge, *way) for way, n in shares.items()) == best


def _cheapest_by_force(figures, edge, counts):
    """The dual of the transport problem, by brute force over which receiver each sender's parts take in turn."""
    offers = [(u, n * figures.need[edge.receiver]) for u, n in enumerate(counts[edge.sender]) if n]
    wants = [(v, n * figures.need[edge.sender]) for v, n in enumerate(counts[edge.receiver]) if n]
    total = figures.units(edge)
    best = None
    pairs = [(u, v) for u, _ in offers for v, _ in wants]
    # An optimum is reached by filling ways to the brim in some order (a vertex of the polytope).
    for order in _orders(pairs):
        left_u, left_v, left, cost = dict(offers), dict(wants), total, 0
        for u, v in order:
            amount = min(left_u[u], left_v[v], left)
            left_u[u] -= amount
            left_v[v] -= amount
            left -= amount
            cost += amount * figures.tau_us(edge, u, v)
        if left == 0:
            best = cost if best is None else min(best, cost)
    return best


def _orders(pairs):
    """Enough orders to meet every vertex: each pair's place is its first mention in a word over all pairs."""
    seen = {}
    for word in product(pairs, repeat=4):
        head = list(dict.fromkeys(word))
        for rest in (pairs, pairs[::-1]):
            seen[tuple(dict.fromkeys([*head, *rest]))] = None
    return list(seen)


def test_full_links_are_avoided_and_too_much_traffic_does_not_fit():
    hosts = [machine(name, 4) for name in "abcd"]
    pair, edges = [service("s", hosts_max=2), service("t", hosts_max=2)], (Edge(0, 1, 1000, 1_000_000),)
    wide, narrow = Link(1000, 4_000_000), Link(10, 1_000_000)
    links = Links(wide, {("a", "c"): narrow})
    figures = Figures(problem(hosts, pair, edges=edges, links=links))
    ways = route(figures, ((1, 1, 0, 0), (0, 0, 1, 1)))
    assert ways is not None
    assert ("a", "c") not in [(hosts[u].node, hosts[v].node) for u, v in ways[0]]
    stuck = Figures(problem(hosts, pair, edges=edges, links=Links(narrow)))
    assert route(stuck, ((1, 0, 0, 0), (0, 0, 1, 0))) is None
    assert cost_of(stuck, ((1, 0, 0, 0), (0, 0, 1, 0))) is None


def test_beyond_twenty_machines_ways_are_not_counted():
    hosts = [machine(f"n{v:02}") for v in range(21)]
    figures = Figures(problem(hosts, [service("s"), service("t")], edges=(Edge(0, 1, 1000, 1),)))
    assert not figures.flows
    assert route(figures, ((1,) * 21, (1,) * 21)) == []
