"""Councils together: they decide the same, once, whoever crashes, lies, forgets or cannot be heard.

The chamber checks as it goes: no honest member says two things, nothing is said that is not in its diary, epochs only
grow. Here the tests look at the end: one plan per epoch, and every honest member has it.
"""

import pytest

from shoal_agent.core import franchise
from shoal_agent.core.council import DEPLOYMENTS_MAX, LIFE, Council
from shoal_agent.core.facts import Standing
from shoal_agent.core.franchise import SETTLE_S, Franchise
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.patience import PROPOSE_S
from shoal_protocol.codec import encode_plan
from shoal_protocol.ids import DeploymentId, Instant, digest_of
from shoal_protocol.limits import EPOCH_LEAP
from shoal_protocol.messages import Certified, EvidenceFound, PlanAnnounced, VoteKind
from tests.support.chamber import Chamber, decoded
from tests.support.deeds import NAMES, genesis
from tests.support.delegate import DEPLOYMENT, OPERATORS


def decided(chamber):
    chamber.settle()
    assert chamber.split == []
    assert chamber.settled(), [each.epoch for each in chamber.honest]
    return chamber


def stormy(seed, *args, **options):
    chamber = Chamber(seed, *args, loss=0.2, dup=0.1, **options).plan_faults()
    chamber.strike = 0.003
    chamber.later(15.0, lambda: setattr(chamber, "strike", None))
    return chamber.run(20.0)


# --- without faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("voters", "faulty"), [(1, 0), (2, 0), (3, 0), (5, 0), (7, 0), (4, 1), (7, 2)])
def test_a_plan_is_decided_in_one_round_and_everybody_has_it(voters, faulty):
    chamber = decided(Chamber(1, max(voters, 3), voters, faulty))
    assert chamber.now < SETTLE_S + 1.0
    assert {box[2] for box in chamber.said} == {0}


def test_epochs_follow_each_other_while_the_voters_change():
    chamber = decided(Chamber(2, 6, 3, epochs=12, rotate=True))
    assert sorted(chamber.decided) == list(range(13))
    assert chamber.now < SETTLE_S + 10.0


def test_only_the_first_proposer_needs_a_wish_and_a_voter_without_one_judges():
    chamber = Chamber(3, 4)
    judged = []
    chamber.judgement = lambda delegate, plan: judged.append(delegate.name) or True
    chamber.wishes = lambda delegate, epoch: delegate.name == chamber.proposers(1)[0]
    decided(chamber)
    assert set(judged) <= set(chamber.proposers(1)[1:])
    assert judged
    assert chamber.now < SETTLE_S + 2.5


def test_a_wish_of_a_later_proposer_has_its_turn():
    chamber = Chamber(4, 4)
    chamber.wishes = lambda delegate, epoch: delegate.name == chamber.proposers(1)[1]
    decided(chamber)
    assert chamber.now < SETTLE_S + 2 * PROPOSE_S


def test_a_proposer_known_to_be_dead_costs_no_time():
    chamber = Chamber(5, 4)
    chamber.run(SETTLE_S - 0.5)
    dead = chamber.delegates[chamber.proposers(1)[0]]
    chamber.crash(dead)
    chamber.stand(dead.name, Standing.DEAD)
    decided(chamber)
    assert chamber.now < SETTLE_S + 1.0


def test_a_plan_that_voters_refuse_is_not_decided_until_they_are_content():
    chamber = Chamber(6, 4)
    content = []
    chamber.judgement = lambda delegate, plan: bool(content)
    chamber.wishes = lambda delegate, epoch: delegate.name == chamber.proposers(1)[0]
    chamber.run(90.0)
    assert sorted(chamber.decided) == [0]
    spoken = len(chamber.said)
    content.append(True)
    chamber.run(120.0, chamber.settled)
    assert chamber.settled(), "it is never abandoned"
    assert spoken < 100, "whom nobody follows pauses"


def test_who_is_not_sure_is_asked_again_until_time_is_over():
    chamber = Chamber(7, 4)
    sure_at = SETTLE_S + 1.5
    chamber.judgement = lambda delegate, plan: True if chamber.now >= sure_at else None
    decided(chamber)
    assert sure_at < chamber.now < SETTLE_S + PROPOSE_S


