import pytest

from shoal_agent.core.problem import Link
from shoal_agent.errors import ConfigError
from shoal_agent.shell.backbone_sketch import load_backbone

SKETCH = """
kinds = ["cpu", "memory_mb"]
budget = 1000
[[machines]]
name = "a"
capacity = {cpu = 16, memory_mb = 32_000}
price = 120
[[machines]]
name = "b"
capacity = {memory_mb = 1}
[[services]]
name = "s"
needs = {memory_mb = 14_000}
price = 9
[[services]]
name = "t"
needs = {cpu = 1}
price = 9
[[edges]]
sender = "s"
receiver = "t"
rate_milli = 3000
size_bytes = 10
[[links]]
between = ["a", "b"]
rtt_us = 2000
[current.t]
a = 2
[weights]
host = 3
"""


@pytest.fixture
def load(tmp_path):
    def load(text):
        file = tmp_path / "backbone.toml"
        file.write_text(text)
        return load_backbone(file)

    return load


def test_a_file_is_a_problem(load):
    problem = load(SKETCH)
    assert [machine.capacity for machine in problem.machines] == [(16, 32_000), (0, 1)]
    assert [service.needs for service in problem.services] == [(0, 14_000), (1, 0)]
    assert (problem.edges[0].sender, problem.edges[0].receiver) == (0, 1)
    assert problem.links.between("b", "a") == Link(2000, 100_000_000)
    assert problem.current == ((0, 0), (2, 0))
    assert (problem.weights.host, problem.budget, problem.services[0].hosts_min) == (3, 1000, 2)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("price = 120", "price = -120", "machines[0].price"),
        ("price = 120", "price = nan", "machines[0].price"),
        ("price = 120", "price = inf", "machines[0].price"),
        ("price = 120", "prise = 120", "machines[0].prise"),
        ("budget = 1000", "budget = 1.5", "budget"),
        ('sender = "s"', 'sender = "x"', "edges: no x; there are s, t"),
        ('receiver = "t"', 'receiver = "s"', "round in a circle"),
        ("needs = {cpu = 1}", "needs = {gpu = 1}", "needs of t: no gpu; there are cpu, memory_mb"),
        ("needs = {cpu = 1}", "needs = {cpu = 1}\nhosts_min = 3\nhosts_max = 2", "3 hosts at least and 2 at most"),
        ("host = 3", "quality = 30", "instances would earn money"),
        ("[current.t]", "[current.x]", "current: no x"),
        ("[weights]", "[weights", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(load, old, new, told):
    assert old in SKETCH
    with pytest.raises(ConfigError) as fault:
        load(SKETCH.replace(old, new, 1))
    assert told in str(fault.value)
    assert "shoal plan backbone --help" in str(fault.value)
