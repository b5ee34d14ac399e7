"""Who stands in one trust zone."""

from shoal_agent.core.zones import Zones
from shoal_protocol.ids import NodeId

ONE, OTHER, ABROAD, UNKNOWN = (NodeId(name * 32) for name in "abcd")


def test_only_members_of_one_zone_share_it():
    zones = Zones({ONE: "home", OTHER: "home", ABROAD: "away"})
    assert zones.shared(ONE, OTHER)
    assert zones.shared(ONE, ONE)
    assert not zones.shared(ONE, ABROAD)


def test_strangers_share_nothing_not_even_with_each_other():
    zones = Zones({ONE: "home"})
    assert not zones.shared(ONE, UNKNOWN)
    assert not zones.shared(UNKNOWN, UNKNOWN)
