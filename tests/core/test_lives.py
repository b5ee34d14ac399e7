"""A node that forgot how often it was born is told, by whoever remembers."""

import pytest

from shoal_agent.core.effects import AdoptIncarnation, Broadcast, SendFrame
from shoal_agent.core.lives import HINT_SPACING_S, HINTS_MAX, Lives, Reborn
from shoal_protocol.ids import Incarnation, Instant, NodeId
from shoal_protocol.messages import Ack, NodeState
from tests.support.crowd import Crowd, says, settled
from tests.support.talker import CLUSTER


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


def test_who_knows_of_a_later_life_only_by_hearsay_tells_of_it_too():
    crowd = settled(3)
    old, other, teller = crowd.all()
    crowd.loses = lambda node, topic, wire: (
        node == other.name and crowd.opener(wire, None, crowd.roster, CLUSTER).sender == old.name
    )
    old.gone = True
    later = crowd.join(old.key, 5)
    crowd.run_until(lambda: other.gossip.records.latest(old.name)[0] == 5, 10)
    crowd.loses = lambda node, topic, wire: node == teller.name and topic.startswith("shoal")
    later.gone = teller.gone = True
    crowd.retained = {name: type(kept)() for name, kept in crowd.retained.items()}
    new = crowd.join(old.key, 1)
    crowd.run_until(lambda: Reborn(Incarnation(6)) in new.facts, 5)


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


def test_a_lost_counter_at_its_end_is_not_adopted():
    crowd = settled(1)
    (one,) = crowd.all()
    says(crowd, one, one.said(NodeState)[0][0].message, one, life=2**63 - 1)
    assert not one.facts


def test_speakers_that_were_reminded_are_remembered_up_to_a_bound():
    (talker,) = Crowd(1).all()
    lives = Lives(talker.tables, talker.voice)
    names = [NodeId(f"{number:032}") for number in range(HINTS_MAX + 1)]
    assert all(lives.may_remind(name, Instant(1.0)) for name in names)
    assert not lives.may_remind(names[-1], Instant(1.0 + HINT_SPACING_S / 2))
    assert lives.may_remind(names[-1], Instant(1.0 + HINT_SPACING_S)), "asking too early does not put it off"
    assert len(lives._reminded) == HINTS_MAX