# --- with faults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "voters", "faulty", "liars", "seeds"),
    [(4, 3, 0, 0, 15), (6, 5, 0, 0, 5), (5, 4, 1, 1, 4)],
)
def test_within_the_fault_model_all_decide_the_same(members, voters, faulty, liars, seeds):
    for seed in range(seeds):
        decided(stormy(seed, members, voters, faulty, liars, epochs=2 - bool(liars), rotate=not liars))


@pytest.mark.long
@pytest.mark.parametrize(
    ("members", "voters", "faulty", "liars", "seeds"),
    [(4, 3, 0, 0, 1500), (6, 5, 0, 0, 500), (8, 7, 0, 0, 200), (5, 4, 1, 1, 300), (9, 7, 2, 2, 30)],
)
def test_within_the_fault_model_all_decide_the_same_for_long(members, voters, faulty, liars, seeds):
    for seed in range(1000, 1000 + seeds):
        decided(stormy(seed, members, voters, faulty, liars, epochs=3 - 2 * bool(liars), rotate=not liars))


@pytest.mark.parametrize(
    ("members", "voters", "faulty", "liars"), [(4, 3, 0, 1), pytest.param(5, 4, 1, 2, marks=pytest.mark.long)]
)
def test_outside_the_fault_model_the_oracle_fires_and_the_first_plan_stays(members, voters, faulty, liars):
    split = 0
    for seed in range(30):
        chamber = stormy(seed, members, voters, faulty, liars).run(20.0)
        split += bool(chamber.split)
        if chamber.disputes:
            break
    assert split
    assert {dispute.epoch for dispute in chamber.disputes} <= set(chamber.split)
    assert all(delegate.epoch <= 1 for delegate in chamber.honest)


def test_a_minority_freezes_and_catches_up():
    chamber = Chamber(8, 5, 5, epochs=3)
    chamber.island = set(chamber.names[:2])
    # Genesis reaches everybody: it was there before the network broke.
    chamber.run(60.0)
    epochs = {name: delegate.epoch for name, delegate in chamber.delegates.items()}
    assert [epochs[name] for name in chamber.names] == [0, 0, 3, 3, 3]
    chamber.island = set()
    decided(chamber)


def test_without_a_quorum_nothing_is_decided_and_nothing_is_lost():
    chamber = Chamber(9, 4, 3, epochs=2)
    for name in chamber.names[:2]:
        chamber.crash(chamber.delegates[name])
    chamber.run(60.0)
    assert max(each.epoch for each in chamber.honest) == 0
    chamber.revive(chamber.delegates[chamber.names[0]])
    decided(chamber)


def test_a_certificate_at_one_node_alone_survives_the_crash_of_everybody():
    chamber = Chamber(10, 3, 3)
    chamber.run(until=lambda: any(each.epoch == 1 for each in chamber.honest))
    for delegate in chamber.honest:
        chamber.crash(delegate)
    value = set(chamber.decided[1])
    chamber.wishes = lambda delegate, epoch: False
    for delegate in chamber.honest:
        chamber.revive(delegate)
    decided(chamber)
    assert set(chamber.decided[1]) == value


# --- liars -----------------------------------------------------------------------------------------------------------


def test_a_liar_is_shown_to_everybody_and_not_listened_to_any_more():
    chamber = Chamber(11, 6, 4, 1, epochs=0)
    chamber.run(SETTLE_S + 1)
    liar, witness = chamber.honest[:2]
    raws = [encode_plan(chamber.plan_of(1, witness.council.plan(DEPLOYMENT)[1], variant)) for variant in (0, 1)]
    for raw in raws:
        ballot = chamber.ballot(liar.key, 1, 3, VoteKind.PREVOTE, digest_of(raw))
        witness.hear(liar.voice.seal(ballot, chamber.now))
    chamber.run(2.0)
    assert chamber.convicted == {liar.name}
    for delegate in chamber.honest:
        assert any("two things" in entry.text for entry in delegate.tables.story.about(liar.name)) == (delegate != liar)
    heard = dict(witness.council._seats[DEPLOYMENT]._sitting.agreement._heard.furthest)
    witness.hear(liar.voice.seal(chamber.ballot(liar.key, 1, 9, VoteKind.PREVOTE, None), chamber.now))
    assert witness.council._seats[DEPLOYMENT]._sitting.agreement._heard.furthest == heard


