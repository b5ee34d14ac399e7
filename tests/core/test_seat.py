"""One seat, driven by hand: what it stores and says when plans come, and how it treats those who lag or lead."""

from random import Random

import pytest

from shoal_agent.core.effects import Broadcast, Persist, SendFrame
from shoal_agent.core.facts import Adopted, Behind, Disputed, How, Standing
from shoal_agent.core.franchise import RESTORE_S, SETTLE_S
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.seat import ANSWER_LINKS_MAX, SPACING_S, Seat
from shoal_agent.core.sitting import turns
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import VoteDue, WordDue
from shoal_agent.core.voice import CoreConfig, Identity, Voice
from shoal_agent.core.votelog import read
from shoal_protocol.codec import decode_plan
from shoal_protocol.envelope import open_envelope
from shoal_protocol.errors import BadSignature, MalformedMessage
from shoal_protocol.ids import Epoch, Incarnation, Instant, digest_of
from shoal_protocol.limits import EPOCH_LEAP
from shoal_protocol.messages import Certified, Endpoint, PlanStage, Proposed, VoteCast, VoteKind
from tests.support.deeds import (
    KEYS,
    NAMES,
    ROSTER,
    announced,
    cast,
    certificate,
    chain,
    genesis,
    recovery,
    sealed,
    successor,
)
from tests.support.delegate import CLUSTER, DEPLOYMENT, READING
from tests.support.protocol import node_of

RAWS = chain(4)
ORDER = turns(decode_plan(RAWS[0]))
FIRST, SECOND, THIRD = (next(key for key in KEYS if node_of(key) == name) for name in ORDER)
LATER = Instant(100.0)
"""Long after everything has settled."""


class Desk:
    """A seat of ``key``, which has heard genesis and waited, and everything it asked for."""

    def __init__(self, key=SECOND, raw=RAWS[0], now=0.0):
        self.tables = Tables()
        self.name = node_of(key)
        identity = Identity(self.name, Incarnation(1), key, ROSTER)
        voice = Voice(CoreConfig(CLUSTER, Endpoint("", 1), "", 1, ""), identity)
        voice.sense(READING, Instant(now))
        self.seat = Seat(DEPLOYMENT, self.tables, voice, Random(1))
        self.effects = []
        self.number = 0
        if raw is not None:
            self.facts = self.do(lambda out: self.seat.announced(*announced(raw), Instant(now), out, How.ANNOUNCED))

    def do(self, act):
        out = Outbox(self.name)
        facts = act(out)
        self.effects += out.effects
        return facts

    def certified(self, certified, sender=NAMES[3], how=How.HEARD):
        return self.do(lambda out: self.seat.certified(certified, sender, LATER, out, how))

    def ordered(self, order, how=How.ORDERED):
        return self.do(lambda out: self.seat.ordered(order, sealed(order), NAMES[3], LATER, out, how))

    def hears(self, key, message, now=LATER):
        self.number += 1
        wire = sealed(message, key, self.number)
        envelope = open_envelope(wire, ROSTER, CLUSTER)
        return self.do(lambda out: self.seat.spoken(envelope, message, wire, now, out))

    def said(self):
        return [
            open_envelope(each.wire, ROSTER, CLUSTER).message for each in self.effects if isinstance(each, Broadcast)
        ]

    def sent(self):
        frames = [each for each in self.effects if isinstance(each, SendFrame)]
        return [(each.peer, open_envelope(each.payload, ROSTER, CLUSTER).message) for each in frames]

    def stored(self):
        return [each.name for each in self.effects if isinstance(each, Persist)]


def agreed():
    """A desk at which epoch 1 was just decided."""
    desk = Desk(FIRST)
    desk.do(lambda out: desk.seat.wish(RAWS[1], LATER, out))
    desk.hears(SECOND, cast(SECOND, RAWS[1]))
    desk.effects.clear()
    return desk, desk.hears(SECOND, cast(SECOND, RAWS[1], kind=VoteKind.PRECOMMIT))


def test_a_first_plan_is_stored_after_the_diary_that_it_asks_for():
    desk = Desk()
    assert desk.facts == [Adopted(decode_plan(RAWS[0]), digest_of(RAWS[0]), How.ANNOUNCED)]
    assert desk.stored() == [f"vote.{DEPLOYMENT}", f"plan.{DEPLOYMENT}"]
    assert Desk(KEYS[3]).stored() == [f"plan.{DEPLOYMENT}"]


