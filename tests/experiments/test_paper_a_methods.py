import pytest

from shoal_agent.experiments.paper_a.methods import METHODS
from tests.support.paper_a import played

NAMED = {"ours", "central", "central-rtt", "gateway", "static", "propavg", "lbrr", "ga", "no-cooperation"}


def test_the_names_that_scripts_know_are_there_and_ours_is_first():
    assert set(METHODS) >= NAMED | {"stale-shortest-queue", "power-of-two", "proposed"}
    assert next(iter(METHODS)) == "ours"


@pytest.mark.parametrize("name", [name for name in METHODS if name != "ga"])
def test_every_method_runs_and_meets_the_same_tasks(name):
    one = played(name)
    assert [task.at_ms for task in one.tasks] == [task.at_ms for task in played("ours").tasks]
    assert one.cost > 0
