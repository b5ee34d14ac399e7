"""Who has to do with whom."""

import pytest

from shoal_agent.core.circle import circle_of
from shoal_protocol.ids import NodeId
from tests.support.talker import a_plan

A, B, C, D, E = (NodeId(letter * 32) for letter in "abcde")


@pytest.mark.parametrize(
    ("plans", "circle"),
    [
        ([], ()),
        ([a_plan("x", [A, B], voters=[C])], (B, C)),
        ([a_plan("x", [B, C], voters=[A, B])], (B, C)),
        ([a_plan("x", [B, C], voters=[B])], ()),
        ([a_plan("x", [A])], ()),
        ([a_plan("x", [E, A], 0), a_plan("x", [A, B], 1)], (B, E)),
        ([a_plan("x", [A, E], 0), a_plan("x", [A, B], 1), a_plan("x", [C, D], 2)], (B,)),
        ([a_plan("x", [A, B], 0), a_plan("x", [C], 1), a_plan("x", [D], 2)], ()),
        ([a_plan("x", [A, D]), a_plan("y", [C], voters=[A])], (C, D)),
    ],
    ids=[
        "no plan",
        "a host",
        "a voter",
        "neither",
        "alone",
        "two epochs",
        "no more than two",
        "left",
        "two deployments",
    ],
)
def test_the_circle_is_whom_one_hosts_or_votes_with(plans, circle):
    assert circle_of(plans, A) == circle
