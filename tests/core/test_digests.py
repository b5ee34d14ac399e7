from dataclasses import replace

import pytest

from shoal_agent.core.digests import Digests, Told
from shoal_agent.core.fading import FADE_S
from shoal_protocol.ids import Incarnation, Instant, NodeId, Sequence
from shoal_protocol.light import DigestTold
from tests.support.protocol import LOAD

PEER, OTHER = NodeId("p" * 32), NodeId("o" * 32)
NOW = Instant(10.0)


def hear(digests: Digests, life: int, number: int, loads=(LOAD,), now: float = 10.0) -> None:
    digests.heard(PEER, Incarnation(life), Sequence(number), DigestTold(tuple(loads)), Instant(now))


def test_what_was_said_last_counts():
    digests = Digests()
    assert digests.of(PEER, LOAD.service) is None
    hear(digests, 1, 5)
    assert digests.of(PEER, LOAD.service) == Told(PEER, LOAD, NOW)
    hear(digests, 1, 6, [replace(LOAD, waiting=0)], now=11.0)
    assert digests.of(PEER, LOAD.service) == Told(PEER, replace(LOAD, waiting=0), Instant(11.0))
    assert digests.of(OTHER, LOAD.service) is None


def test_what_was_overtaken_is_dropped():
    digests = Digests()
    hear(digests, 2, 5)
    for life, number in ((2, 5), (2, 4), (1, 9)):
        hear(digests, life, number, ())
    assert digests.of(PEER, LOAD.service) is not None
    hear(digests, 3, 1, ())
    assert digests.of(PEER, LOAD.service) is None


def test_what_a_digest_no_longer_tells_of_is_not_busy():
    digests = Digests()
    hear(digests, 1, 1)
    hear(digests, 1, 2, [replace(LOAD, service="embedder:00")])
    assert [told.load.service for told in digests] == ["embedder:00"]


def test_a_probe_is_newer_than_a_digest_until_the_next():
    digests = Digests()
    digests.answered(PEER, replace(LOAD, waiting=1), 0, NOW)
    assert digests.of(PEER, LOAD.service).load.waiting == 1
    hear(digests, 1, 1)
    assert digests.of(PEER, LOAD.service).load == LOAD


def test_who_is_out_of_reach_is_forgotten_but_not_its_number():
    digests = Digests()
    hear(digests, 1, 5)
    digests.forget(PEER)
    digests.forget(OTHER)
    assert digests.of(PEER, LOAD.service) is None
    hear(digests, 1, 4)
    assert digests.of(PEER, LOAD.service) is None


def test_what_work_costs_a_node_is_believed_until_it_fades_or_is_told_anew():
    digests = Digests()
    assert digests.price(PEER, NOW) == 0.0
    digests.heard(PEER, Incarnation(1), Sequence(1), DigestTold((), 3000), NOW)
    assert digests.price(PEER, NOW) == 3.0
    assert digests.price(PEER, Instant(NOW + FADE_S)) == pytest.approx(1.5)
    digests.answered(PEER, LOAD, 500, Instant(NOW + FADE_S))
    assert digests.price(PEER, Instant(NOW + FADE_S)) == 0.5
    digests.forget(PEER)
    assert digests.price(PEER, NOW) == 0.0
