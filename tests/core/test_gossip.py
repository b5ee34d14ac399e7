"""Gossip: what a node says of itself, and how a crowd of them comes to believe the same, whatever is lost."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from shoal_agent.core.effects import AdoptIncarnation, Broadcast, Listen, SendFrame
from shoal_agent.core.events import EnvelopeReceived
from shoal_agent.core.exchange import ANSWERS_PER_S, ROUND_S
from shoal_agent.core.gossip import (
    DRIFT_SPACING_S,
    HEARTBEAT_JITTER,
    HEARTBEAT_S,
    HINT_SPACING_S,
    NEIGHBOURS,
    REFRESH_ALONE_S,
    REFRESH_S,
    Forked,
    Reborn,
    Relayed,
)
from shoal_agent.core.records import DEPARTED_S
from shoal_agent.core.tables import RECORD_SPACING_S
from shoal_agent.core.voice import TTL_MS
from shoal_protocol import topics
from shoal_protocol.envelope import seal
from shoal_protocol.ids import Incarnation, Sequence
from shoal_protocol.limits import DELTA_BYTES_MAX, DELTAS_MAX
from shoal_protocol.messages import (
    Ack,
    ControlMessage,
    DeploymentPhase,
    Heartbeat,
    Load,
    NodePhase,
    NodeState,
    PhaseReported,
    Syn,
    SynAck,
)
from shoal_protocol.topics import shard_count, shard_of, topic_for
from tests.support.crowd import CLUSTER, GB, WALL_MS, Crowd, Talker, a_plan

READY = DeploymentPhase.READY


def settled(count: int, **options: int) -> Crowd:
    crowd = Crowd(count, **options)
    crowd.run(3)
    crowd.run_until(crowd.agreed, 30)
    return crowd


def brokerless(count: int) -> Crowd:
    """Everybody knows everybody, and no broker is left."""
    crowd = settled(count)
    for broker in crowd.retained:
        crowd.cut_broker(broker)
    return crowd


def says(
    crowd: Crowd, speaker: Talker, message: ControlMessage, hearer: Talker, *, life: int = 1, sequence: int = 10**6
) -> None:
    """``hearer`` hears ``message`` in ``speaker``'s name."""
    wire = sealed(crowd, speaker, message, life=life, sequence=sequence)
    crowd._deliver(hearer, received(crowd, speaker, message, wire))
    crowd.run(0.02)


def sealed(crowd: Crowd, speaker: Talker, message: ControlMessage, *, life: int = 1, sequence: int = 10**6) -> bytes:
    wall_ms = WALL_MS + int(crowd.now * 1000)
    return seal(speaker.key, CLUSTER, speaker.name, Incarnation(life), Sequence(sequence), TTL_MS, wall_ms, message)


def received(crowd: Crowd, speaker: Talker, message: ControlMessage, wire: bytes) -> EnvelopeReceived:
    shard = shard_of(speaker.name, shard_count(crowd.roster.agent_count))
    return EnvelopeReceived("a", topic_for(CLUSTER, speaker.name, message, shard), wire)


# --- what a node says of itself ---------------------------------------------------------------------------------------


def test_a_heart_beats_every_second_give_or_take_a_tenth():
    crowd = Crowd(1)
    (talker,) = crowd.all()
    at: list[float] = []
    talker.gossip.beat, beat = lambda *args: (at.append(crowd.now), beat(*args)), talker.gossip.beat
    crowd.run(60)
    gaps = [after - before for before, after in pairwise(at)]
    assert all(abs(gap - HEARTBEAT_S) <= HEARTBEAT_S * HEARTBEAT_JITTER + 1e-9 for gap in gaps)
    assert len(set(gaps)) > len(gaps) / 2
    beats = [envelope.message for envelope, _ in talker.said(Heartbeat)]
    assert [beat.beat for beat in beats] == list(range(1, len(beats) + 1))
    assert {beat.root for beat in beats[1:]} == {talker.root()}
    assert {effect.at_least_once for _, effect in talker.said(Heartbeat)} == {False}


