import math

from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.routes import SHARE_MS_MIN, Routes
from tests.support.paper_a import setting


def test_the_way_left_is_a_shortest_path():
    one = setting()
    scenario, routes = one.scenario, Routes(one.scenario, one.placement)
    for pipeline in scenario.pipelines:
        for number, child in pipeline.child.items():
            for node in scenario.nodes:
                left = routes.left_ms(pipeline, number, node)
                if child is None:
                    assert left == 0
                    continue
                for to in routes.able[child]:
                    way = scenario.services[number].output_mb * scenario.ms_per_mb[node][to]
                    rest = scenario.services[child].run_ms + routes.left_ms(pipeline, child, to)
                    assert left <= way + rest + 1e-9


def test_core_services_run_where_the_backbone_put_them():
    one = setting()
    routes = Routes(one.scenario, one.placement)
    for number in tables.CORES:
        assert routes.able[number] == sorted(v for v, m in one.placement if m == number)


def test_shares_are_of_the_deadline_and_never_below_a_slot():
    one = setting()
    routes = Routes(one.scenario, one.placement)
    used = {m for user in one.scenario.users for m in one.scenario.pipelines[user.pipeline].parents}
    for number in tables.LIGHTS:
        share = routes.share_ms[number]
        assert math.isinf(share) if number not in used else SHARE_MS_MIN <= share <= 20
