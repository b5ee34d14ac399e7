"""Gossip: what a node says of itself, and how a crowd of them comes to believe the same, whatever is lost."""

from dataclasses import replace
from itertools import pairwise

import pytest

from shoal_agent.core.budgets import Budgets
from shoal_agent.core.budgets import Terms as BudgetTerms
from shoal_agent.core.effects import Listen, SendFrame
from shoal_agent.core.exchange import ROUND_S
from shoal_agent.core.gossip import (
    DRIFT_SPACING_S,
    HEARTBEAT_JITTER,
    HEARTBEAT_S,
    NEIGHBOURS,
    REFRESH_ALONE_S,
    REFRESH_S,
    Forked,
)
from shoal_agent.core.records import DEPARTED_S
from shoal_agent.core.tables import RECORD_SPACING_S
from shoal_agent.core.voice import TTL_MS
from shoal_protocol import topics
from shoal_protocol.messages import (
    DeploymentPhase,
    Heartbeat,
    Load,
    NodePhase,
    NodeState,
    SynAck,
)
from tests.support.crowd import Crowd, brokerless, says, sealed, settled
from tests.support.talker import GB, a_plan

READY = DeploymentPhase.READY


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


def test_what_is_owed_of_bytes_moved_is_in_the_record():
    crowd = settled(1)
    (talker,) = crowd.all()
    assert talker.said(NodeState)[-1][0].message.load.moved_owed_s == 0
    talker.tables.budgets = Budgets(BudgetTerms(moved_bytes_per_s=1000))
    talker.tables.budgets.step(seconds=1, joules=None, busy=0, moved_bytes=91_000)
    crowd.run(2 * DRIFT_SPACING_S)
    assert talker.said(NodeState)[-1][0].message.load.moved_owed_s == 90


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


def test_two_words_under_one_number_are_proof_whoever_brings_the_other():
    crowd = settled(3)
    liar, other, third = crowd.all()
    envelope, effect = liar.said(NodeState)[-1]
    lie = replace(envelope.message, services=("lie",))
    says(crowd, liar, lie, other, sequence=envelope.sequence)
    (forked,) = [fact for fact in other.facts if isinstance(fact, Forked)]
    assert (forked.node, effect.wire in (forked.first, forked.second)) == (liar.name, True)
    assert other.tables.rejected["equivocation"] == 1
    says(crowd, liar, replace(lie, services=("another",)), other, sequence=envelope.sequence)
    assert len([fact for fact in other.facts if isinstance(fact, Forked)]) == 1, "one proof is enough"
    wire = sealed(crowd, liar, lie, sequence=envelope.sequence)
    third.gossip._exchange._asked[other.name] = crowd.now
    says(crowd, other, SynAck(third.name, (), (), (wire,)), third)
    assert [fact.node for fact in third.facts] == [liar.name]


# --- what others may not do -------------------------------------------------------------------------------------------


# --- shares -----------------------------------------------------------------------------------------------------------


def test_a_node_keeps_its_share_and_those_of_its_circle_and_nothing_else(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(topics, "SHARD_NODES", 6)
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
