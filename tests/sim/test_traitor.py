from dataclasses import dataclass, field, replace
from random import Random

import pytest

from shoal_agent.core.effects import Broadcast, SendFrame
from shoal_agent.sim.traitor import Mask, Pairs, Traitor
from shoal_protocol.codec import decode_plan, encode_plan
from shoal_protocol.envelope import open_envelope, seal
from shoal_protocol.headers import Gossip, Ping
from shoal_protocol.ids import Incarnation, Sequence, digest_of, node_id_of
from shoal_protocol.messages import Heartbeat, Proposed, VoteCast, VoteKind
from shoal_protocol.topics import topic_for
from shoal_protocol.votes import sign_vote, verify_vote
from tests.support.protocol import AGENT, CLUSTER, MESSAGES, WALL_MS, WITNESS, node_of, trusted_roster

ROSTER = trusted_roster()
ME, FRIEND = node_of(AGENT), node_of(WITNESS)
NODES = [node_id_of(bytes([number]) * 32) for number in range(4)]
PROPOSED = replace(next(each for each in MESSAGES if isinstance(each, Proposed)), valid_round=None, support=())


@dataclass
class Court:
    """What came of it: who was told what, None for everybody."""

    told: list = field(default_factory=list)

    def opened(self, said):
        return open_envelope(said.wire, ROSTER, CLUSTER)

    def tell_all(self, node, said):
        self.told.append((node, None, self.opened(said)))

    def tell(self, node, peer, said):
        self.told.append((node, peer, self.opened(said)))

    def words(self, sender, kind):
        """What each node was told by ``sender``: the digest of a plan, or the values of its votes."""
        heard = {}
        for who, peer, envelope in self.told:
            if who == sender and isinstance(envelope.message, kind):
                message = envelope.message
                value = digest_of(message.plan) if kind is Proposed else (message.vote, message.value)
                heard.setdefault(peer, set()).add(value)
        return heard


class Scene:
    def __init__(self, seed=1):
        self.court, pairs = Court(), Pairs()
        self.keys = {ME: AGENT, FRIEND: WITNESS}
        made = [
            Traitor(
                Mask(name, key, CLUSTER, lambda: Incarnation(1), lambda: WALL_MS),
                NODES,
                self.court,
                pairs,
                Random(seed),
            )
            for name, key in self.keys.items()
        ]
        self.traitor, self.friend = made
        self.traitor.friends, self.friend.friends = [self.friend], [self.traitor]

    def said(self, message, sequence=1):
        wire = seal(AGENT, CLUSTER, ME, Incarnation(1), Sequence(sequence), 60_000, WALL_MS, message)
        return Broadcast(topic_for(CLUSTER, ME, message), wire, retain=False, at_least_once=False, expiry_s=1)


def vote(value):
    signature = sign_vote(AGENT, CLUSTER, PROPOSED.deployment, PROPOSED.epoch, 0, VoteKind.PREVOTE, value)
    return VoteCast(PROPOSED.deployment, PROPOSED.epoch, 0, VoteKind.PREVOTE, value, "", signature)


@pytest.fixture
def scene():
    return Scene()


def test_a_proposal_becomes_two_and_each_half_hears_one(scene):
    assert scene.traitor.speaks(scene.said(PROPOSED))
    heard = scene.court.words(ME, Proposed)
    assert set(heard) == set(NODES)
    assert all(len(values) == 1 for values in heard.values())
    assert heard[NODES[0]] == heard[NODES[2]] != heard[NODES[1]] == heard[NODES[3]]
    plans = [decode_plan(e.message.plan) for _, _, e in scene.court.told if isinstance(e.message, Proposed)]
    assert {encode_plan(replace(plan, reason="")) for plan in plans} == {
        encode_plan(replace(decode_plan(PROPOSED.plan), reason=""))
    }


def test_all_traitors_vote_for_both_each_to_its_half(scene):
    scene.traitor.speaks(scene.said(PROPOSED))
    proposals = scene.court.words(ME, Proposed)
    for name in (ME, FRIEND):
        votes = scene.court.words(name, VoteCast)
        for node in NODES:
            (value,) = proposals[node]
            assert votes[node] == {(VoteKind.PREVOTE, value), (VoteKind.PRECOMMIT, value)}


def test_every_vote_is_truly_signed(scene):
    scene.traitor.speaks(scene.said(PROPOSED))
    for sender, _, envelope in scene.court.told:
        cast = envelope.message
        if isinstance(cast, VoteCast):
            public = scene.keys[sender].public_key
            where = (CLUSTER, cast.deployment, cast.epoch, cast.round, cast.vote, cast.value)
            verify_vote(public, cast.signature, *where)


def test_a_vote_for_one_of_a_pair_is_a_vote_for_the_other_to_the_others(scene):
    scene.traitor.speaks(scene.said(PROPOSED))
    scene.court.told.clear()
    scene.traitor.speaks(scene.said(vote(digest_of(PROPOSED.plan)), 2))
    values = {node: value for node, ((_, value),) in scene.court.words(ME, VoteCast).items()}
    assert values[NODES[0]] == values[NODES[2]] != values[NODES[1]] == values[NODES[3]]


def test_other_votes_are_honest_or_split_or_both():
    seen = set()
    for seed in range(20):
        scene = Scene(seed)
        scene.traitor.speaks(scene.said(vote(digest_of(b"x"))))
        heard = scene.court.words(ME, VoteCast)
        seen.add((tuple(len(heard[node]) for node in NODES), len({frozenset(heard[node]) for node in NODES})))
    assert seen == {((1, 1, 1, 1), 1), ((1, 1, 1, 1), 2), ((2, 2, 2, 2), 1)}


def test_what_is_no_ballot_goes_out_as_it_is_and_frames_repeat_no_truth(scene):
    beat = scene.said(Heartbeat(1, 1), 2)
    assert not scene.traitor.speaks(beat)
    said = scene.said(PROPOSED)
    assert not scene.traitor.repeats(SendFrame(NODES[0], Gossip(said.topic), said.wire))
    scene.traitor.speaks(said)
    assert scene.traitor.repeats(SendFrame(NODES[0], Gossip(said.topic), said.wire))
    assert not scene.traitor.repeats(SendFrame(NODES[0], Gossip(beat.topic), beat.wire))
    assert not scene.traitor.repeats(SendFrame(NODES[0], Ping(1), None))
