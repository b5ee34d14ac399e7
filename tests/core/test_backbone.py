import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.backbone import WHOLE_MAX, Edge, Weights, in_order, price_of, whole
from tests.support.backbones import machine, problem, service

PAIR = [machine("a"), machine("b")]


@pytest.mark.parametrize("wrong", [-1, 1.0, math.nan, math.inf, True, None, "3", WHOLE_MAX + 1])
def test_what_is_no_whole_number_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=r"price of a is .*: it must be a whole number, 0 or more"):
        machine("a", price=wrong)


@given(st.one_of(st.floats(), st.integers(max_value=-1), st.booleans(), st.none(), st.text(max_size=3)))
def test_no_nan_and_nothing_negative_gets_into_a_problem(wrong):
    makers = (
        lambda: machine("a", memory=wrong),
        lambda: machine("a", reserve_permille=wrong),
        lambda: service("s", price=wrong),
        lambda: service("s", rate_milli=wrong),
        lambda: service("s", hosts_min=wrong),
        lambda: Edge(0, 1, wrong, 1),
        lambda: Weights(network=wrong),
        lambda: problem(PAIR, [service("s")], budget=wrong),
        lambda: problem(PAIR, [service("s")], current=((wrong, 0),)),
        lambda: problem(PAIR, [service("s")], quality_permille=((wrong, 0),)),
    )
    for maker in makers:
        with pytest.raises(ValueError):
            maker()


def test_hosts_cannot_be_more_at_least_than_at_most():
    with pytest.raises(ValueError, match="asks for 3 hosts at least and 2 at most"):
        service("s", hosts_min=3, hosts_max=2)


def test_a_service_that_needs_nothing_is_refused():
    with pytest.raises(ValueError, match="no end of instances"):
        service("s", memory=0)


def test_quality_may_not_make_instances_earn_money():
    with pytest.raises(ValueError, match="the best placement would fill all machines"):
        problem(PAIR, [service("s", price=10)], weights=Weights(quality=11))
    problem(PAIR, [service("s", price=10)], weights=Weights(quality=10))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"machines": (*PAIR, machine("a"))}, "machine a is there twice"),
        ({"kinds": ("memory", "disk")}, "offers 1 kinds of room, there are 2"),
        ({"current": ((1,),)}, "current must have a row for each service"),
        ({"edges": (Edge(0, 7, 1, 1),)}, "services are 0 to 0"),
        ({"edges": (Edge(0, 0, 1, 1),)}, "go round in a circle"),
        ({"services": ()}, "0 services"),
        ({"quality_permille": ((1001, 0),)}, "0 to 1000"),
    ],
)
def test_a_problem_of_the_wrong_shape_is_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        replace(problem(PAIR, [service("s")]), **changes)


def test_an_instance_costs_its_own_price_and_its_largest_share_of_the_machine():
    both = problem([machine("a", 16, price=100), machine("b", 0, price=7)], [service("s", 4, price=10)])
    assert price_of(both, 0, 0) == 10 + 25
    assert price_of(both, 0, 1) == 17  # nobody will stand there: it has no room


def test_senders_come_before_receivers():
    chain = problem(PAIR, [service("c"), service("b"), service("a")], edges=(Edge(2, 1, 1, 1), Edge(1, 0, 1, 1)))
    assert in_order(chain) == [2, 1, 0]


def test_whole_names_its_bounds():
    with pytest.raises(ValueError, match="share is 2000: it must be a whole number, 0 to 1000"):
        whole("share", 2000, most=1000)
