import math

from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.static import Static
from tests.support.paper_a import on_time, played, setting


def test_expected_rates_are_those_of_the_users():
    one = setting()
    rates = Static(one.scenario, one.placement)._rates
    for number in tables.LIGHTS:
        asked = sum(u.tasks_per_ms for u in one.scenario.users if number in one.scenario.pipelines[u.pipeline].parents)
        assert math.isclose(sum(rate for (_, m), rate in rates.items() if m == number), asked, abs_tol=1e-9)


def test_nothing_starts_after_the_beginning():
    one = played("static")
    assert one.instance_slots == one.boots * one.trace.slots
    assert on_time(one) > 0.5