def test_a_plan_with_a_fault_is_refused_and_the_story_says_why():
    desk = Desk(raw=genesis(stages=(PlanStage(NAMES[0], 0, 3), PlanStage(NAMES[0], 4, 7))))
    assert desk.facts == []
    assert desk.stored() == []
    assert desk.tables.rejected["invalid-plan"] == 1
    assert "holds two stages" in desk.tables.story.entries()[-1].text


def test_what_is_decided_here_is_stored_before_it_is_told_to_all_whom_it_concerns():
    desk, facts = agreed()
    assert facts == [Adopted(decode_plan(RAWS[1]), digest_of(RAWS[1]), How.AGREED)]
    kinds = [type(each) for each in desk.effects if isinstance(each, Persist | Broadcast | SendFrame)]
    assert desk.stored()[-2:] == [f"vote.{DEPLOYMENT}", f"cert.{DEPLOYMENT}.1"]
    assert kinds.index(Broadcast) > max(index for index, kind in enumerate(kinds) if kind is Persist)
    told = next(each for each in desk.effects if isinstance(each, Broadcast))
    assert told.retain
    assert {peer for peer, _ in desk.sent()} == {node_of(SECOND), node_of(THIRD)}
    assert all(isinstance(message, Certified) for _, message in desk.sent())


def test_a_certificate_that_was_heard_is_adopted_and_not_told_again():
    desk = Desk()
    desk.effects.clear()
    assert desk.certified(certificate(RAWS[1])) == [Adopted(decode_plan(RAWS[1]), digest_of(RAWS[1]), How.HEARD)]
    assert desk.said() == desk.sent() == []
    assert desk.certified(certificate(RAWS[1])) == []
    with pytest.raises(BadSignature):
        desk.certified(certificate(RAWS[2], KEYS[:1]))


def test_whoever_speaks_of_what_is_unknown_is_asked_but_not_too_often():
    desk = Desk(raw=None)
    ahead = cast(FIRST, None, epoch=1)
    assert desk.hears(FIRST, ahead) == [Behind(DEPLOYMENT, node_of(FIRST))]
    assert desk.hears(FIRST, ahead) == []
    assert desk.hears(FIRST, ahead, Instant(LATER + SPACING_S)) == [Behind(DEPLOYMENT, node_of(FIRST))]
    known = Desk()
    assert known.certified(certificate(RAWS[3])) == [Behind(DEPLOYMENT, NAMES[3])]
    assert known.hears(THIRD, cast(THIRD, None, epoch=2)) == [Behind(DEPLOYMENT, node_of(THIRD))]
    assert known.seat.view().epoch == 0


def test_whoever_still_votes_about_the_past_is_sent_what_it_missed_but_not_too_often():
    desk = Desk(FIRST)
    for raw in RAWS[1:]:
        desk.certified(certificate(raw))
    desk.effects.clear()
    for _ in range(3):
        assert desk.hears(THIRD, cast(THIRD, None, epoch=2)) == []
    assert desk.sent() == [(node_of(THIRD), certificate(raw)) for raw in RAWS[2:]]


def test_a_voter_far_behind_is_sent_a_part():
    raws = chain(3 + ANSWER_LINKS_MAX)
    desk = Desk(FIRST)
    for raw in raws[1:]:
        desk.certified(certificate(raw))
    desk.effects.clear()
    desk.hears(THIRD, cast(THIRD, None, epoch=1))
    assert [message.plan for _, message in desk.sent()] == raws[1 : 1 + ANSWER_LINKS_MAX]


def test_a_stranger_has_no_say_and_a_bystander_says_nothing():
    desk = Desk()
    with pytest.raises(MalformedMessage, match="does not vote"):
        desk.hears(KEYS[3], cast(KEYS[3], None))
    bystander = Desk(KEYS[3])
    bystander.hears(FIRST, Proposed(DEPLOYMENT, Epoch(1), 0, None, RAWS[1], ()))
    assert bystander.said() == []
    assert not bystander.seat.view().voter


def test_a_new_node_keeps_silent_until_it_has_settled_and_then_says_what_it_wished():
    desk = Desk(FIRST, now=50.0)
    desk.do(lambda out: desk.seat.wish(RAWS[1], Instant(50.1), out))
    desk.hears(SECOND, cast(SECOND, None), Instant(50.2))
    assert desk.said() == []
    settled = Instant(50.0 + SETTLE_S)
    assert desk.tables.timers.due(settled) == [WordDue(DEPLOYMENT)]
    desk.do(lambda out: desk.seat.rang(WordDue(DEPLOYMENT), settled, out))
    assert any(isinstance(word, Proposed) for word in desk.said())


