from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import inf, nan
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.dispatch import (
    FLYING_MAX,
    LISTED,
    InFlight,
    Offer,
    Task,
    place,
    rendezvous,
    score,
    settle,
    shortlist,
    to_probe,
)
from shoal_agent.core.instances import Light, Prices, worth
from shoal_agent.core.membership import SILENCE_S, Membership
from shoal_protocol.ids import Incarnation, Instant, NodeId, SessionId
from shoal_protocol.messages import NodePhase, NodeState
from tests.support.protocol import MESSAGES

RECORD = next(message for message in MESSAGES if isinstance(message, NodeState))
NODES = [NodeId(letter * 32) for letter in "abcdefgh"]
HERE = NODES[0]
SERVICE = "tokenizer:0123456789abcdef"
SESSION = SessionId(bytes(16))
NOW = Instant(10.0)


def table(able: list[NodeId], others: Sequence[NodeId] = (), phase: NodePhase = NodePhase.READY) -> Membership:
    known = Membership()
    for node in (*able, *others):
        names = (SERVICE,) if node in able else ("sampler:0123456789abcdef",)
        known.merge(node, Incarnation(1), replace(RECORD, services=names, phase=phase), NOW)
    return known


def test_here_if_this_node_has_it():
    assert place(SERVICE, SESSION, HERE, (SERVICE,), table(NODES[1:]), NODES[1:], NOW) == HERE


def test_a_host_of_the_plan_before_anybody_else():
    for number in range(50):
        where = place(SERVICE, SessionId(number.to_bytes(16)), HERE, (), table(NODES[1:]), NODES[3:5], NOW)
        assert where in NODES[3:5]


def test_anybody_who_has_it_if_no_host_does():
    assert place(SERVICE, SESSION, HERE, (), table([NODES[5]], NODES[1:5]), NODES[1:4], NOW) == NODES[5]


@pytest.mark.parametrize(
    "known", [table([], NODES), table(NODES[1:], phase=NodePhase.DISCONNECTED), Membership()], ids=str
)
def test_nobody_if_nobody_can(known):
    assert place(SERVICE, SESSION, HERE, (), known, NODES, NOW) is None


def test_nobody_who_is_shunned():
    hosts = NODES[3:5]
    assert place(SERVICE, SESSION, HERE, (), table(NODES[1:]), hosts, NOW, hosts[:1]) == hosts[1]
    assert place(SERVICE, SESSION, HERE, (), table(NODES[1:]), hosts, NOW, hosts) not in hosts
    assert place(SERVICE, SESSION, HERE, (), table(NODES[1:]), hosts, NOW, NODES) is None


def test_nobody_who_was_silent_too_long():
    assert place(SERVICE, SESSION, HERE, (), table(NODES[1:]), NODES, Instant(NOW + SILENCE_S + 1)) is None


@given(st.binary(min_size=16, max_size=16), st.permutations(NODES))
def test_the_choice_follows_from_the_names_alone(session, order):
    assert rendezvous(SessionId(session), order) == rendezvous(SessionId(session), NODES)


@given(st.binary(min_size=16, max_size=16))
def test_a_node_that_leaves_moves_only_its_own_sessions(session):
    before = rendezvous(SessionId(session), NODES)
    for gone in NODES:
        after = rendezvous(SessionId(session), [node for node in NODES if node != gone])
        assert before in (after, gone)


def test_sessions_spread():
    rng = Random(1)
    load = Counter(rendezvous(SessionId(rng.randbytes(16)), NODES) for _ in range(4000))
    assert len(load) == len(NODES)
    assert max(load.values()) < 1.2 * 4000 / len(NODES)


def test_of_nobody_is_nobody():
    assert rendezvous(SESSION, []) is None


@pytest.mark.parametrize("count", range(5))
def test_the_best_by_digest_is_always_asked_and_another_by_chance(count):
    listed = [Offer(node, pressure=float(rank), wait_slots=0.0) for rank, node in enumerate(NODES[:count])]
    asked = [to_probe(listed, Random(seed)) for seed in range(40)]
    assert all(offers[:1] == tuple(listed[:1]) and len(offers) == min(count, 2) for offers in asked)
    assert {offer.node for offers in asked for offer in offers[1:]} == set(NODES[1:count])


def test_a_digest_counts_what_left_before_it_was_told():
    flight = InFlight()
    for at in (1.0, 2.0, 3.0):
        flight.sent(NODES[0], "x", at, at=at)
    flight.sent(NODES[1], "x", 7.0, at=1.0)
    flight.heard(NODES[0], told=2.0)
    assert (flight.of(NODES[0], "x"), flight.of(NODES[1], "x"), flight.of(NODES[0], "y")) == (5.0, 7.0, 0.0)
    flight.heard(NODES[0], service="y")
    assert flight.of(NODES[0], "x") == 5.0
    flight.heard(NODES[0], service="x")
    assert (flight.of(NODES[0], "x"), flight.of(NODES[1], "x")) == (0.0, 7.0)


# --- by load ---------------------------------------------------------------------------------------------------------

TASK = Task(deadline_slots=10.0, v=2.0, urgency=3.0, bias=0.1)
LOCAL = Offer(HERE, pressure=4.0, wait_slots=5.0)
AMOUNTS = st.floats(0, 1e6)
OFFERS = st.builds(
    Offer, st.sampled_from(NODES[1:]), AMOUNTS, AMOUNTS, transfer_slots=AMOUNTS, price=AMOUNTS, in_flight=AMOUNTS
)


