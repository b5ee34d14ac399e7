from random import Random

import pytest

from shoal_agent.core import chain as module
from shoal_agent.core.chain import WAITING_MAX, Chain, Conflict, Extended, Known, Waiting
from shoal_protocol.codec import decode_plan
from shoal_protocol.errors import BadSignature, MalformedMessage
from shoal_protocol.ids import Epoch, digest_of
from shoal_protocol.limits import EPOCH_LEAP
from shoal_protocol.messages import Cause
from tests.support.deeds import (
    KEYS,
    NAMES,
    OPERATORS,
    ROSTER,
    announced,
    certificate,
    chain,
    genesis,
    recovery,
    sealed,
    successor,
)
from tests.support.delegate import CLUSTER, DEPLOYMENT


def begun(raw):
    made = Chain(DEPLOYMENT)
    assert isinstance(begin(made, raw), Extended)
    return made


def begin(made, raw):
    message, wire = announced(raw)
    return made.begin(message, wire, ROSTER, CLUSTER)


def certify(made, certified, **options):
    return made.certify(certified, ROSTER, CLUSTER, **options)


def order(made, message, **options):
    return made.order(message, sealed(message), ROSTER, CLUSTER, **options)


def epochs(outcome):
    assert isinstance(outcome, Extended)
    return [link.epoch for link in outcome.links]


def test_a_chain_grows_by_what_its_voters_signed_and_is_handed_out_from_anywhere_on():
    raws = chain(4)
    made = begun(raws[0])
    for raw in raws[1:]:
        assert epochs(certify(made, certificate(raw))) == [decode_plan(raw).epoch]
    assert made.head.raw == raws[-1]
    assert made.plan == decode_plan(raws[-1])
    assert [link.raw for link in made.after(-1)] == raws
    assert [link.raw for link in made.after(1)] == raws[2:]
    assert made.after(3) == ()
    assert made.link(Epoch(2)).digest == digest_of(raws[2])
    assert [bool(link.wire) for link in made.after(-1)] == [True, False, False, False]


@pytest.mark.parametrize("seed", range(20))
def test_links_may_come_in_any_order_and_more_than_once(seed):
    raws = chain(8)
    arrivals = [raws[0], *(2 * [certificate(raw) for raw in raws[1:]])]
    Random(seed).shuffle(arrivals)
    made = Chain(DEPLOYMENT)
    for each in arrivals:
        outcome = begin(made, each) if isinstance(each, bytes) else certify(made, each)
        assert isinstance(outcome, Extended | Waiting | Known)
    assert [link.raw for link in made.after(-1)] == raws


@pytest.mark.parametrize(
    ("certified", "fault"),
    [
        (lambda raw: certificate(raw, KEYS[:1]), BadSignature),
        (lambda raw: certificate(raw, [KEYS[0], KEYS[3]]), MalformedMessage),
        (lambda raw: certificate(raw, [KEYS[0], KEYS[0]]), MalformedMessage),
        (lambda raw: certificate(successor(genesis(score_us=9))), MalformedMessage),
        (lambda raw: certificate(successor(genesis(), context_tokens_max=128)), MalformedMessage),
    ],
    ids=["too few", "no voter", "one twice", "of another chain", "of another context"],
)
def test_what_proves_nothing_changes_nothing(certified, fault):
    raws = chain(2)
    made = begun(raws[0])
    with pytest.raises(fault):
        certify(made, certified(raws[1]))
    assert made.after(0) == ()


def test_forgeries_that_waited_are_thrown_out_and_the_true_one_is_found():
    raws = chain(3)
    made = Chain(DEPLOYMENT)
    forged = certificate(successor(raws[1], score_us=7), KEYS[:1])
    assert [certify(made, each) for each in (forged, certificate(raws[2]))] == [Waiting(Epoch(2))] * 2
    begin(made, raws[0])
    assert epochs(certify(made, certificate(raws[1]))) == [1, 2]
    assert made.head.raw == raws[2]


def test_the_waiting_room_is_bounded_but_not_for_what_this_node_stored():
    raws = chain(WAITING_MAX + 20)
    made = Chain(DEPLOYMENT)
    for raw in raws[1:]:
        certify(made, certificate(raw))
    assert len(made._waiting) == WAITING_MAX
    begin(made, raws[0])
    assert made.head.epoch == 0
    stored = Chain(DEPLOYMENT)
    for raw in reversed(raws[1:]):
        certify(stored, certificate(raw), proven=True)
    assert epochs(begin(stored, raws[0])) == list(range(len(raws)))


