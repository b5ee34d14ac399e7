"""Every promise of agreement is broken once, before the eyes of its oracle."""

from dataclasses import replace

import pytest

from shoal_agent.core.effects import LoadBlocks, Note, OpenStage
from shoal_agent.core.events import TimePassed
from shoal_agent.core.facts import StageSpan
from shoal_agent.core.seat import WISHED
from shoal_agent.sim.machine import Seen
from shoal_agent.sim.settings import CLUSTER, TOY
from shoal_agent.sim.toy import MODEL
from shoal_protocol.codec import encode_plan
from shoal_protocol.ids import Epoch, SessionId, digest_of
from shoal_protocol.messages import Ballot, Cause, Certified, Proposed, VoteCast, VoteKind
from shoal_protocol.trust import GuardedBlocks
from shoal_protocol.votes import sign_vote
from tests.support.sim import judged

X, Y = digest_of(b"x"), digest_of(b"y")


class Scene:
    """A world with a plan, and words put into the mouths of its nodes."""

    def __init__(self):
        self.world, self.judge = judged(3, 2)
        self.plan = self.judge.agreed.newest(TOY)
        self.numbers = 10**6

    def key(self, name):
        return self.world.machines[name].setup.sealer

    def says(self, name, *messages, at_s=1.0):
        """The oracles that fire when ``name`` says ``messages``."""
        effects = []
        for message in messages:
            self.numbers += 1
            effects.append(self.world.said(self.key(name), message, self.numbers, 0))
        return self.does(name, *effects, at_s=at_s)

    def does(self, name, *effects, at_s=1.0):
        seen = Seen(at_s, self.world.machines[name], TimePassed(), list(effects))
        return [oracle for oracle, _ in self.judge.agreed.handled(seen)]

    def vote(self, name, value, kind=VoteKind.PREVOTE, epoch=1):
        signature = sign_vote(self.key(name), CLUSTER, TOY, Epoch(epoch), 0, kind, value)
        return VoteCast(TOY, Epoch(epoch), 0, kind, value, "", signature)

    def next(self, **changes):
        parent = digest_of(encode_plan(self.plan))
        plan = replace(self.plan, epoch=Epoch(1), parent=parent, cause=Cause.GAIN, **changes)
        return encode_plan(plan)

    def certified(self, raw, count=2):
        names = self.plan.voters[:count]
        signed = [sign_vote(self.key(n), CLUSTER, TOY, Epoch(1), 0, VoteKind.PRECOMMIT, digest_of(raw)) for n in names]
        return Certified(raw, 0, tuple(Ballot(name, each) for name, each in zip(names, signed, strict=True)))


@pytest.fixture
def scene():
    return Scene()


def test_a_ballot_may_be_repeated_but_not_changed_even_in_another_life(scene):
    one, other = scene.world.names[:2]
    assert scene.says(one, scene.vote(one, X), scene.vote(one, X), scene.vote(one, Y, VoteKind.PRECOMMIT)) == []
    assert scene.says(other, scene.vote(other, Y)) == []
    scene.world.crash(one)
    scene.world.boot(one)
    assert scene.says(one, scene.vote(one, None)) == ["votes"]


def test_a_proposal_is_made_once_in_a_round(scene):
    name = scene.world.names[0]
    first, second = (Proposed(TOY, Epoch(1), 0, None, scene.next(reason=why), ()) for why in ("a", "b"))
    assert scene.says(name, first, first) == []
    assert scene.says(name, second) == ["votes"]


def test_a_liar_may_do_as_it_likes():
    scene = Scene()
    scene.world.liars = (scene.world.names[0],)
    scene.judge.begin(scene.world)
    name = scene.world.names[0]
    assert scene.says(name, scene.vote(name, X), scene.vote(name, Y)) == []


