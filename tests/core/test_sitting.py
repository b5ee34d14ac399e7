"""One voter's sitting about epoch 1, driven by hand: B sits, A and C are the others."""

from random import Random

import pytest

from shoal_agent.core.ballots import Vote
from shoal_agent.core.chain import Link
from shoal_agent.core.effects import Broadcast, Persist, SendFrame
from shoal_agent.core.motions import Alarm
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.patience import PROPOSE_S
from shoal_agent.core.sitting import (
    REPEAT_JITTER,
    REPEAT_S_MAX,
    REPEAT_S_MIN,
    Asked,
    Caught,
    Reached,
    Sitting,
    turns,
)
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import VoteDue, WordDue
from shoal_agent.core.voice import CoreConfig, Identity, Voice
from shoal_agent.core.votelog import Diary, read
from shoal_protocol.codec import decode_plan
from shoal_protocol.envelope import open_envelope
from shoal_protocol.errors import BadSignature, MalformedMessage
from shoal_protocol.evidence import culprit_of
from shoal_protocol.ids import Epoch, Incarnation, Instant, digest_of
from shoal_protocol.messages import Endpoint, EvidenceFound, PlanStage, Proposed, VoteCast, VoteKind
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.votes import open_certificate
from tests.support.deeds import KEYS, NAMES, ROSTER, announced, ballot, cast, genesis, sealed, successor
from tests.support.delegate import CLUSTER, DEPLOYMENT, READING
from tests.support.protocol import node_of

BEFORE = genesis()
X, Y = successor(BEFORE, score_us=1), successor(BEFORE, score_us=2)
ORDER = turns(decode_plan(BEFORE))
A, B, C = (next(key for key in KEYS if node_of(key) == name) for name in ORDER)
OTHER = Ed25519Sealer(bytes([99]) * 32)
NOW = Instant(50.0)
PREVOTE, PRECOMMIT = VoteKind.PREVOTE, VoteKind.PRECOMMIT


class Desk:
    """A sitting, and everything it asked for."""

    def __init__(self, key=B, diary=None):
        self.tables = Tables()
        self.name = node_of(key)
        identity = Identity(self.name, Incarnation(1), key, ROSTER)
        voice = Voice(CoreConfig(CLUSTER, Endpoint("", 1), "", 1, ""), identity)
        voice.sense(READING, NOW)
        message, wire = announced(BEFORE)
        link = Link(Epoch(0), digest_of(BEFORE), message, wire)
        diary = diary or Diary(DEPLOYMENT, Epoch(1))
        self.sitting = Sitting(self.tables, voice, link, decode_plan(BEFORE), diary, Random(1))
        self.effects = []
        self.number = 0
        self.do(lambda out: self.sitting.begin((), NOW, out))

    def do(self, act):
        out = Outbox(self.name)
        found = act(out)
        self.effects += out.effects
        return found

    def hears(self, key, message):
        self.number += 1
        wire = sealed(message, key, self.number)
        hear = self.sitting.proposed if isinstance(message, Proposed) else self.sitting.voted
        return self.do(lambda out: hear(open_envelope(wire, ROSTER, CLUSTER), message, wire, NOW, out))

    def judges(self, raw, acceptable=True, reason=""):
        value = digest_of(raw)
        return self.do(lambda out: self.sitting.judged(value, NOW, out, acceptable=acceptable, reason=reason))

    def said(self, kind=VoteCast):
        words = [open_envelope(each.wire, ROSTER, CLUSTER) for each in self.effects if isinstance(each, Broadcast)]
        return [word.message for word in words if isinstance(word.message, kind)]

    def votes(self):
        return [(word.vote, word.round, word.value) for word in self.said()]

    @property
    def diary(self):
        return read([each.data for each in self.effects if isinstance(each, Persist)][-1])


def proposed(raw=X, round_=0, valid_round=None, support=()):
    return Proposed(DEPLOYMENT, Epoch(1), round_, valid_round, raw, support)


def locked():
    """A desk that has precommitted X in round 0, and nobody decided."""
    desk = Desk()
    desk.hears(A, proposed())
    desk.judges(X)
    desk.hears(A, cast(A, X))
    return desk


