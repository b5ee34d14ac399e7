from shoal_agent.sim.faults import FAULTS
from shoal_agent.sim.scenarios import ALL, SCENARIOS


def test_every_fault_named_is_one():
    assert {fault for scenario in SCENARIOS.values() for fault in scenario.faults} == set(FAULTS)


def test_mixed_has_them_all_and_calm_none():
    assert set(SCENARIOS["mixed"].faults) == set(FAULTS)
    assert SCENARIOS["calm"].faults == ()


def test_every_fault_also_has_a_scenario_of_few():
    few = {fault for name, scenario in SCENARIOS.items() if name != "mixed" for fault in scenario.faults}
    assert few == set(FAULTS)


def test_every_scenario_says_what_it_is():
    assert all(scenario.summary for scenario in SCENARIOS.values())
    assert len({scenario.summary for scenario in SCENARIOS.values()}) == len(SCENARIOS)
    assert ALL not in SCENARIOS