def test_a_record_is_repeated_only_to_keep_its_retained_copies_alive():
    crowd = Crowd(1)
    (talker,) = crowd.all()
    crowd.run(1)
    begun = len(talker.said(NodeState))
    crowd.run(3 * REFRESH_S)
    records = talker.said(NodeState)
    assert len(records) - begun == 3
    assert REFRESH_S * 1000 * 3 <= TTL_MS, "a retained copy outlives two lost refreshments"
    assert [envelope.message.version for envelope, _ in records] == list(range(1, len(records) + 1))
    assert all(effect.retain and effect.at_least_once for _, effect in records)
    assert talker.said(Heartbeat)[-1][0].message.version == len(records)


def test_a_burst_of_news_is_said_at_most_twice_a_second():
    crowd = settled(1)
    (talker,) = crowd.all()
    begun = len(talker.said(NodeState))
    for number in range(100):
        talker.change(f"tokenizer:{number}")
        crowd.run(0.01)
    crowd.run(RECORD_SPACING_S)
    records = talker.said(NodeState)[begun:]
    assert 2 <= len(records) <= 3
    assert records[-1][0].message.services == ("tokenizer:99",)


def test_a_change_that_is_none_is_not_said():
    crowd = settled(1)
    (talker,) = crowd.all()
    talker.change("sampler")
    crowd.run(1)
    begun = len(talker.said(NodeState))
    talker.change("sampler")
    crowd.run(1)
    assert len(talker.said(NodeState)) == begun


def test_noise_is_not_said_and_drift_is_said_every_ten_seconds():
    crowd = settled(1)
    (talker,) = crowd.all()
    begun = len(talker.said(NodeState))
    for number in range(12):
        talker.load = Load(30 * (number % 2), GB, None, 0, 0)
        crowd.run(5)
    assert len(talker.said(NodeState)) == begun, "within 5 % of what was told"
    crowd.run(REFRESH_S)
    begun = len(talker.said(NodeState))
    for number in range(12):
        talker.load = Load(100 * number, GB, None, 0, 0) if number < 10 else talker.load
        crowd.run(5)
    assert 4 <= len(talker.said(NodeState)) - begun <= 60 / DRIFT_SPACING_S + 1
    assert talker.said(NodeState)[-1][0].message.load.cpu_permille == 900


def test_what_an_operator_or_a_measurement_changes_is_in_the_record():
    crowd = settled(1)
    (talker,) = crowd.all()
    talker.tables.locked = True
    talker.tables.stage_permille = 1500
    talker.change()
    crowd.run(1)
    record = talker.said(NodeState)[-1][0].message
    assert (record.locked, record.stage_permille, record.phase) == (True, 1500, NodePhase.READY)


def test_a_broker_that_comes_up_is_filled_again_at_once():
    crowd = settled(2)
    one, other = crowd.all()
    crowd.cut_broker("a")
    crowd.retained["a"] = type(crowd.retained["a"])()
    begun = len(one.said(NodeState))
    crowd.mend_broker("a", one)
    assert len(one.said(NodeState)) == begun + 1
    assert crowd.retained["a"].under(other.filters)


# --- convergence ------------------------------------------------------------------------------------------------------


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


def test_without_brokers_beats_go_to_the_circle_and_three_more():
    crowd = settled(10)
    one = crowd.all()[0]
    hosts = [talker.name for talker in crowd.all()[:3]]
    voter = crowd.all()[3].name
    one.adopt(a_plan("toy", hosts, voters=[voter]))
    assert one.gossip.circle == tuple(sorted({*hosts, voter} - {one.name}))
    begun = len(one.effects)
    crowd.run(12)
    assert not any(isinstance(effect, SendFrame) and "/hb/" in effect.header.topic for effect in one.effects[begun:])
    for broker in crowd.retained:
        crowd.cut_broker(broker)
    begun = len(one.effects)
    crowd.run(10)
    told = {
        effect.peer for effect in one.effects[begun:] if isinstance(effect, SendFrame) and "/hb/" in effect.header.topic
    }
    assert set(one.gossip.circle) <= told
    assert len(told) == len(one.gossip.circle) + NEIGHBOURS
    one.dead = tuple(one.gossip.circle)
    crowd.run(ROUND_S * 1.2)
    begun = len(one.effects)
    crowd.run(5)
    frames = [effect for effect in one.effects[begun:] if isinstance(effect, SendFrame)]
    assert not [each for each in frames if each.peer in one.dead and "/hb/" in each.header.topic]


