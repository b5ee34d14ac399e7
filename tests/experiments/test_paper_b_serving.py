"""Requests of a method that is told what to do, on traces written by hand."""

from dataclasses import replace

import pytest

from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.serving import DEADLINE_S, PATIENCE_S, Leg, Route, Serving
from shoal_agent.experiments.paper_b.trace import MILD, Outage, Steps, draw

SIZES = cluster.sizes_of("int8")
WAY = (Leg(1, 0, 1), Leg(3, 2, 22), Leg(0, 23, 23))
AROUND = (Leg(1, 0, 1), Leg(5, 2, 22), Leg(0, 23, 23))


def quiet(*arrivals, outages=(), busy=0.0):
    base = draw(MILD, 0, 7, cluster.STEADY, 1.0, 60.0)
    still = (Steps((0.0,), (busy,)),) * 7
    out = tuple(tuple(o for n, o in outages if n == node) for node in range(7))
    return replace(
        base, busy=still, link=(Steps((0.0,), (1.0,)),) * 7, outages=out, speedup=(1.0,) * 7, arrivals=arrivals
    )


class Told:
    """Goes ``way`` until node 3 is found dead, then ``around``, if there is one."""

    tick_s = 10.0

    def __init__(self, way=WAY, around=AROUND, admits=True):
        self.ways, self.dead, self.open, self.ends, self.served = (way, around), False, admits, [], lambda _: True

    def route(self, now):
        way = self.ways[self.dead]
        return None if way is None else Route(int(self.dead), way)

    def admits(self, now, under_way):
        return self.open

    def serves(self, epoch, now):
        return self.served(now)

    def tick(self, now): ...

    def found(self, node, now):
        self.dead = True

    def heard(self, node, now):
        self.dead = False

    def ended(self, now, *, late):
        self.ends.append((now, late))

    def fetching(self, node, now):
        return False


def alone_s():
    stages = 2 / 260 + 21 / 500 + 1 / 150
    cuts = SIZES.cut_bytes / 40e6 + SIZES.cut_bytes / 24e6
    return stages + cuts + SIZES.enter_bytes / 24e6 + 3 * cluster.RTT_S


def took(outcome):
    return [None if r.answered is None else r.answered - r.arrived for r in outcome.requests]


def test_alone_a_request_takes_its_stages_and_links():
    assert took(Serving(quiet(1.0), SIZES, Told()).run()) == [pytest.approx(alone_s())]


def test_two_stand_in_line_at_the_slowest_stage():
    first, second = took(Serving(quiet(1.0, 1.0), SIZES, Told()).run())
    assert first == pytest.approx(alone_s())
    assert second == pytest.approx(alone_s() + 21 / 500, abs=0.005)


def test_busy_machines_are_slower():
    assert took(Serving(quiet(1.0, busy=0.5), SIZES, Told()).run())[0] > alone_s() + 0.05


def test_whoever_is_on_a_dying_host_goes_on_elsewhere_once_that_is_found():
    trace = quiet(1.0, outages=[(3, Outage(1.03, 40.0, 0.5))])
    outcome = Serving(trace, SIZES, Told()).run()
    assert took(outcome)[0] == pytest.approx(0.53 + alone_s() + 21 / 450 - 21 / 500)
    assert (outcome.restarts, outcome.mixed) == (1, 0)


def test_without_another_way_it_fails_and_later_ones_are_served_again():
    trace = quiet(1.0, 20.0, 45.0, outages=[(3, Outage(1.03, 40.0, 0.5))])
    assert [time is None for time in took(Serving(trace, SIZES, Told(around=None)).run())] == [True, True, False]


def test_an_answer_after_the_client_has_gone_is_none():
    outcome = Serving(quiet(*[1.0] * 90), SIZES, Told()).run()
    assert max(time for time in took(outcome) if time is not None) <= PATIENCE_S
    assert None in took(outcome)


def test_the_refused_are_counted():
    outcome = Serving(quiet(1.0, 2.0), SIZES, Told(admits=False)).run()
    assert (outcome.refused, took(outcome)) == (2, [None, None])


def test_private_blocks_without_trust_are_counted():
    assert Serving(quiet(1.0), SIZES, Told()).run().breaches == 0
    assert Serving(quiet(1.0), SIZES, Told(way=(Leg(3, 0, 23),))).run().breaches == 3


def test_blocks_that_were_closed_meanwhile_send_a_request_back():
    told = Told()
    told.served = lambda now: now > 1.02
    assert Serving(quiet(1.0), SIZES, told).run().restarts > 0


def test_a_missed_deadline_is_told_once_and_when_it_passes_not_when_the_answer_comes():
    told = Told()
    outcome = Serving(quiet(*[1.0] * 20), SIZES, told).run()
    late = sum(time_s > DEADLINE_S for time_s in took(outcome))
    assert 0 < late < 20
    assert [at for at, missed in told.ends if missed] == [pytest.approx(1.0 + DEADLINE_S)] * late
    assert sum(not missed for _, missed in told.ends) == 20 - late


def test_who_is_not_let_in_or_is_lost_in_a_node_misses_a_deadline_only_if_it_was_let_in():
    refused, lost = Told(admits=False), Told(around=None)
    Serving(quiet(1.0), SIZES, refused).run()
    Serving(quiet(1.0, outages=[(3, Outage(1.01, 50.0, 0.2))]), SIZES, lost).run()
    assert refused.ends == []
    assert lost.ends == [(pytest.approx(1.0 + DEADLINE_S), True)]


def test_a_mixed_answer_would_be_seen():
    serving = Serving(quiet(1.0), SIZES, Told())
    outcome = serving.run()
    assert outcome.requests[0].ran == [0, 0, 0]
