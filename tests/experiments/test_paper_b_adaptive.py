"""Shoal on weather written by hand: what it does, and when."""

from dataclasses import replace

import pytest

from shoal_agent.core.decision import HOLD_S, Choice
from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.adaptive import Adaptive, Rules, first_plan
from shoal_agent.experiments.paper_b.trace import MILD, Outage, Steps, draw

STILL = Steps((0.0,), (0.2,))
BURDENED = Steps((0.0, 100.0, 500.0), (0.2, 0.7, 0.2))
"""Too short to matter for a plan made for what is usual."""


@pytest.fixture(scope="module")
def planner():
    return cluster.Planner(cluster.sizes_of("int8"))


def weather(**busy):
    """All machines at 20 %, but those named (``n3=...``), on perfect links."""
    base = draw(MILD, 0, 7, cluster.STEADY, 1.0, 600.0)
    loads = tuple(busy.get(f"n{node}", STILL) for node in range(7))
    return replace(base, length_s=36_000.0, busy=loads, link=(Steps((0.0,), (1.0,)),) * 7, outages=((),) * 7)


def live(method, until_s, begin_s=0.0):
    now = begin_s
    while now < until_s:
        method.tick(now)
        now += method.tick_s
    return method


def middle(method):
    return method.control.running.stages[1].node


def test_nothing_changes_while_nothing_changes(planner):
    method = live(Adaptive(weather(), planner, Rules()), 400.0)
    assert method.control.running.epoch == 0
    assert middle(method) == cluster.NODES[3]
    assert method.control.running.stages[1].standbys == (cluster.NODES[5],)


def test_a_gain_is_taken_once_it_has_lasted(planner):
    trace = weather(n3=BURDENED)
    method = live(Adaptive(trace, planner, Rules()), 100.0 + HOLD_S)
    assert method.control.running.epoch == 0
    live(method, 130.0 + HOLD_S, 100.0 + HOLD_S)
    assert middle(method) != cluster.NODES[3]
    assert method.tally.gains >= 1


def test_the_impatient_take_it_at_once(planner):
    trace = weather(n3=BURDENED)
    rules = Rules(choices=(Choice.RESPLIT,), impatient=True)
    assert middle(live(Adaptive(trace, planner, rules), 115.0)) != cluster.NODES[3]


def test_late_answers_are_a_reason_to_hurry(planner):
    trace = weather(n3=BURDENED)
    method = live(Adaptive(trace, planner, Rules()), 100.0)
    for tenth in range(1110, 1140):
        method.ended(tenth / 10, late=True)
    assert method.tally.slow == 1, "not at its next evaluation: now"
    live(method, 130.0, 114.0)
    assert middle(method) != cluster.NODES[3]


def test_who_thinks_by_the_clock_alone_does_not_hurry(planner):
    method = live(Adaptive(weather(n3=BURDENED), planner, Rules(repairs=False)), 100.0)
    for tenth in range(1110, 1140):
        method.ended(tenth / 10, late=True)
    assert method.tally.slow == 0


def test_a_lost_host_is_replaced_and_its_standby_serves_meanwhile(planner):
    method = live(Adaptive(weather(), planner, Rules()), 50.0)
    method.found(3, 50.3)
    assert 5 in [leg.node for leg in method.route(50.3).legs]
    live(method, 80.0, 52.0)
    assert cluster.NODES[3] not in [stage.node for stage in method.control.running.stages]
    assert (method.tally.repairs, method.tally.choices[Choice.REDISTRIBUTE]) == (1, 1)
    live(method, 120.0, 80.0)
    assert method.control.running.epoch >= 1


def test_a_centre_that_is_away_learns_nothing(planner):
    rules = Rules(fresh=True, agrees=False, centre=(Outage(40.0, 90.0, 1.0),), centre_rtt_s=0.05)
    method = live(Adaptive(weather(), planner, rules), 40.0)
    method.found(3, 50.0)
    assert 3 in [leg.node for leg in method.route(80.0).legs]
    assert 3 not in [leg.node for leg in method.route(90.1).legs]


def test_whoever_may_not_resplit_keeps_the_cuts(planner):
    trace = weather(n3=BURDENED)
    cuts = [(s.first_block, s.last_block) for s in first_plan(trace, planner, 1)]
    method = live(Adaptive(trace, planner, Rules(choices=(Choice.REDISTRIBUTE,))), 400.0)
    assert [(s.first_block, s.last_block) for s in method.control.running.stages] == cuts
    assert method.tally.choices[Choice.RESPLIT] == 0


def test_a_crowd_is_not_let_in(planner):
    method = Adaptive(weather(), planner, Rules())
    assert method.admits(1.0, 1)
    assert not method.admits(1.0, 500)
    assert method.serves(0, 1.0)
    assert not method.fetching(3, 1.0)


def test_while_nobody_fails_no_gain_leaves_a_stage_without_standby(planner):
    method, backed = Adaptive(replace(draw(MILD, 1, 7, cluster.STEADY), outages=((),) * 7), planner, Rules()), []
    for now in range(0, 150, 2):
        live(method, now + 2.0, float(now))
        for tenth in range(4):
            method.ended(now + tenth / 2, late=True)  # in a hurry, too
        backed.append(method.control.covered())
    assert method.control.running.epoch > 3
    assert backed == [True] * len(backed)