def test_a_plan_is_judged_voted_for_and_certified():
    desk = Desk()
    assert desk.hears(A, proposed()) == [Asked(decode_plan(X), digest_of(X))]
    assert desk.sitting.asked == (Asked(decode_plan(X), digest_of(X)),)
    assert desk.judges(X) == []
    assert desk.hears(A, cast(A, X)) == []
    found = desk.hears(C, cast(C, X, kind=PRECOMMIT))
    assert desk.votes() == [(PREVOTE, 0, digest_of(X)), (PRECOMMIT, 0, digest_of(X))]
    assert [type(each) for each in found] == [Reached]
    assert open_certificate(found[0].certified, BEFORE, ROSTER, CLUSTER) == decode_plan(X)


def test_every_word_is_in_the_diary_before_it_leaves():
    desk = locked()
    written = []
    for effect in desk.effects:
        if isinstance(effect, Persist):
            written = read(effect.data).memory.cast
        if isinstance(effect, Broadcast):
            word = open_envelope(effect.wire, ROSTER, CLUSTER).message
            assert Vote(word.vote, word.round, word.value) in written


def test_words_go_to_all_brokers_and_to_each_other_voter():
    desk = locked()
    peers = [each.peer for each in desk.effects if isinstance(each, SendFrame)]
    assert sorted(peers) == sorted(2 * [node_of(A), node_of(C)])


def test_a_refusal_says_why():
    desk = Desk()
    desk.hears(A, proposed())
    desk.judges(X, acceptable=False, reason="capacity")
    assert [(word.value, word.reason) for word in desk.said()] == [(None, "capacity")]
    desk.hears(A, cast(A, None))
    assert desk.said()[-1].reason == "capacity"


def test_a_plan_with_a_host_nobody_knows_is_refused_unasked():
    stranger = PlanStage(node_of(OTHER), 0, 7)
    desk = Desk()
    assert desk.hears(A, proposed(successor(BEFORE, stages=(stranger,)))) == []
    assert [(word.value, word.reason) for word in desk.said()] == [(None, "invalid")]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (C, proposed()),
        (A, proposed(successor(successor(BEFORE)))),
        (A, proposed(successor(BEFORE, context_tokens_max=1))),
        (A, proposed(successor(BEFORE, voters=()))),
        (B, proposed(round_=1, valid_round=1)),
        (B, proposed(round_=1, valid_round=0)),
        (B, proposed(round_=1, valid_round=0, support=tuple(ballot(key, X, 1, PREVOTE) for key in (A, C)))),
    ],
    ids=["out of turn", "another parent", "other terms", "for ever", "no earlier round", "no proof", "forged proof"],
)
def test_a_proposal_that_cannot_be_is_refused(key, message):
    desk = Desk(key=C if key is B else B)
    with pytest.raises((MalformedMessage, BadSignature)):
        desk.hears(key, message)
    assert desk.said() == []


def test_a_vote_its_voter_did_not_sign_does_not_count():
    desk = Desk()
    with pytest.raises(BadSignature):
        desk.hears(A, cast(C, X))


def test_a_proof_is_shown_passed_on_and_believed():
    desk = locked()
    for key in (A, C):
        desk.hears(key, cast(key, None, 0, PRECOMMIT))
    [word] = desk.said(Proposed)
    assert (word.round, word.valid_round, word.plan) == (1, 0, X)
    other = Desk(key=C)
    other.hears(B, word)
    assert other.votes()[-1] == (PREVOTE, 1, digest_of(X))


def test_a_locked_voter_proposes_again_after_a_restart_and_still_has_the_proof():
    diary = locked().diary
    assert diary.plans == (X,)
    again = Desk(diary=diary)
    for key in (A, C):
        again.hears(key, cast(key, None, 0, PRECOMMIT))
    [word] = again.said(Proposed)
    assert {each.node for each in word.support} == {node_of(A), node_of(B)}
    other = Desk(key=C)
    other.hears(B, word)
    assert other.votes()[-1] == (PREVOTE, 1, digest_of(X))