def test_evidence_that_proves_nothing_convicts_nobody():
    chamber = decided(Chamber(12, 4))
    delegate, other = chamber.honest[:2]
    word = other.voice.seal(chamber.ballot(other.key, 2, 0, VoteKind.PREVOTE, None), chamber.now)
    delegate.hear(chamber.seal(chamber.honest[2].key, EvidenceFound(word, word), 10**6))
    assert chamber.convicted == set()
    assert chamber.rejected[-1][1] == "malformed"


# --- forgetting ------------------------------------------------------------------------------------------


def forget(chamber, lose, *, at=SETTLE_S, down_s=1.0):
    """A voter loses something in the middle of an agreement."""
    victim = chamber.rng.choice([chamber.delegates[name] for name in chamber.names[: chamber.voters]])
    chamber.later(at + chamber.rng.random() * 0.2, lambda: chamber.crash(victim))
    chamber.later(at + down_s, lambda: chamber.revive(victim, lose=lose))
    return victim


@pytest.mark.parametrize("lose", [("vote",), ("vote", "cert", "plan", "council"), ("plan", "cert")])
def test_a_voter_that_forgot_says_nothing_twice_and_votes_again_later(lose):
    """The chamber fails if a member contradicts itself; here it says nothing at all in that epoch."""
    for seed in range(3):
        chamber = Chamber(seed, 4, 3, loss=0.2, epochs=3)
        victim = forget(chamber, lose)
        decided(chamber.run(2 * SETTLE_S))
        chamber.epochs = 9
        decided(chamber)
        assert any(box[1] > 3 for box in chamber.said if box[0] == victim.name)


def interrupted(seed):
    """One voter has prevoted, and lost its diary; another one is down, so that nothing is decided without it."""
    chamber = Chamber(seed, 4, 3)
    proposer, victim, other = (chamber.delegates[name] for name in chamber.proposers(1))
    chamber.crash(other)
    chamber.judgement = lambda delegate, plan: delegate.life == 1
    chamber.wishes = lambda delegate, epoch: delegate is proposer
    chamber.run(until=lambda: (victim.name, 1, 0, VoteKind.PREVOTE) in chamber.said)
    for delegate in (victim, proposer):
        chamber.crash(delegate)
    # What was under way is lost with them.
    chamber.run(1.0)
    chamber.revive(victim, lose=("vote",))
    chamber.revive(proposer)
    return chamber


def test_a_voter_that_lost_its_diary_does_not_contradict_itself():
    chamber = interrupted(23).run(30.0)
    assert max(chamber.decided) == 0


def test_without_the_bar_it_would(monkeypatch):
    monkeypatch.setattr(Franchise, "check", lambda self, plan, out: self.open_diary(plan, out) or True)
    with pytest.raises(AssertionError, match="said twice"):
        interrupted(23).run(30.0)


def test_a_node_on_its_first_life_marks_that_it_lives_and_a_later_one_that_finds_no_mark_has_lost_it():
    chamber = Chamber(13, 4)
    chamber.run(1.0)
    delegate = chamber.honest[0]
    assert delegate.disk[LIFE] == b"whole"
    chamber.crash(delegate)
    chamber.revive(delegate, lose=("vote", "plan", "council"))
    chamber.run(5.0)
    assert delegate.disk[LIFE] == b"lost"
    assert delegate.council.view()[0].barred is not None
    chamber.run(20.0)
    delegate.do(lambda out: delegate.council.publish(chamber.now, out))
    assert delegate.disk[LIFE] == b"whole"


def test_a_cluster_that_is_restarted_before_it_has_anything_to_do_can_vote():
    chamber = Chamber(14, 3)
    chamber.heap.clear()
    for delegate in chamber.honest:
        delegate.do(lambda out, d=delegate: d.council.publish(chamber.now, out))
        chamber.crash(delegate)
        chamber.revive(delegate)
    chamber.later(0.0, chamber.announce)
    chamber.later(1.0, chamber.tick)
    decided(chamber)


def test_who_is_told_of_a_forgotten_life_ends_what_it_does():
    chamber = Chamber(15, 4)
    chamber.judgement = lambda delegate, plan: None
    chamber.run(SETTLE_S + 0.5)
    delegate = chamber.delegates[chamber.proposers(1)[0]]
    assert delegate.council.view()[0].round == 0
    delegate.do(lambda out: delegate.council.lose(chamber.now, out))
    assert delegate.council.view()[0].round is None
    assert delegate.council.view()[0].barred == 1


