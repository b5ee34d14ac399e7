import gc

import pytest

from shoal_agent.sim import scale
from shoal_agent.sim.play import play

FLAT = 1.3
"""Cost per node with many nodes over that with few."""


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(scale, "RUN_S", 20.0)


def test_a_crowd_is_counted_and_sees_itself(short):
    outcome = play("scale", 1, 20)
    assert outcome.violations == ()
    assert outcome.seconds == pytest.approx(10.0)
    per_node_s = outcome.messages / outcome.nodes / outcome.seconds
    assert 18.0 < per_node_s < 40.0
    assert gc.isenabled()


def test_the_cost_of_hearing_each_other_does_not_grow_with_the_cluster(short, monkeypatch):
    monkeypatch.setattr(scale, "SETTLED_S", 4.0)
    monkeypatch.setattr(scale, "RUN_S_MIN", 8.0)
    monkeypatch.setattr(scale, "RUN_S", 8.0)
    few, many = (play("scale", 1, nodes) for nodes in (100, 200))
    per_node = [outcome.messages / outcome.nodes / outcome.seconds for outcome in (few, many)]
    assert per_node[1] < FLAT * per_node[0]
    in_bytes = [outcome.message_bytes / outcome.nodes / outcome.seconds for outcome in (few, many)]
    assert in_bytes[1] < FLAT * in_bytes[0]


@pytest.mark.long
def test_the_cost_is_flat_up_to_ten_thousand_nodes():
    outcomes = [play("scale", 1, nodes) for nodes in (200, 1000, 10_000)]
    assert [outcome.violations for outcome in outcomes] == [()] * 3
    for weight in ("messages", "message_bytes"):
        per_node = [getattr(outcome, weight) / outcome.nodes / outcome.seconds for outcome in outcomes]
        assert max(per_node) < FLAT * min(per_node)
