import pytest

from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.methods import METHODS, Bench
from shoal_agent.experiments.paper_b.trace import HARSH, MILD, draw

LENGTH_S = 60.0


@pytest.fixture(scope="module")
def bench():
    return Bench(draw(HARSH, 0, 7, cluster.STEADY, 1.0, LENGTH_S), "int8")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_counts_every_request(bench, method):
    found = bench.measure(method)
    assert 0.0 <= found.qos <= 1.0 - found.failed
    assert found.refused <= found.failed
    assert found.mixed == 0
    assert (found.breaches > 0) is (method == "single-node")
    assert found == bench.measure(method), "the same again"


def test_without_trouble_a_split_that_is_made_for_it_serves_well():
    bench = Bench(draw(MILD, 3, 7, cluster.STEADY, 0.25, LENGTH_S), "int8")
    assert bench.measure("static").qos > 0.9
