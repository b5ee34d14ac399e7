"""What is planned for: a file's cluster here; one that is heard: tests/cli/test_plan.py."""

import math
from dataclasses import replace

import pytest

from shoal_agent.core.outlook import rounded_down
from shoal_agent.core.problem import LAN, Link
from shoal_agent.errors import ConfigError
from shoal_agent.shell.scene import Scene, _links, _micro, scene_of
from shoal_agent.shell.sketch import load_sketch
from shoal_agent.shell.survey import Heard
from shoal_protocol.ids import Instant
from shoal_protocol.measured import LinkMeasured
from tests.shell.test_sketch import GOOD, written


def scene(tmp_path, text=GOOD):
    return scene_of(load_sketch(written(tmp_path, text)))


def test_a_file_says_who_costs_what_and_where_requests_come_in(tmp_path):
    found = scene(tmp_path)
    assert found.price_micro == {"desk": 500_000, "rack": 0}
    assert found.ingress == "desk"
    assert found.links.between("desk", "rack") == Link(4000, 5000)


def test_the_ingress_is_trusted_if_nobody_says_who(tmp_path):
    found = scene(tmp_path)
    assert found.trusted(()) == ("home",)
    assert found.trusted(("default",)) == ("default",)
    assert scene(tmp_path, GOOD.replace('ingress = "desk"', "")).trusted(()) == ("default", "home")
    with pytest.raises(ConfigError, match="nobody is in zone moon"):
        found.trusted(("moon",))
    elsewhere = Scene(found.candidates, found.links, "gone", {})
    with pytest.raises(ConfigError, match="the ingress gone is not among"):
        elsewhere.trusted(())


@pytest.mark.parametrize("price", [-0.1, math.nan, math.inf, 10_001])
def test_a_price_that_cannot_be_is_refused(price):
    with pytest.raises(ConfigError, match="an hour"):
        _micro("desk", price)


def test_one_ends_word_about_a_link_is_good_for_both():
    class Said:
        def __init__(self, *links):
            self.links = links

    one, other, third = "aaaa", "bbbb", "cccc"
    heard = (
        Heard(one, Said(LinkMeasured(other, 2000), LinkMeasured(third, 400)), Instant(0.0)),
        Heard(other, Said(LinkMeasured(one, 1024)), Instant(0.0)),
    )
    links = _links(heard)
    assert links.between(third, one) == links.between(one, third)
    assert links.between(one, third).bytes_per_s == LAN.bytes_per_s
    slow = replace(heard[0], state=Said(LinkMeasured(other, 2000, bytes_per_s=1_000_000)))
    assert _links((slow, heard[1])).between(other, one).bytes_per_s == rounded_down(1_000_000)
    assert links.between(one, other).rtt_us == 1920
    assert links.between(other, one).rtt_us == 1024
