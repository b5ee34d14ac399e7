from shoal_agent.experiments.paper_a.paper_rule import Group, PaperRule, Seat, drop_idle
from tests.support.paper_a import on_time, played, setting, world


def rule():
    return PaperRule(setting().scenario, eta=3.0, epsilon=0.2)


def waiting(one):
    while not any(not stage.service.core for stage in one.waiting):
        one._open()
        one.slot += 1
    one.slot -= 1
    return [stage for stage in one.waiting if stage.service.number == one.waiting[0].service.number]


def test_one_more_instance_never_makes_routes_worse():
    one = world()
    stages = waiting(one)
    number, gateway = stages[0].service.number, stages[0].task.gateway
    penalties = [rule().route(one, number, stages, [Seat(gateway, None, 0, 0.0)] * 0).penalty]
    penalties += [
        rule().route(one, number, stages, [Seat(gateway, None, 0, 0.0) for _ in range(count)]).penalty
        for count in (1, len(stages))
    ]
    assert penalties[0] > penalties[1] >= penalties[2]


def test_what_cannot_be_routed_counts_as_twice_its_deadline():
    one = world()
    stages = waiting(one)
    routing = rule().route(one, stages[0].service.number, stages, [])
    assert routing.routes == [None] * len(stages)
    assert routing.penalty == sum(2 * stage.task.pipeline.deadline_ms + 1 for stage in stages)


def test_idle_instances_go():
    one, group = world(), Group(None)
    service = one.scenario.services[1]
    group.owned[7, 1] = [one.boot(7, service)]
    drop_idle(one, [group])
    assert not one.pool(7, 1).instances
    assert not group.owned[7, 1]


def test_the_paper_serves_nearly_all_at_load_one_and_mean_rates_serve_fewer():
    proposed, mean = played("proposed"), played("propavg")
    assert on_time(proposed) > 0.8
    assert on_time(mean) <= on_time(proposed)
    assert mean.cost < proposed.cost


def test_gateways_own_their_instances():
    assert played("gateway").instance_slots >= 0.9 * played("proposed").instance_slots
