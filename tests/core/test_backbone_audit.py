import pytest

from shoal_agent.core.backbone import Edge
from shoal_agent.core.backbone_audit import verify
from shoal_agent.core.problem import Link, Links
from tests.support.backbones import machine, problem, service

HOSTS = [machine("a", zone="x", trust=1), machine("b", zone="x", trust=1), machine("c", zone="y")]
BUSY = {"rate_milli": 2_000, "time_us": 1_000_000, "headroom_permille": 1000}


def told(counts, claimed=None, **changes):
    asked = problem(HOSTS, [service("s", **changes.pop("service", {}))], **changes)
    return verify(asked, counts, claimed)


def test_what_keeps_every_rule_and_costs_what_it_claims_is_good():
    assert told(((1, 1, 0),), 20) == []


@pytest.mark.parametrize(
    ("counts", "changes", "fault"),
    [
        (((1, 1, 0),), {"claimed": 19}, "claim: it costs 20, claimed are 19"),
        (((1, 0, 0),), {}, "hosts: s has 1, it must have 2 to 200"),
        (((1, 1, 1),), {"service": {"hosts_max": 2}}, "hosts: s has 3, it must have 2 to 2"),
        (((1, 5, 0),), {}, "memory: b would hold 20, it offers 16"),
        (((1, 0, 1),), {"service": {"trust": 1}}, "trust: s asks for 1, c has 0"),
        (((1, 1, 0),), {"service": {"across_zones": True}}, "zones: all hosts of s are in zone x"),
        (((2, 1, 0),), {"service": {"per_host_max": 1}}, "per host: 2 of s on a, 1 are allowed"),
        (((1, 1, 0),), {"service": {**BUSY, "rate_milli": 3_000}}, "demand: s has 2 instances, it needs 3"),
        (((2, 1, 0),), {"service": BUSY}, "cover: losing a leaves 1 instances of s, 2 must be left"),
        (((1, 1, 0),), {"budget": 19}, "budget: the instances cost 20, 19 is allowed"),
        (((1, 1, 0),), {"pairs_min": 3}, "pairs: 2 pairs of service and host, at least 3 are asked for"),
        (((1, 1),), {}, "form: it must name 1 services on 3 machines"),
        (((1, -1, 2),), {}, "form: -1 is no number of instances"),
        (((1, 1.0, 0),), {}, "form: 1.0 is no number of instances"),
    ],
)
def test_every_broken_rule_is_told_with_its_numbers(counts, changes, fault):
    assert fault in told(counts, **changes)


def test_a_reserve_for_light_services_is_told():
    asked = problem([machine("a", 16, reserve_permille=500), machine("b")], [service("s", 9)])
    assert verify(asked, ((1, 1),), None) == ["memory: a would hold 9, it offers 8 (50 % is kept for light services)"]


def test_traffic_that_does_not_fit_is_told():
    asked = problem(HOSTS, [service("s"), service("t")], edges=(Edge(0, 1, 1000, 10**9),), links=Links(Link(1, 1)))
    assert verify(asked, ((1, 1, 0), (0, 1, 1)), None) == []  # it stays on b
    assert (
        verify(asked, ((2, 0, 0), (0, 1, 1)), None)[-1] == "links: the traffic between the hosts does not fit on them"
    )
