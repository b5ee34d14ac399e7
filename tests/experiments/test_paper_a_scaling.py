import pytest

from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.routes import Routes
from shoal_agent.experiments.paper_a.scaling import IDLE_SLOTS, Flow, Nodes, Sizes, resize, start_price
from shoal_agent.experiments.paper_a.trace import Arrival
from shoal_agent.experiments.paper_a.world import Stage
from tests.support.paper_a import setting, world


def sizes(*, by_tail=True):
    one = setting()
    return Sizes(Routes(one.scenario, one.placement), by_tail=by_tail)


def used():
    """A light service that somebody's tasks need."""
    one = setting()
    number = next(m for m in one.scenario.pipelines[one.scenario.users[0].pipeline].parents if m in tables.LIGHTS)
    return one.scenario.services[number]


def test_more_comes_more_runs_and_tails_ask_for_no_less_than_means():
    by_tail, by_mean, service = sizes(), sizes(by_tail=False), used()
    counts = [by_tail.of(service, rate).instances for rate in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] > 1
    for rate in (0.5, 1.0, 2.0):
        assert by_tail.of(service, rate).instances >= by_mean.of(service, rate).instances


def test_a_node_starts_what_comes_and_lets_it_go_when_nothing_does():
    one, nodes, service = world(), Nodes(sizes(), v=3.0), used()
    for _ in range(5):
        nodes.came(7, service)
    nodes.scale(one)
    assert one.pool(7, service.number).instances
    for _ in range(200):
        one.slot += 1
        nodes.scale(one)
    assert not one.pool(7, service.number).instances


@pytest.mark.parametrize("seen", [0, 9])
def test_nothing_goes_before_it_lost_what_a_start_costs_and_what_earns_its_rent_never_does(seen):
    one, nodes, service = world(), Nodes(sizes(), v=3.0), used()
    pool = one.pool(7, service.number)
    one.boot(7, service)
    pool.seen, pool.seen_urgency = seen, float(seen)
    nodes._flows[7, service.number] = Flow()
    here = []
    for _ in range(IDLE_SLOTS + 1):
        nodes.scale(one)
        here.append(len(pool.instances))
    assert here == [1] * (IDLE_SLOTS - 1) + ([1, 1] if seen else [0, 0])


def test_only_idle_instances_stop():
    one, service = world(), used()
    pool = one.pool(7, service.number)
    for _ in range(2):
        one.boot(7, service)
    one._arrived(Arrival(0, 0.0, 0.0))
    pool.instances[0].jobs.append(Stage(one.tasks[-1], service, 0.0, 7, 0.0, service.work_mb))
    resize(one, 7, service, pool, 0)
    assert [len(instance.jobs) for instance in pool.instances] == [1]


def test_a_start_is_dearer_for_long_work():
    one = setting().scenario.services
    prices = {number: start_price(one[number]) for number in tables.LIGHTS}
    longest = max(tables.LIGHTS, key=lambda number: one[number].run_ms)
    assert prices[longest] == max(prices.values())
    assert min(prices.values()) > 0


def test_a_task_that_came_too_seldom_to_be_counted_on_is_served():
    one, nodes, service = world(), Nodes(sizes(), v=3.0), used()
    one.slot = 1000
    nodes.came(7, service)
    one._arrived(Arrival(0, 1000.0, 1000.0))
    one.pool(7, service.number).queue.append(Stage(one.tasks[-1], service, 1000.0, 7, 1000.0, service.work_mb))
    nodes.scale(one)
    assert len(one.pool(7, service.number).instances) == 1
