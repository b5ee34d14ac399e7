"""Anti-entropy: whatever was lost, and by whatever road is left, a crowd comes to have the same."""

from collections.abc import Callable
from random import Random

import pytest

from shoal_agent.core.effects import SendFrame
from shoal_agent.core.exchange import ANSWERS_PER_S, ROUND_JITTER, ROUND_S
from shoal_agent.core.gossip import Relayed
from shoal_protocol import topics
from shoal_protocol.limits import DELTA_BYTES_MAX, DELTAS_MAX
from shoal_protocol.messages import (
    Ack,
    ControlMessage,
    DeploymentPhase,
    Heartbeat,
    PhaseReported,
    Syn,
    SynAck,
)
from tests.support.crowd import Crowd, brokerless, received, says, sealed, settled
from tests.support.talker import Talker, a_plan

READY = DeploymentPhase.READY


@pytest.mark.parametrize("seed", range(5))
def test_a_crowd_agrees_after_a_time_of_loss(seed: int):
    crowd = Crowd(10, seed=seed)
    rng = Random(seed)
    crowd.loses = lambda node, topic, wire: rng.random() < 0.6
    for round_ in range(20):
        talker = rng.choice(crowd.all())
        talker.change(f"tokenizer:{round_}")
        talker.report("toy", rng.choice(list(DeploymentPhase)))
        crowd.run(1)
    crowd.loses = lambda node, topic, wire: False
    crowd.run_until(crowd.agreed, 15)
    assert len(crowd.all()[0].gossip.records.stamps(0)) >= 10


def test_a_phase_that_was_lost_before_a_record_that_was_not_is_brought():
    crowd = settled(3)
    one, other, _ = crowd.all()
    crowd.loses = lambda node, topic, wire: node == other.name and "/s/" in topic
    one.report("toy", READY)
    one.change("sampler")
    crowd.run(1)
    crowd.loses = lambda node, topic, wire: False
    assert other.knows(one) == ("sampler",), "the later word came"
    assert not any(isinstance(message, PhaseReported) for message, _ in other.heard)
    crowd.run_until(crowd.agreed, 8)
    (phase,) = [fresh for message, fresh in other.heard if isinstance(message, PhaseReported)]
    assert not phase, "and what is brought later says nothing of the present"
    assert any(isinstance(fact, Relayed) for fact in other.facts)


@pytest.mark.parametrize("links", ["cut", "whole"])
def test_two_halves_of_brokers_and_links_agree_once_they_meet(links: str):
    crowd = settled(10)
    left, right = crowd.all()[:5], crowd.all()[5:]
    crowd.cut_broker("a", *right)
    crowd.cut_broker("b", *left)
    if links == "cut":
        for one in left:
            for other in right:
                crowd.cut_link(one, other)
                one.dead += (other.name,)
                other.dead += (one.name,)
    left[0].change("left")
    right[0].change("right")
    crowd.run(60)
    meet = links == "whole"
    assert all((talker.knows(right[0]) == ("right",)) == meet for talker in left)
    assert all((talker.knows(left[0]) == ("left",)) == meet for talker in right)
    crowd.cut = {pair for pair in crowd.cut if pair[0] in crowd.retained}
    crowd.run_until(crowd.agreed, 45)
    assert all(talker.knows(right[0]) == ("right",) for talker in left)
    assert all(talker.knows(left[0]) == ("left",) for talker in right)


def test_without_brokers_news_still_reach_everybody():
    crowd = brokerless(20)
    crowd.run(2 * ROUND_S)
    one = crowd.all()[0]
    one.change("sampler")
    took = crowd.run_until(lambda: all(talker.knows(one) == ("sampler",) for talker in crowd.all()[1:]), 20)
    assert took < 10
    assert not any("/hb/" in effect.header.topic for effect in one.effects[:1] if isinstance(effect, SendFrame))


def test_a_late_joiner_gets_a_long_chain_within_seconds():
    crowd = settled(1, strangers=1)
    (elder,) = crowd.all()
    for epoch in range(2000):
        elder.decide(a_plan("toy", [elder.name], epoch))
    late = crowd.newcomer()
    took = crowd.run_until(lambda: late.deeds.heads() == elder.deeds.heads(), 60)
    assert took < 12, "and not as long as its root needs to be noticed each time"
    answers = [envelope.message for envelope, _ in elder.said(SynAck)]
    assert len(answers) >= 2000 / DELTAS_MAX
    assert all(len(answer.deltas) <= DELTAS_MAX for answer in answers)
    assert all(sum(map(len, answer.deltas)) <= DELTA_BYTES_MAX for answer in answers)


