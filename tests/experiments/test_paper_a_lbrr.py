from shoal_agent.experiments.paper_a.lbrr import RoundRobin, _utilised
from tests.support.paper_a import on_time, played, world


def test_turns_go_round():
    rule, service = RoundRobin(), world().scenario.services[1]
    assert [rule._next(service, [4, 7, 9]) for _ in range(5)] == [4, 7, 9, 4, 7]


def test_new_instances_stand_on_the_machine_that_is_least_utilised():
    one, rule = world(), RoundRobin()
    service = one.scenario.services[1]
    best = min(
        (node for node in one.scenario.nodes if one.fits(node, service)), key=lambda node: (_utilised(one, node), node)
    )
    rule._start(one, service, 1)
    assert len(one.pool(best, 1).instances) == 1


def test_it_serves_and_does_so_worse_than_ours():
    assert 0 <= on_time(played("lbrr")) < on_time(played("ours"))
