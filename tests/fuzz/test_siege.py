"""Nothing a member can send makes a node raise: 200,000 blows of every kind, each reproducible from its seed."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal_agent.core.gate import Gate
from shoal_agent.core.node import Node
from tests.support.siege import Siege

BLOWS = 400
"""In one world; an attacker who speaks as a later life of another silences that one, so worlds are short."""
SIEGES_MAX = 20
"""Worlds until each kind was heard. Every second or third hears a proposal that is not out of date by then."""


def besiege(seed: int, blows: int = BLOWS) -> Siege:
    siege = Siege(seed)
    for _ in range(blows):
        siege.strike()
    siege.world.run(1.0)
    return siege


@pytest.mark.parametrize("seed", range(12))
def test_a_node_survives_a_siege(seed):
    siege = besiege(seed)
    assert not siege.target.dead
    assert siege.refusals() > BLOWS // 10


@pytest.mark.long
def test_a_node_survives_two_hundred_thousand_blows():
    for seed in range(1000, 1000 + 200_000 // BLOWS):
        assert not besiege(seed).target.dead, seed


@given(st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_node_survives_what_hypothesis_draws(rng):
    siege = Siege(1)
    siege.rng = siege.forger.rng = rng
    for _ in range(6):
        siege.strike()
    siege.world.run(1.0)


@pytest.mark.long
@given(st.randoms(use_true_random=False))
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_node_survives_whatever_hypothesis_draws(rng):
    siege = Siege(2)
    siege.rng = siege.forger.rng = rng
    for _ in range(6):
        siege.strike()
    siege.world.run(1.0)


def test_a_siege_is_the_same_each_time():
    assert besiege(7, 100).target.counts == besiege(7, 100).target.counts


def test_every_kind_of_message_and_header_reaches_the_node(monkeypatch):
    """A siege that is stopped at the door proves nothing about those behind it."""
    heard, received = set(), set()
    opened, framed = Gate.open, Node._frame

    def spy_open(gate, *arrival):
        envelope = opened(gate, *arrival)
        heard.add(type(envelope.message))
        return envelope

    def spy_frame(node, peer, header, *rest):
        received.add(type(header))
        return framed(node, peer, header, *rest)

    monkeypatch.setattr(Gate, "open", spy_open)
    monkeypatch.setattr(Node, "_frame", spy_frame)
    siege = besiege(1)
    messages, headers = {type(message) for message in siege.messages}, {type(header) for header in siege.headers}
    seeds = iter(range(2, SIEGES_MAX))
    while heard != messages and (seed := next(seeds, None)) is not None:
        besiege(seed)
    assert heard == messages
    assert received == headers


def test_a_node_that_raises_is_noticed(monkeypatch):
    opened = Gate.open

    def brittle(gate, *arrival):
        raise KeyError(opened(gate, *arrival))

    monkeypatch.setattr(Gate, "open", brittle)
    with pytest.raises(KeyError):
        besiege(4)


def damage(seed: int) -> None:
    siege = Siege(seed)
    for _ in range(BLOWS):
        siege.damaged_envelope()


def test_a_node_that_accepts_what_nobody_signed_is_noticed(monkeypatch):
    damage(5)
    monkeypatch.setattr("shoal_protocol.envelope.verify", lambda *_: None)
    with pytest.raises(AssertionError, match="nobody signed"):
        damage(5)
