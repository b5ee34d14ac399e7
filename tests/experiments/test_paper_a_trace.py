import numpy as np

from shoal_agent.experiments.paper_a.regimes import REGIMES
from shoal_agent.experiments.paper_a.scenario import sample
from shoal_agent.experiments.paper_a.trace import draw
from shoal_agent.experiments.traces import trace_hash

TIGHT, RADIO = REGIMES["R2"], REGIMES["R1"]


def test_a_seed_names_its_trace():
    scenario = sample(TIGHT, 1.0, 1)
    hashes = [trace_hash(draw(scenario, TIGHT, seed, 10, 5)) for seed in (1, 1, 2)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_rates_and_arrivals_have_the_means_they_should():
    scenario = sample(TIGHT, 1.0, 1)
    trace = draw(scenario, TIGHT, 1, 400, 10)
    assert trace.slots == 410
    came = sum(len(slot) for slot in trace.arrivals)
    expected = 400 * sum(user.tasks_per_ms for user in scenario.users)
    assert abs(came - expected) < 5 * expected**0.5
    for number, rates in trace.rates.items():
        assert np.isclose(rates.mean(), scenario.services[number].rate, rtol=0.02)


def test_without_radio_inputs_are_there_at_once():
    scenario = sample(TIGHT, 1.0, 1)
    assert all(a.ready_ms == a.at_ms for slot in draw(scenario, TIGHT, 1, 20, 0).arrivals for a in slot)
    scenario = sample(RADIO, 1.0, 1)
    waits = [a.ready_ms - a.at_ms for slot in draw(scenario, RADIO, 1, 20, 0).arrivals for a in slot]
    assert min(waits) > 0