def test_what_stands_is_repeated_ever_more_slowly_and_soon_again_after_news():
    desk = locked()

    def wait():
        due = desk.tables.timers.deadline()
        while WordDue(DEPLOYMENT) not in (alarms := desk.tables.timers.due(due)):
            due = desk.tables.timers.deadline()
        assert WordDue(DEPLOYMENT) in alarms
        return due - NOW

    waits = []
    for _ in range(6):
        waits.append(wait())
        desk.effects.clear()
        desk.do(lambda out: desk.sitting.repeat(NOW, out))
        assert desk.votes() == [(PREVOTE, 0, digest_of(X)), (PRECOMMIT, 0, digest_of(X))]
    assert waits[0] <= REPEAT_S_MIN * (1 + REPEAT_JITTER)
    assert waits[1] > waits[0]
    assert all(wait <= REPEAT_S_MAX * (1 + REPEAT_JITTER) for wait in waits)
    for key in (A, C):
        desk.hears(key, cast(key, None, 0, PRECOMMIT))
    assert wait() <= REPEAT_S_MIN * (1 + REPEAT_JITTER)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (cast(A, X), cast(A, Y)),
        (cast(A, None, kind=PRECOMMIT), cast(A, X, kind=PRECOMMIT)),
        (proposed(X), proposed(Y)),
    ],
)
def test_two_words_of_one_voter_are_evidence(first, second):
    desk = Desk()
    assert not any(isinstance(each, Caught) for each in desk.hears(A, first) + desk.hears(A, first))
    [caught] = [each for each in desk.hears(A, second) if isinstance(each, Caught)]
    assert caught.voter == node_of(A)
    assert culprit_of(EvidenceFound(caught.first, caught.second), ROSTER, CLUSTER) == node_of(A)
    assert not any(isinstance(each, Caught) for each in desk.hears(A, second))


def test_what_others_relay_counts_but_proves_no_lie_until_the_liar_says_it_itself():
    desk = Desk(key=C)
    support = tuple(ballot(key, X, 0, PREVOTE) for key in (A, B))
    found = desk.hears(A, cast(A, Y)) + desk.hears(B, proposed(X, 1, 0, support))
    assert not any(isinstance(each, Caught) for each in found)
    assert any(isinstance(each, Caught) for each in desk.hears(A, cast(A, X)))


def test_a_liar_fills_no_memory():
    desk = Desk()
    for round_ in range(400):
        desk.hears(A, cast(A, None, round_))
        desk.hears(A, cast(A, X, round_))
    assert len(desk.sitting._signatures) < 50
    assert len(desk.sitting._wires) < 50


def test_the_alarm_of_a_round_comes_back_as_a_vote_for_nothing():
    desk = Desk()
    due = VoteDue(DEPLOYMENT, Epoch(1), Alarm.PROPOSAL.value, 0)
    assert due in desk.tables.timers
    assert due not in desk.tables.timers.due(Instant(NOW + PROPOSE_S - 0.01))
    assert due in desk.tables.timers.due(Instant(NOW + PROPOSE_S))
    desk.do(lambda out: desk.sitting.rang(due, NOW, out))
    assert desk.votes() == [(PREVOTE, 0, None)]


def test_everybody_has_the_same_turns_and_another_epoch_has_others():
    orders = {tuple(turns(decode_plan(raw))) for raw in epochs()}
    assert all(sorted(order) == sorted(NAMES[:3]) for order in orders)
    assert len({order[0] for order in orders}) == 3


def epochs():
    raw = genesis()
    for _ in range(30):
        yield raw
        raw = successor(raw)


def test_a_wish_is_proposed_in_turn_and_may_be_taken_back():
    desk = Desk(key=A)
    desk.do(lambda out: desk.sitting.wish(X, NOW, out))
    assert [word.plan for word in desk.said(Proposed)] == [X]
    late = Desk()
    late.do(lambda out: late.sitting.wish(X, NOW, out))
    late.do(lambda out: late.sitting.wish(None, NOW, out))
    for key in (A, C):
        late.hears(key, cast(key, None, 0, PRECOMMIT))
    assert late.said(Proposed) == []
