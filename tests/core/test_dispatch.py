from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.dispatch import InFlight, Offer, place, rendezvous, to_probe
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