def offers(*pressures, wait=1.0):
    return [Offer(node, pressure, wait) for node, pressure in zip(NODES[1:], pressures, strict=False)]


def test_the_score_is_its_formula():
    offer = Offer(NODES[1], pressure=4.0, wait_slots=5.0, transfer_slots=2.0, price=0.5, in_flight=1.5, age_slots=6.0)
    plain = 3.0 * 7.0 / 10.0 + 2.0 * 0.5 + 4.0 + 1.5 + 0.6
    assert score(offer, TASK) == pytest.approx(plain)
    assert score(replace(offer, dues=2.5), TASK) == pytest.approx(plain + 2.5)


@given(st.lists(OFFERS, max_size=12, unique_by=lambda offer: offer.node), st.none() | st.just(LOCAL))
def test_the_list_is_of_the_best_that_beat_staying(candidates, local):
    listed = shortlist(candidates, TASK, local)
    bar = inf if local is None else score(local, TASK)
    better = sorted((score(offer, TASK), offer.node) for offer in candidates if score(offer, TASK) < bar)
    assert [(score(offer, TASK), offer.node) for offer in listed] == better[:LISTED]


@given(st.permutations(offers(1.0, 1.0, 1.0, 1.0)))
def test_among_equals_the_name_decides(candidates):
    assert [offer.node for offer in shortlist(candidates, TASK, None)] == NODES[1:4]


def test_nobody_is_asked_if_staying_is_best():
    assert shortlist(offers(9.0, 8.0), TASK, LOCAL) == ()
    assert settle((), TASK, LOCAL) == HERE
    assert settle((), TASK, None) is None


@given(st.lists(OFFERS, min_size=1, max_size=4, unique_by=lambda offer: offer.node), st.none() | st.just(LOCAL))
def test_the_best_answer_gets_the_task(answers, local):
    where = settle(answers, TASK, local)
    everybody = [*answers, *([] if local is None else [local])]
    assert min(score(offer, TASK) for offer in everybody) == min(
        score(offer, TASK) for offer in everybody if offer.node == where
    )


def test_a_task_stays_among_equals():
    assert settle([Offer(NODES[1], LOCAL.pressure, LOCAL.wait_slots)], TASK, LOCAL) == HERE


def test_nothing_on_its_way_is_lost_sight_of_though_it_is_much():
    flight = InFlight()
    for at in range(3 * FLYING_MAX):
        flight.sent(NODES[1], "a", 1.0, float(at))
    assert flight.of(NODES[1], "a") == 3 * FLYING_MAX
    assert all(len(entries) <= FLYING_MAX for entries in flight._sent.values())
    flight.heard(NODES[1], told=3.0 * FLYING_MAX)
    assert flight.of(NODES[1], "a") == 0.0


def herd(*, probing, seed=3):
    """The longest queue there ever is when 20 nodes send to 5 by digests that are a slot old."""
    rng, queues, longest = Random(seed), [0.0] * 5, 0.0
    task = Task(10.0, 1.0)
    for _ in range(200):
        digest = list(queues)
        for _ in range(20):
            told = [Offer(NODES[k], pressure, pressure) for k, pressure in enumerate(digest)]
            listed = shortlist(told, task, None)
            if probing:
                listed = tuple(
                    replace(offer, pressure=queues[NODES.index(offer.node)], wait_slots=0.0)
                    for offer in to_probe(listed, rng)
                )
            where = settle(listed, task, None)
            queues[NODES.index(where)] += 0.2
        queues = [max(queue - 0.9, 0.0) for queue in queues]
        longest = max(longest, *queues)
    return longest


def test_probes_end_the_herd():
    assert herd(probing=True) < 0.6 * herd(probing=False)


@pytest.mark.parametrize("bad", [nan, inf, -1.0])
def test_no_figure_that_is_none_becomes_an_offer_or_a_task(bad):
    for field in ("pressure", "wait_slots", "transfer_slots", "price", "in_flight", "age_slots", "dues"):
        with pytest.raises(ValueError, match=field):
            replace(LOCAL, **{field: bad})
    for field in ("deadline_slots", "v", "urgency", "bias"):
        with pytest.raises(ValueError, match=field):
            replace(TASK, **{field: bad})
    with pytest.raises(ValueError, match="work"):
        InFlight().sent(NODES[1], "a", bad)


@given(AMOUNTS, st.floats(1e-3, 1e3), st.floats(0, 1e3), st.floats(0, 1e3))
def test_dues_are_what_rule_a_takes_off_an_instance_for_a_level_of_its_work(pressure, rate, energy, money):
    """Both rules minimise one sum: an instance whose work is not worth its joules there is worth none sent to it."""
    light = Light(
        "s", (1.0,), 0, 0, 0, 0, 1e9, pressure, rate, boot=0.0, run=0.0, joules=0.25, money=0.5
    )  # always enough to do
    prices = Prices(v=0.0, energy=energy, money=money)
    dues = (energy * 0.25 + money * 0.5) / rate
    assert worth(light, 1, prices) == pytest.approx(rate * (pressure - dues), rel=1e-6, abs=1e-6)
    task = Task(deadline_slots=10.0, v=0.0)
    there, free = Offer(HERE, pressure, 0.0, dues=dues), Offer(HERE, pressure, 0.0)
    assert score(there, task) - score(free, task) == pytest.approx(dues, rel=1e-6, abs=1e-6)