def test_a_chain_that_one_of_a_crowd_has_comes_to_all():
    crowd = settled(5)
    elder = crowd.all()[0]
    for epoch in range(300):
        elder.decide(a_plan("toy", [elder.name], epoch))
    crowd.run_until(crowd.agreed, 30)
    assert elder.deeds.heads()[0].epoch == 299


def test_the_dead_are_asked_now_and_then():
    crowd = settled(4)
    one, *others = crowd.all()
    one.dead = tuple(other.name for other in others)
    begun = len(one.effects)
    crowd.run(10 * ROUND_S)
    asked = [envelope.message.to for envelope, effect in one.said(Syn) if effect in one.effects[begun:]]
    assert len(asked) >= 8, "with nobody alive, every round asks one of the dead"
    assert set(asked) <= set(one.dead)


def heartbeat(crowd: Crowd, one: Talker, other: Talker) -> bytes:
    return sealed(crowd, one, Heartbeat(1, 1))


def misdirected(crowd: Crowd, one: Talker, other: Talker) -> ControlMessage:
    return Syn(one.name, (), ())


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (lambda crowd, one, other: SynAck(other.name, (), (), ()), "unasked"),
        (misdirected, "misdirected"),
        (lambda crowd, one, other: Ack(other.name, (b"nonsense",)), "malformed"),
        (lambda crowd, one, other: Ack(other.name, (heartbeat(crowd, one, other),)), "relayed"),
    ],
)
def test_what_nobody_asked_for_is_refused_and_counted(
    message: Callable[[Crowd, Talker, Talker], ControlMessage], reason: str
):
    crowd = settled(2)
    one, other = crowd.all()
    says(crowd, one, message(crowd, one, other), other)
    assert other.tables.rejected == {reason: 1}


def test_an_uninvited_gift_is_one_word_at_most():
    crowd = settled(2)
    one, other = crowd.all()
    says(crowd, one, Ack(other.name, (b"x",) * 100), other)
    assert other.tables.rejected["malformed"] == 1
    other.gossip._exchange._answered[one.name] = crowd.now
    says(crowd, one, Ack(other.name, (b"x",) * 100), other, sequence=10**6 + 1)
    assert other.tables.rejected["malformed"] == 101


def test_questions_without_end_are_answered_so_often_and_no_more():
    crowd = settled(2)
    one, other = crowd.all()
    begun = crowd.messages[one.name]
    for sequence in range(10 * ANSWERS_PER_S):
        wire = sealed(crowd, one, Syn(other.name, (), ()), sequence=10**6 + sequence)
        other.receive(received(crowd, one, Syn(other.name, (), ()), wire))
    assert ANSWERS_PER_S <= crowd.messages[one.name] - begun <= 2 * ANSWERS_PER_S


def test_what_was_lost_of_a_circle_in_another_share_is_brought(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(topics, "SHARD_NODES", 6)
    crowd = Crowd(12)
    shards = {talker.name: talker.gossip.records.home for talker in crowd.all()}
    one = crowd.all()[0]
    other = next(talker for talker in crowd.all() if shards[talker.name] != shards[one.name])
    for talker in (one, other):
        talker.adopt(a_plan("toy", [one.name, other.name]))
    crowd.run(3)
    crowd.loses = lambda node, topic, wire: node == one.name and "/ae/" not in topic
    other.change("sampler")
    crowd.run(1)
    crowd.loses = lambda node, topic, wire: False
    one.dead = tuple(peer.node for peer in one.tables.membership.peers() if peer.node != other.name)
    crowd.run_until(lambda: one.knows(other) == ("sampler",), 3 * ROUND_S)


def test_who_shows_a_false_root_is_asked_ever_more_rarely():
    crowd = settled(2)
    liar, other = crowd.all()
    liar.gone = True
    begun = len(other.said(Syn))
    for beat in range(300):
        says(crowd, liar, Heartbeat(beat, 1, bytes([beat % 7]) * 16), other, sequence=10**6 + beat)
        crowd.run(0.98)
    regular = 300 / (ROUND_S * (1 - ROUND_JITTER))
    assert len(other.said(Syn)) - begun <= regular + 10, "and not every third beat"


@pytest.mark.parametrize("count", [10, 25])
def test_a_quiet_crowd_says_little_besides_its_heartbeats(count: int):
    """Over two brokers: 2 (N - 1) beats of 0.2 kB a second, and a question of 0.1 + N * 0.03 kB every ten seconds."""
    crowd = settled(count)
    crowd.messages.clear()
    crowd.bytes.clear()
    seconds = 3 * ROUND_S
    crowd.run(seconds)
    for talker in crowd.all():
        beats = 2 * (count - 1)
        assert beats * 0.95 <= crowd.messages[talker.name] / seconds <= beats * 1.05 + 0.8
        assert crowd.bytes[talker.name] / seconds <= beats * 250 + 2 * (count + 10) * 30
