import math

from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.affinity import affinity
from tests.support.paper_a import setting


def test_load_is_all_that_comes_and_busy_is_rate_times_time():
    scenario = setting().scenario
    found = affinity(scenario, 0.3)
    for number in tables.CORES:
        users = [u for u in scenario.users if number in scenario.pipelines[u.pipeline].parents]
        rate = sum(user.tasks_per_ms for user in users)
        assert math.isclose(sum(found.load[number]), rate, abs_tol=1e-9)
        assert math.isclose(found.busy[number], rate * scenario.services[number].run_ms, abs_tol=1e-9)


def test_a_machine_on_which_a_service_does_not_fit_carries_nothing():
    scenario = setting().scenario
    found = affinity(scenario, 0.3)
    for number in tables.CORES:
        for node, room in enumerate(scenario.rooms):
            if any(need > 0.7 * r for need, r in zip(scenario.services[number].needs, room, strict=True)):
                assert found.load[number][node] == found.quality[number][node] == 0
