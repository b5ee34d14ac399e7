"""How the facts of one conductor become the business of another, seen from outside in small worlds."""

from itertools import count

import pytest

from shoal_agent.core.events import EnvelopeReceived
from shoal_agent.core.facts import Standing
from shoal_agent.sim.machine import Machine
from shoal_protocol.ids import Incarnation, NodeId, Sequence
from shoal_protocol.messages import Accused, EvidenceFound, Heartbeat, NodePhase, PhaseReported, Verdict, VoteCast
from tests.support.histories import Play


@pytest.fixture
def play() -> Play:
    play = Play()
    play.begin()
    return play


def machine(play: Play, name: str) -> Machine:
    return play.world.machines[play.ids[name]]


def standing(play: Play, observer: str, name: str) -> Standing:
    return machine(play, observer).node._tables.membership.standing(play.ids[name])


def said(play: Play, kind: type) -> list[NodeId]:
    """Who says something of ``kind`` from now on; a list that grows."""
    speakers: list[NodeId] = []

    def listen(node, message):
        if isinstance(message, kind):
            speakers.append(node)
        return False

    play._traps.append(listen)
    return speakers


NUMBERS = count(1_000_000)
"""Of words that a node did not say itself: no honest one gets there in these worlds."""


def hears(play: Play, name: str, sender: str, message, *, redelivered=False, broker="broker-0") -> None:
    """``name`` gets a word of ``sender`` under a number it has not used."""
    key = machine(play, sender).setup.sealer
    effect = play.world.said(key, message, next(NUMBERS), 0)
    machine(play, name).post(EnvelopeReceived(broker, effect.topic, effect.wire, redelivered))


def test_a_dead_host_is_replaced_because_watch_steering_council_and_staging_hear_of_it(play):
    play.kill("bert")
    play.settle()
    plan = play.newest()
    assert plan.epoch == 1
    assert play.ids["bert"] not in [stage.node for stage in plan.stages]
    assert standing(play, "anna", "bert") is Standing.DEAD
    assert play.ids["bert"] in machine(play, "anna").node._tables.tenures.lost


def test_who_comes_back_is_lost_no_more(play):
    play.kill("bert")
    play.settle()
    play.boot("bert")
    play.pass_by(5.0)
    assert standing(play, "anna", "bert") is Standing.ALIVE
    assert play.ids["bert"] not in machine(play, "anna").node._tables.tenures.lost


def test_an_accusation_of_oneself_is_answered_by_a_heartbeat_at_once(play):
    beats = said(play, Heartbeat)
    target = play.ids["cora"]
    message = Accused(target, Incarnation(1), Sequence(1), Verdict.SUSPECT, "silent")
    hears(play, "cora", "anna", message)
    assert beats == [target]


def test_a_word_that_a_broker_kept_is_no_sign_of_life(play):
    play.kill("emil")
    play.pass_by(3.0)
    assert standing(play, "anna", "emil") is Standing.DEAD
    hears(play, "anna", "emil", Heartbeat(999, 1), redelivered=True)
    assert standing(play, "anna", "emil") is Standing.DEAD
    hears(play, "anna", "emil", Heartbeat(1000, 1))
    assert standing(play, "anna", "emil") is not Standing.DEAD


def test_a_goodbye_is_not_mourned_but_replaced(play):
    play.leave("bert")
    play.pass_by(15.0)
    play.settle()
    assert standing(play, "anna", "bert") is Standing.LEFT
    assert play.newest().epoch == 1
    assert machine(play, "bert").node._tables.phase is NodePhase.DISCONNECTED


def test_a_broker_that_is_back_is_told_everything_that_lasts(play):
    play.brokers(up=False)
    play.pass_by(2.0)
    phases = said(play, PhaseReported)
    play.brokers(up=True)
    play.pass_by(5.0)
    assert {play.name(node) for node in phases} >= {"anna", "bert", "cora"}


def test_a_node_without_its_memory_is_reborn_and_does_not_vote(play):
    play.forget("anna")
    play.settle()
    play.boot("anna")
    play.pass_by(15.0)
    anna = machine(play, "anna")
    assert anna.node._voice.identity.incarnation == 2, "one more than the life it is told of"
    votes = said(play, VoteCast)
    play.kill("dora")
    play.settle()
    assert play.ids["anna"] not in votes


def test_bytes_that_are_nobodys_word_are_counted_and_change_nothing(play):
    target = machine(play, "anna")
    before = target.node.snapshot(target.now())
    target.post(EnvelopeReceived("broker-0", "shoal/1/nonsense", b"nonsense"))
    after = target.node.snapshot(target.now())
    assert sum(count for _, count in after.rejected) == sum(count for _, count in before.rejected) + 1
    assert after.deployments == before.deployments


def test_a_forked_record_is_told_and_costs_no_vote(play):
    """A disk that is lost in the first life makes an honest node say two things under one number."""
    key = machine(play, "cora").setup.sealer
    number = next(NUMBERS)
    words = [play.world.said(key, Heartbeat(beat, 1), number, 0).wire for beat in (1, 2)]
    target = machine(play, "anna")
    hears(play, "anna", "bert", EvidenceFound(words[0], words[1]))
    assert any("two things" in entry.text for entry in target.node.story().about(play.ids["cora"]))
    assert play.ids["cora"] not in target.node._citizen.council._liars