# --- operators -------------------------------------------------------------------------------------------------------


def test_operators_recover_a_deployment_whose_voters_are_gone():
    chamber = Chamber(16, 6, 3)
    chamber.run(1.0)
    for name in chamber.names[:2]:
        chamber.crash(chamber.delegates[name])
    chamber.honest = [chamber.delegates[name] for name in chamber.names[2:]]
    chamber.run(30.0)
    assert not chamber.settled()
    chamber.rotate = True
    wire = chamber.order(EPOCH_LEAP + 3)
    chamber.epochs = 4
    for delegate in chamber.honest[:2]:
        delegate.hear(wire)
    decided(chamber)
    assert {each.epoch for each in chamber.honest} == {EPOCH_LEAP + 4}


def test_voters_that_all_lost_their_diaries_are_freed_by_an_order():
    chamber = Chamber(17, 4, 3)
    chamber.run(1.0)
    for delegate in chamber.honest:
        chamber.crash(delegate)
        chamber.revive(delegate, lose=("vote",))
    chamber.run(60.0)
    assert not chamber.settled()
    wire = chamber.order(EPOCH_LEAP)
    for delegate in chamber.honest:
        delegate.hear(wire)
    decided(chamber)


# --- the rest ------------------------------------------------------------------------------------------


def test_a_peer_is_handed_the_chain_from_anywhere_on_with_seals_of_this_life():
    chamber = decided(Chamber(18, 4, epochs=3))
    council = chamber.honest[0].council
    proofs = [decoded(wire, chamber.roster) for wire in council.after(DEPLOYMENT, None, chamber.now)]
    assert [plan.epoch for _, plan in proofs] == [0, 1, 2, 3]
    assert [type(message) for message, _ in proofs] == [PlanAnnounced, Certified, Certified, Certified]
    assert len(list(council.after(DEPLOYMENT, 2, chamber.now))) == 1
    assert list(council.after(DeploymentId("other"), None, chamber.now)) == []
    assert council.heads()[0].epoch == 3
    assert council.plan(DEPLOYMENT, 1)[0].epoch == 1
    assert council.plan(DEPLOYMENT, 9) is None


def test_damaged_records_are_counted_and_bar_instead_of_raising():
    chamber = Chamber(19, 4)
    chamber.run(1.0)
    delegate = chamber.honest[0]
    chamber.crash(delegate)
    delegate.disk[f"vote.{DEPLOYMENT}"] = delegate.disk[f"vote.{DEPLOYMENT}"][:-1]
    delegate.disk["cert.toy.1"] = delegate.disk["order.toy.7"] = b"nonsense"
    chamber.revive(delegate)
    chamber.run(2.0)
    assert delegate.council.view()[0].barred == 1


def test_deployments_are_bounded():
    chamber = Chamber(20, 3)
    delegate = chamber.honest[0]
    for index in range(DEPLOYMENTS_MAX + 3):
        raw = genesis(deployment=DeploymentId(f"toy-{index}"), voters=tuple(NAMES[:3]))
        delegate.hear(chamber.seal(OPERATORS[0], PlanAnnounced(raw), index + 1))
    assert len(delegate.council.heads()) == DEPLOYMENTS_MAX
    assert chamber.rejected[-1][1] == "oversized"
    assert delegate.council.heads() == tuple(sorted(delegate.council.heads(), key=lambda head: head.deployment))


def test_the_same_seed_tells_the_same_story():
    stories = []
    for _ in range(2):
        chamber = stormy(21, 5, 4, 1, 1)
        stories.append([entry for each in chamber.honest for entry in each.tables.story.entries()])
    assert stories[0] == stories[1]
    assert stories[0]


def test_nothing_is_wished_for_a_deployment_nobody_knows():
    chamber = Chamber(22, 3)
    council: Council = chamber.honest[0].council
    out = Outbox(chamber.honest[0].name)
    raw = encode_plan(chamber.plan_of(1, bytes(32), 0))
    assert council.wish(DEPLOYMENT, raw, Instant(0.0), out) == []
    assert council.withdraw(DEPLOYMENT, Instant(0.0), out) == []


def test_without_time_to_settle_a_node_that_lost_all_would_speak_too_soon():
    """The wait is longer than an answer to a node's first words takes."""
    assert franchise.SETTLE_S >= 20 * 0.05
