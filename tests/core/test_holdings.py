from dataclasses import replace

import pytest

from shoal_agent.core.effects import CloseService, CloseStage, Count, OpenStage, ReleaseTensor, SendFrame
from shoal_agent.core.facts import TensorHandle
from shoal_agent.core.holdings import DEADLINE_GRACE_S, Holdings
from shoal_agent.core.hosted import Lease, Stand, Work
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.retention import Output
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import HostDeadline
from shoal_protocol.headers import KvRows, RefusalCode
from shoal_protocol.ids import Epoch, Instant, NodeId, SessionId
from shoal_protocol.limits import REASON_CHARS_MAX, REQUEST_DEADLINE_S_MAX, SESSIONS_MAX
from tests.support.stand import OPEN, SESSION, STEP
from tests.support.toy import MODEL, toy_facts
from tests.support.world import TOY, World

HERE, THERE, INGRESS = NodeId("a" * 32), NodeId("b" * 32), NodeId("c" * 32)
KV = 4 * 64
"""Bytes of KV per token on one stage."""
NOW = Instant(10.0)


class Shelf:
    """Holdings of a node in a plan of two stages."""

    def __init__(self, kv_bytes_max=100 * 100 * KV):
        self.tables = Tables()
        self.tables.models[MODEL] = toy_facts()
        self.plan = World(1).plan([HERE, THERE])
        self.tenure = self.tables.tenures.add(self.plan, bytes(32))
        self.held = Holdings(self.tables, kv_bytes_max)

    def add(self, number=0, stage=0, tokens_max=100, deadline_ms=30_000, serve=False):
        out = Outbox(HERE)
        session = SessionId(bytes([number // 256, number % 256]) * 8)
        asked = KvRows(TOY, Epoch(0), session, stage, 0, 3, 0, 1, tokens_max, deadline_ms, INGRESS)
        hosted = self.held.add(asked, self.plan, INGRESS, NOW, out)
        if serve:
            hosted.stand, hosted.lease = Stand.GOING, Lease(OPEN, INGRESS, THERE, 0)
        self.held.check()
        return hosted

    def drop(self, hosted):
        out = Outbox(HERE)
        self.held.drop(hosted, out)
        self.held.check()
        return out.effects


def test_what_is_held_has_kv_a_deadline_and_counts_in_its_epoch():
    shelf, out = Shelf(), Outbox(HERE)
    hosted = shelf.held.add(OPEN, shelf.plan, INGRESS, NOW, out)
    (opened,) = out.effects
    assert opened == OpenStage(SESSION, 0, hosted.span, 100)
    assert shelf.held.budget.bytes_reserved == 100 * KV
    assert shelf.tenure.sessions == 1
    assert shelf.tables.timers.deadline() == NOW + 30 + DEADLINE_GRACE_S
    assert shelf.drop(hosted) == [CloseStage(SESSION, 0)]
    assert shelf.held.budget.bytes_reserved == shelf.tenure.sessions == 0
    assert HostDeadline(SESSION, 0) not in shelf.tables.timers
    assert shelf.held.idle()


def test_nothing_is_held_longer_than_the_longest_request():
    shelf = Shelf()
    shelf.add(deadline_ms=2**62)
    assert shelf.tables.timers.deadline() == NOW + REQUEST_DEADLINE_S_MAX + DEADLINE_GRACE_S


def test_a_deadline_can_be_set_anew():
    shelf = Shelf()
    hosted = shelf.add()
    shelf.held.until(hosted, Instant(12.0))
    assert shelf.tables.timers.deadline() == 12.0 + DEADLINE_GRACE_S


def test_the_same_is_held_once():
    shelf = Shelf()
    shelf.add()
    with pytest.raises(AssertionError):
        shelf.add()


def test_stages_of_one_session_are_found_by_it():
    shelf = Shelf()
    one, other, _ = shelf.add(1, 0), shelf.add(1, 1), shelf.add(2)
    assert shelf.held.of(one.key[0]) == [one, other]
    assert shelf.held.get(other.key) is other
    assert [hosted.last for hosted in (one, other)] == [False, True]


def test_a_name_is_free_again_when_every_answer_has_come():
    shelf = Shelf()
    hosted = shelf.add()
    hosted.due = 2
    shelf.drop(hosted)
    assert not shelf.held.idle()
    for owed in (True, True):
        assert shelf.held.owes(hosted.key) is owed
        shelf.held.settled(hosted.key)
    assert not shelf.held.owes(hosted.key)
    shelf.held.settled(hosted.key)
    assert shelf.held.idle()


def test_shadows_make_room_for_sessions_the_oldest_first():
    shelf = Shelf(kv_bytes_max=300 * KV)
    shadows = [shelf.add(number) for number in range(2)]
    served = shelf.add(2, serve=True)
    out = Outbox(HERE)
    assert shelf.held.make_room(100 * KV, out) is None
    assert shelf.held.get(shadows[0].key) is None
    assert shelf.held.all() == [shadows[1], served]
    assert shelf.held.served() == [served]
    assert Count("shadows_dropped", "ROOM") in out.effects


def test_no_shadow_is_dropped_in_vain():
    shelf = Shelf(kv_bytes_max=300 * KV)
    shelf.add(0)
    shelf.add(1, tokens_max=200, serve=True)
    code, detail = shelf.held.make_room(101 * KV, Outbox(HERE))
    assert code is RefusalCode.KV_FULL
    assert detail == f"{101 * KV} bytes of KV wanted, 0 free"
    assert len(shelf.held.all()) == 2


@pytest.mark.parametrize("serve", [True, False])
def test_there_are_as_many_as_one_host_keeps(serve):
    shelf = Shelf(kv_bytes_max=10**9)
    for number in range(SESSIONS_MAX):
        shelf.add(number, tokens_max=1, serve=serve)
    lack = shelf.held.make_room(KV, Outbox(HERE))
    assert (None if lack is None else lack[0]) is (RefusalCode.TOO_MANY_SESSIONS if serve else None)


def test_whoever_stops_serving_keeps_what_was_finished():
    shelf = Shelf()
    hosted = shelf.add(serve=True)
    hosted.finished = hosted.position = 7
    hosted.waiting.append(Work(STEP, TensorHandle(1)))
    hosted.waiting_tokens, hosted.running = 3, STEP
    shelf.held.check()
    shelf.held.retention.keep(hosted.key, Output(6, 1, True, (1, 1, 2), TensorHandle(2), 8))
    out = Outbox(HERE)
    hosted.running = None
    shelf.held.quit(hosted, out)
    assert out.effects == [ReleaseTensor(TensorHandle(1)), ReleaseTensor(TensorHandle(2))]
    assert (hosted.stand, hosted.finished, hosted.depths, hosted.lease) == (Stand.SHADOW, 7, [7] * 4, None)
    shelf.held.check()
    shelf.held.quit(hosted, out)
    assert hosted.depths == [7] * 4


def test_a_sampler_closes_with_the_last_that_uses_it():
    shelf = Shelf()
    plan = replace(shelf.plan, epoch=Epoch(1))
    shelf.tables.tenures.add(plan, bytes(32))
    one = shelf.add(1, stage=1, serve=True)
    asked = KvRows(TOY, Epoch(1), one.key[0], 1, 0, 3, 0, 1, 100, 1000, INGRESS)
    other = shelf.held.add(asked, plan, INGRESS, NOW, Outbox(HERE))
    other.stand, other.lease = Stand.GOING, one.lease
    one.sampling = other.sampling = True
    assert not [effect for effect in shelf.drop(one) if isinstance(effect, CloseService)]
    (closed,) = [effect for effect in shelf.drop(other) if isinstance(effect, CloseService)]
    assert (closed.service, closed.session) == (other.sampler, other.key[0])


def test_a_refusal_names_its_attempt_in_one_line():
    shelf = Shelf()
    hosted = shelf.add(serve=True)
    hosted.attempt = 7
    out = Outbox(HERE)
    shelf.held.refuse(hosted, RefusalCode.STAGE_FAILED, "no " * 1000, out)
    (sent,) = [effect for effect in out.effects if isinstance(effect, SendFrame)]
    assert (sent.peer, sent.header.attempt, len(sent.header.detail)) == (INGRESS, 7, REASON_CHARS_MAX)
    assert shelf.held.idle()


def test_blocks_without_state_reach_everywhere():
    shelf = Shelf()
    facts = toy_facts()
    heads = tuple(replace(block, kv_bytes_per_token=0) for block in facts.blocks[4:])
    shelf.tables.models[MODEL] = replace(facts, blocks=facts.blocks[:4] + heads)
    assert shelf.add(stage=1).finished == 100
    assert shelf.add(stage=0).finished == 0


def test_what_the_book_does_not_say_is_noticed():
    shelf = Shelf()
    hosted = shelf.add()
    shelf.tables.timers.clear(HostDeadline(*hosted.key))
    with pytest.raises(AssertionError):
        shelf.held.check()