def test_only_a_wish_for_the_next_plan_counts():
    desk = Desk(FIRST)
    desk.do(lambda out: desk.seat.wish(RAWS[2], LATER, out))
    desk.do(lambda out: desk.seat.wish(successor(genesis(score_us=1)), LATER, out))
    assert desk.said() == []
    bystander = Desk(KEYS[3])
    bystander.do(lambda out: bystander.seat.wish(RAWS[1], LATER, out))
    assert bystander.said() == []


def restored(key, records, now=100.0):
    desk = Desk(key, raw=None)
    for name, data in records.items():
        if name.startswith("vote"):
            desk.seat.remember(read(data), Instant(now))
    desk.do(lambda out: desk.seat.announced(*announced(RAWS[0]), Instant(now), out, How.RESTORED))
    assert desk.effects == [] or not desk.stored()
    return desk


def records(desk):
    return {each.name: each.data for each in desk.effects if isinstance(each, Persist)}


def test_a_voter_that_was_interrupted_goes_on_by_itself():
    desk = Desk(FIRST)
    desk.do(lambda out: desk.seat.wish(RAWS[1], LATER, out))
    again = restored(FIRST, records(desk))
    ready = Instant(100.0 + RESTORE_S)
    assert again.tables.timers.due(ready) == [WordDue(DEPLOYMENT)]
    again.do(lambda out: again.seat.rang(WordDue(DEPLOYMENT), ready, out))
    assert again.seat.view().step == "prevote"
    for at in (ready, Instant(ready + 10)):
        again.do(lambda out, at=at: again.seat.rang(WordDue(DEPLOYMENT), at, out))
    assert {type(word) for word in again.said()} == {Proposed, VoteCast}


def test_a_voter_that_had_said_nothing_starts_nothing():
    again = restored(FIRST, records(Desk(FIRST)))
    ready = Instant(100.0 + RESTORE_S)
    again.do(lambda out: again.seat.rang(WordDue(DEPLOYMENT), ready, out))
    assert again.seat.view().round is None
    assert again.seat.view().barred is None


def test_a_lost_diary_is_noticed_and_bars_even_if_nobody_asks():
    again = restored(FIRST, {})
    again.do(lambda out: again.seat.rang(WordDue(DEPLOYMENT), Instant(101.0), out))
    assert again.seat.view().barred == 1
    again.hears(SECOND, cast(SECOND, None), Instant(101.0))
    assert again.said() == []
    assert any("vote log is lost" in entry.text for entry in again.tables.story.entries())


def test_a_proposer_that_is_gone_is_not_waited_for():
    desk = Desk()
    desk.tables.membership.stand(node_of(FIRST), Standing.DEAD)
    desk.do(lambda out: desk.seat.wish(RAWS[1], LATER, out))
    assert [(word.round, word.value) for word in desk.said()] == [(0, None)]
    late = Desk()
    late.do(lambda out: late.seat.wish(RAWS[1], LATER, out))
    late.do(lambda out: late.seat.absent(node_of(FIRST), LATER, out, gone=True))
    assert [(word.round, word.value) for word in late.said()] == [(0, None)]


def test_two_proven_plans_are_a_dispute():
    desk = Desk()
    desk.certified(certificate(RAWS[1]))
    other = successor(RAWS[0], score_us=9)
    assert desk.certified(certificate(other)) == [Disputed(DEPLOYMENT, Epoch(1), digest_of(RAWS[1]), digest_of(other))]
    assert desk.tables.rejected["equivocation"] == 1


def test_operators_replace_the_plan_and_the_sitting_ends():
    desk = Desk()
    desk.do(lambda out: desk.seat.wish(RAWS[1], LATER, out))
    order = recovery(RAWS[0])
    assert [fact.how for fact in desk.ordered(order)] == [How.ORDERED]
    assert f"order.{DEPLOYMENT}.{EPOCH_LEAP}" in desk.stored()
    assert desk.seat.view().round is None
    stale = VoteDue(DEPLOYMENT, Epoch(1), "proposal", 0)
    assert desk.do(lambda out: desk.seat.rang(stale, LATER, out)) == []


def test_a_broker_that_comes_back_is_given_the_newest_certificate_by_those_it_concerns():
    desk = Desk()
    desk.do(lambda out: desk.seat.publish(LATER, out))
    assert desk.said() == [], "an operator announced the first one"
    desk.certified(certificate(RAWS[1]))
    desk.do(lambda out: desk.seat.publish(LATER, out))
    assert desk.said() == [certificate(RAWS[1])]
    bystander = Desk(KEYS[3])
    bystander.certified(certificate(RAWS[1]))
    bystander.do(lambda out: bystander.seat.publish(LATER, out))
    assert bystander.said() == []