def test_what_this_node_stored_needs_no_signature_a_second_time():
    """The voters may have left the roster since."""
    raws = chain(2)
    made = begun(raws[0])
    assert epochs(certify(made, certificate(raws[1], keys=[]), proven=True)) == [1]


def test_two_proven_plans_of_one_epoch_are_a_conflict_and_the_first_stays():
    raws = chain(3)
    made = begun(raws[0])
    certify(made, certificate(raws[1]))
    certify(made, certificate(raws[2]))
    other = successor(raws[0], score_us=5)
    assert certify(made, certificate(other)) == Conflict(Epoch(1), digest_of(raws[1]), digest_of(other))
    with pytest.raises(BadSignature):
        certify(made, certificate(other, KEYS[:1]))
    assert [link.raw for link in made.after(-1)] == raws
    assert begin(made, genesis(score_us=3)) == Conflict(Epoch(0), digest_of(raws[0]), digest_of(genesis(score_us=3)))
    assert begin(made, raws[0]) == Known()


def test_operators_cut_the_chain_and_it_goes_on_from_there():
    raws = chain(3)
    made = begun(raws[0])
    certify(made, certificate(raws[1]))
    ordered = recovery(raws[1], voters=tuple(NAMES[1:]))
    assert epochs(order(made, ordered)) == [EPOCH_LEAP + 1]
    assert [link.epoch for link in made.after(-1)] == [0, EPOCH_LEAP + 1]
    assert certify(made, certificate(raws[2])) == Known(), "what the lost voters still decide stays below it"
    after = successor(ordered.plan)
    assert epochs(certify(made, certificate(after, KEYS[1:3]))) == [EPOCH_LEAP + 2]
    assert order(made, ordered) == Known()
    assert made.after(EPOCH_LEAP + 1)[0].raw == after


def test_a_newcomer_needs_no_more_than_genesis_and_the_order():
    raws = chain(3)
    ordered = recovery(raws[2])
    made = Chain(DEPLOYMENT)
    assert order(made, ordered) == Waiting(Epoch(EPOCH_LEAP + 2))
    assert epochs(begin(made, raws[0])) == [0, EPOCH_LEAP + 2]


@pytest.mark.parametrize("keys", [OPERATORS[:1], KEYS[:2]], ids=["too few", "no operators"])
def test_an_order_takes_as_many_operators_as_the_terms_say(keys):
    raws = chain(1)
    made = begun(raws[0])
    with pytest.raises((BadSignature, MalformedMessage)):
        order(made, recovery(raws[0], keys))
    waiting = Chain(DEPLOYMENT)
    order(waiting, recovery(raws[0], keys))
    begin(waiting, raws[0])
    assert waiting.head.epoch == 0


def test_of_two_orders_the_higher_holds_and_two_of_one_epoch_are_a_conflict():
    raws = chain(1)
    made = begun(raws[0])
    order(made, recovery(raws[0]))
    other = recovery(raws[0], score_us=4)
    assert isinstance(order(made, other), Conflict)
    assert epochs(order(made, recovery(raws[0], leap=2 * EPOCH_LEAP))) == [2 * EPOCH_LEAP]
    assert order(made, recovery(raws[0])) == Known()


def test_a_chain_restored_in_any_order_is_whole_again_orders_included():
    raws = chain(3)
    ordered = recovery(raws[2])
    tail = [successor(ordered.plan)]
    tail.append(successor(tail[0]))
    pieces = [lambda made, raw=raw: certify(made, certificate(raw), proven=True) for raw in (*raws[1:], *tail)]
    pieces += [lambda made: order(made, ordered, proven=True), lambda made: begin(made, raws[0])]
    for seed in range(30):
        Random(seed).shuffle(pieces)
        made = Chain(DEPLOYMENT)
        for piece in pieces:
            piece(made)
        assert made.head.raw == tail[-1]
        assert made._stored == {}


def test_beyond_its_bound_a_chain_forgets_its_oldest_links_but_genesis(monkeypatch):
    monkeypatch.setattr(module, "LINKS_MAX", 4)
    raws = chain(8)
    made = begun(raws[0])
    for raw in raws[1:]:
        certify(made, certificate(raw))
    assert [link.epoch for link in made.after(-1)] == [0, 5, 6, 7]


def test_a_later_epoch_is_no_beginning():
    with pytest.raises(MalformedMessage):
        begin(Chain(DEPLOYMENT), successor(genesis(), cause=Cause.GAIN))
