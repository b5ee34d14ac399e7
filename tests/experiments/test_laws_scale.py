import pytest

from shoal_agent.experiments.laws.scale import digest_bytes, probe_bytes, run
from shoal_agent.experiments.options import Options, silent


def test_messages_are_counted_as_they_go_on_the_wire():
    assert 100 < digest_bytes() < 600
    assert 20 < probe_bytes() < 200


@pytest.mark.long
def test_a_node_costs_the_same_in_a_large_network():
    report = run(Options(seeds=1), silent)
    assert report.passed, report.as_markdown()