def test_a_certificate_needs_a_quorum_of_the_voters_before(scene):
    name, raw = scene.world.names[0], scene.next()
    assert scene.says(name, scene.certified(raw, 1)) == ["unproven"]
    assert scene.judge.agreed.newest(TOY) == scene.plan
    wish = Note("info", WISHED, (("deployment", TOY), ("epoch", 1), ("why", "a host is lost")))
    assert scene.does(name, wish, at_s=3.0) == []
    assert scene.does(scene.world.names[1], wish, at_s=3.5) == []
    assert scene.says(name, scene.certified(raw), scene.certified(raw, 3), at_s=4.5) == []
    assert scene.judge.agreed.newest(TOY).epoch == 1
    assert scene.judge.agreed.agreements == [1.5]


def test_two_certificates_for_one_epoch_fire(scene):
    name = scene.world.names[0]
    assert scene.says(name, scene.certified(scene.next())) == []
    assert scene.says(name, scene.certified(scene.next(reason="another"))) == ["certificates"]


def span(epoch=0, first=0, last=3):
    return StageSpan(TOY, Epoch(epoch), MODEL, first, last)


def test_blocks_are_opened_as_the_plan_says_and_under_no_other(scene):
    host, other = scene.world.names[:2]
    session = SessionId(bytes(16))
    assert scene.does(host, LoadBlocks(span()), OpenStage(session, 0, span(), 8)) == []
    assert scene.does(host, LoadBlocks(span(first=1))) == ["fence"]
    assert scene.does(host, LoadBlocks(span(1))) == ["fence"]
    assert scene.does(other, LoadBlocks(span())) == ["fence"]
    assert scene.does(host, OpenStage(session, 0, span(last=7), 8)) == ["fence"]


def test_who_stands_by_opens_what_the_plan_says(scene):
    spare = scene.world.names[2]
    assert [stage.standbys for stage in scene.plan.stages] == [(spare,), (spare,)]
    assert scene.does(spare, LoadBlocks(span()), LoadBlocks(span(first=4, last=7))) == []
    assert scene.does(spare, LoadBlocks(span(last=7))) == ["fence"]


def test_blocks_are_opened_in_their_zone(scene):
    scene.says(scene.world.names[0], scene.certified(scene.next()))
    host = scene.world.names[0]
    plan = scene.judge.agreed._plans[TOY, Epoch(0)][2]
    entry = scene.judge.agreed._plans[TOY, Epoch(0)]
    elsewhere = replace(plan, terms=replace(plan.terms, zones=("elsewhere",)))
    scene.judge.agreed._plans[TOY, Epoch(0)] = (*entry[:2], elsewhere)
    assert scene.does(host, LoadBlocks(span())) == ["fence"]


def test_guarded_blocks_are_opened_by_those_who_may_hold_them(scene):
    host, other = scene.world.names[:2]
    entry = scene.judge.agreed._plans[TOY, Epoch(0)]
    guarded = (GuardedBlocks(3, 3, ("elsewhere",)),)
    terms = replace(entry[2].terms, guarded=guarded)
    scene.judge.agreed._plans[TOY, Epoch(0)] = (*entry[:2], replace(entry[2], terms=terms))
    assert scene.does(host, LoadBlocks(span())) == ["fence"]
    assert scene.does(other, LoadBlocks(span(first=4, last=7))) == []


def test_a_life_never_goes_back(scene):
    host = scene.world.names[0]
    scene.says(host, scene.certified(scene.next()))
    assert scene.does(host, LoadBlocks(span(1)), LoadBlocks(span())) == ["epochs"]
    scene.world.crash(host)
    scene.world.boot(host)
    assert scene.does(host, LoadBlocks(span())) == []


def test_what_is_known_is_not_forgotten(scene):
    machine = scene.world.machines[scene.world.names[0]]
    assert list(scene.judge.agreed.looked(machine)) == []
    scene.judge.agreed._known[machine.name, machine.boots, TOY] = Epoch(3)
    assert [oracle for oracle, _ in scene.judge.agreed.looked(machine)] == ["epochs"]