def test_without_brokers_records_are_renewed_so_that_relays_have_something_new():
    crowd = brokerless(3)
    one = crowd.all()[0]
    crowd.run(REFRESH_S)
    begun = len(one.said(NodeState))
    crowd.run(60)
    assert len(one.said(NodeState)) - begun == pytest.approx(60 / REFRESH_ALONE_S, abs=1)


def test_a_late_joiner_gets_a_long_chain_within_seconds():
    crowd = settled(5, strangers=1)
    for epoch in range(1000):
        crowd.all()[0].decide(a_plan("toy", [crowd.all()[0].name], epoch))
    crowd.run_until(crowd.agreed, 60)
    late = crowd.newcomer()
    took = crowd.run_until(lambda: late.deeds.heads() == crowd.all()[0].deeds.heads(), 60)
    assert took < 20
    acks = [envelope.message for talker in crowd.all() for envelope, _ in talker.said(SynAck)]
    assert all(len(ack.deltas) <= DELTAS_MAX and sum(map(len, ack.deltas)) <= DELTA_BYTES_MAX for ack in acks)


def test_the_dead_are_asked_now_and_then():
    crowd = settled(4)
    one, *others = crowd.all()
    one.dead = tuple(other.name for other in others)
    begun = len(one.effects)
    crowd.run(10 * ROUND_S)
    asked = [envelope.message.to for envelope, effect in one.said(Syn) if effect in one.effects[begun:]]
    assert len(asked) >= 8, "with nobody alive, every round asks one of the dead"
    assert set(asked) <= set(one.dead)


def test_the_departed_are_forgotten_and_do_not_come_back():
    crowd = settled(3)
    one, other, third = crowd.all()
    third.gone = True
    for talker in (one, other):
        talker.gossip.departed(third.name, crowd.now)
    crowd.run(1)
    assert len(one.gossip.records) == 3
    other.gossip.records._owners[third.name].departed -= 60.0
    for talker in (one, other):
        talker.gossip.records.sweep(crowd.now + DEPARTED_S)
    crowd.run(30)
    assert len(one.gossip.records) == len(other.gossip.records) == 2


def test_who_says_goodbye_departs():
    crowd = settled(2)
    one, other = crowd.all()
    one.tables.phase = NodePhase.DISCONNECTED
    one.act(lambda out: one.gossip.publish(0, 0, crowd.now, out))
    crowd.run(0.1)
    assert other.gossip.records._owners[one.name].departed is not None


# --- rebirth and lies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("life", [1, 7])
def test_a_node_that_lost_its_counter_goes_on_above_it(life: int):
    crowd = Crowd(4)
    old = crowd.all()[0]
    for _ in range(life - 1):
        old.gone = True
        old = crowd.join(old.key, old.voice.identity.incarnation + 1)
    crowd.run(60)
    old.gone = True
    crowd.retained = {name: type(kept)() for name, kept in crowd.retained.items()}
    new = crowd.join(old.key, 1)
    crowd.run_until(lambda: Reborn(Incarnation(life + 1)) in new.facts, 15)
    assert new.voice.identity.incarnation == life + 1
    kinds = [effect for effect in new.effects if isinstance(effect, AdoptIncarnation | Broadcast)]
    adopted = kinds.index(AdoptIncarnation(Incarnation(life + 1)))
    lives = [
        crowd.opener(effect.wire, None, crowd.roster, CLUSTER).incarnation
        for effect in kinds
        if isinstance(effect, Broadcast)
    ]
    assert lives == [1] * adopted + [life + 1] * (len(lives) - adopted)
    new.change("reborn")
    crowd.run_until(lambda: all(talker.knows(new) == ("reborn",) for talker in crowd.all() if talker is not new), 5)
    assert len([fact for fact in new.facts if isinstance(fact, Reborn)]) == 1


