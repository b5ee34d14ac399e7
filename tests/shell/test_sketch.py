"""Clusters on paper: what a file says, and every way in which it can be wrong."""

import json

import pytest

from shoal_agent.core.problem import LAN, Candidate, Link
from shoal_agent.errors import ConfigError
from shoal_agent.shell.sketch import load_sketch

GOOD = """
ingress = "desk"
[default_link]
rtt_us = 700
[[nodes]]
name = "desk"
speed_macs_per_s = 1000
memory = "2 KiB"
zone = "home"
price_per_hour = 0.5
[[nodes]]
name = "rack"
speed_macs_per_s = 2000
memory = 4096
busy_permille = 300
[[links]]
between = ["desk", "rack"]
rtt_us = 4000
bytes_per_s = 5000
"""


def written(tmp_path, text, name="cluster.toml"):
    file = tmp_path / name
    file.write_text(text)
    return file


def test_a_file_becomes_candidates_and_links(tmp_path):
    sketch = load_sketch(written(tmp_path, GOOD))
    assert sketch.candidates == (
        Candidate("desk", 1000, 2048, zone="home"),
        Candidate("rack", 2000, 4096, 300, 0, "default"),
    )
    assert sketch.ways.between("rack", "desk") == sketch.ways.between("desk", "rack") == Link(4000, 5000)
    assert sketch.ways.default == Link(700, LAN.bytes_per_s)
    assert (sketch.ingress, sketch.nodes[0].zone, sketch.nodes[1].price_per_hour) == ("desk", "home", 0.0)


def test_json_says_the_same(tmp_path):
    one = load_sketch(written(tmp_path, GOOD))
    other = load_sketch(written(tmp_path, json.dumps(one.model_dump(mode="json")), "cluster.json"))
    assert one == other


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('["desk", "rack"]', '["desk", "rock"]', "links[0].between: no node rock"),
        ('["desk", "rack"]', '["desk", "desk"]', "links[0].between: a node needs no link to itself"),
        ('ingress = "desk"', 'ingress = "dusk"', "ingress: no node dusk; there are desk, rack"),
        ("price_per_hour = 0.5", "price_per_hour = -0.5", "nodes[0].price_per_hour: Input should be greater"),
        ("price_per_hour = 0.5", "price_per_hour = nan", "nodes[0].price_per_hour: Input should be a finite number"),
        ("price_per_hour = 0.5", "price_per_hour = inf", "nodes[0].price_per_hour: Input should be a finite number"),
        ("memory = 4096", "memory = 0", "nodes[1].memory: Input should be greater than 0"),
        ("memory = 4096", "memory = nan", "nodes[1].memory: must be a whole number"),
        ("memory = 4096", 'memory = "much"', "nodes[1].memory: must be a number of bytes"),
        ("speed_macs_per_s = 2000", "speed_macs_per_s = -1", "nodes[1].speed_macs_per_s: Input should be greater"),
        ('name = "rack"', 'name = "desk"', "nodes[1].name: desk is there already"),
        ("busy_permille", "busyness", "nodes[1].busyness: there is no such setting"),
        ("rtt_us = 4000", "rtt_us = 4000\n[[links]]\nbetween = ['rack', 'desk']", "desk and rack are linked already"),
        ("[default_link]", "[default_link", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, told):
    assert old in GOOD
    with pytest.raises(ConfigError) as fault:
        load_sketch(written(tmp_path, GOOD.replace(old, new, 1)))
    assert told in fault.value.message
    assert "shoal plan --help" in fault.value.hint


def test_nobody_and_nothing(tmp_path):
    with pytest.raises(ConfigError, match="nodes: "):
        load_sketch(written(tmp_path, "nodes = []"))
    with pytest.raises(ConfigError, match="not JSON"):
        load_sketch(written(tmp_path, "[" * 100_000, "deep.json"))
    with pytest.raises(ConfigError, match="No such file"):
        load_sketch(tmp_path / "absent.toml")
