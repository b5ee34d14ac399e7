from dataclasses import replace

import pytest

from shoal_agent.core.backbone import Edge
from shoal_agent.core.backbone_search import search
from shoal_agent.core.backbone_why import why_not
from shoal_agent.core.problem import Link, Links
from tests.support.backbones import machine, problem, service


def possible(asked) -> bool:
    return search(asked) is not None


def refuse(asked) -> bool:
    raise AssertionError("what can be counted is not tried")


def test_too_little_memory_on_trusted_machines_is_told_with_what_would_do():
    hosts = [machine("a", 14, trust=2), machine("b", 11, trust=2), machine("c", 99)]
    told = why_not(problem(hosts, [service("llm", 14, trust=2)]), refuse)
    assert told == ["memory: llm needs 2 x 14, the machines with trust >= 2 offer 14, 11; 1 more of 14 would do"]


def test_the_reserve_is_named_where_it_is_what_lacks():
    hosts = [machine("a", 16, reserve_permille=300), machine("b", 16, reserve_permille=300)]
    (told,) = why_not(problem(hosts, [service("s", 12)]), refuse)
    assert "offer 11, 11 (30 % or less is kept for light services)" in told


@pytest.mark.parametrize(
    ("hosts", "services", "changes", "told"),
    [
        ([machine("a")], [service("s")], {}, "trust: s must have 2 hosts, 1 machines are there; 1 more would do"),
        (
            [machine("a"), machine("b")],
            [service("s", 16, rate_milli=3_000, time_us=1_000_000, headroom_permille=1000)],
            {},
            "demand: s needs 3 instances of 16 memory, at most 2 fit on 2 machines; room for 1 more would do",
        ),
        (
            [machine("a", 32), machine("b", 16)],
            [service("s", 16, rate_milli=2_000, time_us=1_000_000, headroom_permille=1000)],
            {},
            (
                "cover: if the largest host of s is lost, at most 1 instances are left, 2 must be; "
                "room for 1 more elsewhere would do"
            ),
        ),
        (
            [machine("a"), machine("b")],
            [service("s", across_zones=True)],
            {},
            "zones: s must be in two, all machines with room for it are in ",
        ),
        (
            [machine("a", 9), machine("b", 9)],
            [service("s", 6), service("t", 6)],
            {},
            "memory: all services need 24 at least, the machines offer 18; 6 more would be needed at least",
        ),
        (
            [machine("a"), machine("b")],
            [service("s")],
            {"budget": 19},
            "budget: the cheapest instances cost 20 in all, 19 is allowed",
        ),
        (
            [machine("a"), machine("b")],
            [service("s")],
            {"pairs_min": 3},
            "pairs: 3 pairs of service and host are asked for, hosts_max and room allow 2",
        ),
    ],
)
def test_what_all_machines_together_lack_is_counted(hosts, services, changes, told):
    assert why_not(problem(hosts, services, **changes), refuse) == [told]


def test_rules_that_are_in_each_others_way_are_lifted_one_by_one():
    """Six of everything would do, but 4 and 4 leave 2 and 2 on two machines of six."""
    hosts = [machine(name, 6) for name in "abc"]
    asked = problem(hosts, [service("s", 4), service("t", 4)])
    told = why_not(asked, possible)
    assert any(line.startswith("hosts: if a service could be on one machine") for line in told)
    (larger,) = (line for line in told if line.startswith("memory: one more machine"))
    room = int(larger.split(" of ")[1].split()[0])
    assert room <= 6
    assert possible(replace(asked, machines=(*hosts, machine("d", room))))


def test_links_that_carry_too_little_are_named():
    hosts = [machine(name, 4) for name in "abcd"]
    narrow = problem(hosts, [service("s"), service("t")], edges=(Edge(0, 1, 1000, 10**6),), links=Links(Link(1, 1000)))
    assert "links: if the links carried all traffic it would go" in why_not(narrow, possible)