def test_a_retained_copy_tells_a_node_of_its_later_life_before_anybody_else():
    crowd = Crowd(1)
    (old,) = crowd.all()
    crowd.run(5)
    old.change("sampler")
    crowd.run(1)
    old.gone = True
    new = crowd.join(old.key, 1)
    crowd.run(0.1)
    assert new.facts == [Reborn(Incarnation(2))]


def test_a_repetition_of_the_past_makes_nobody_reborn_and_is_answered_seldom():
    crowd = settled(3)
    one, other, _ = crowd.all()
    record = one.said(NodeState)[0][0].message
    begun = len(other.said(Ack))
    for sequence in range(50):
        says(crowd, one, record, other, life=0, sequence=sequence)
    crowd.run(1)
    hints = [envelope for envelope, effect in other.said(Ack)][begun:]
    frames = [effect for effect in other.effects if isinstance(effect, SendFrame) and "/ae/" in effect.header.topic]
    assert len(hints) + len(frames) <= 1 + 2 / HINT_SPACING_S
    assert not one.facts


def test_two_processes_with_one_key_do_not_race_through_lives():
    crowd = settled(1)
    (one,) = crowd.all()
    for life in range(2, 50):
        says(crowd, one, one.said(NodeState)[0][0].message, one, life=life)
    assert [type(fact) for fact in one.facts] == [Reborn]


def test_two_words_under_one_number_are_proof_whoever_brings_the_other():
    crowd = settled(3)
    liar, other, third = crowd.all()
    envelope, effect = liar.said(NodeState)[-1]
    lie = replace(envelope.message, services=("lie",))
    says(crowd, liar, lie, other, sequence=envelope.sequence)
    (forked,) = [fact for fact in other.facts if isinstance(fact, Forked)]
    assert (forked.node, effect.wire in (forked.first, forked.second)) == (liar.name, True)
    assert other.tables.rejected["equivocation"] == 1
    wire = sealed(crowd, liar, lie, sequence=envelope.sequence)
    third.gossip._exchange._asked[other.name] = crowd.now
    says(crowd, other, SynAck(third.name, (), (), (wire,)), third)
    assert [fact.node for fact in third.facts] == [liar.name]


# --- what others may not do -------------------------------------------------------------------------------------------


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


def test_a_lost_counter_at_its_end_is_not_adopted():
    crowd = settled(1)
    (one,) = crowd.all()
    says(crowd, one, one.said(NodeState)[0][0].message, one, life=2**63 - 1)
    assert not one.facts


# --- shares -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "SHARD_NODES", 6)


def test_a_node_keeps_its_share_and_those_of_its_circle_and_nothing_else(small_shares: None):
    crowd = Crowd(18)
    crowd.run(4)
    shards = {talker.name: talker.gossip.records.home for talker in crowd.all()}
    assert len(set(shards.values())) == 3
    one = crowd.all()[0]
    other = next(talker for talker in crowd.all() if shards[talker.name] != shards[one.name])
    mates = [name for name, shard in shards.items() if shard == shards[one.name]]
    assert {peer.node for peer in one.tables.membership.peers()} == set(mates) - {one.name}
    for talker in (one, other):
        talker.adopt(a_plan("toy", [one.name, other.name]))
    assert one.effects[-1] == Listen(tuple(sorted((shards[one.name], shards[other.name]))))
    crowd.run(4)
    assert one.tables.membership.peer(other.name) is not None
    other.change("sampler")
    crowd.run(1)
    assert one.knows(other) == ("sampler",)
    foreign = [name for name, shard in shards.items() if shard == shards[other.name]]
    assert {peer.node for peer in one.tables.membership.peers()} == {*mates, *foreign} - {one.name}
    later = a_plan("toy", [other.name], 1)
    one.adopt(later)
    one.adopt(a_plan("toy", [other.name], 2))
    assert one.effects[-1] == Listen((shards[one.name],))
    assert {peer.node for peer in one.tables.membership.peers()} == set(mates) - {one.name}
    crowd.run(2)
    assert one.root() == next(t for t in crowd.all() if t is not one and t.name in mates).root()


def test_what_was_lost_of_a_circle_in_another_share_is_brought(small_shares: None):
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
