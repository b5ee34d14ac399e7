import pytest

from shoal_agent.core.effects import Count, Note, ReleaseTensor, SendFrame, Stop
from shoal_agent.core.facts import TensorHandle
from shoal_agent.core.outbox import Outbox
from shoal_protocol.headers import Probe
from shoal_protocol.ids import NodeId

HERE, THERE = NodeId("h" * 32), NodeId("t" * 32)


def test_effects_keep_the_order_in_which_they_were_asked():
    out = Outbox(HERE)
    out.count("family", "label")
    out.send(THERE, Probe(1), b"payload")
    out.note("info", "text", number=1, word="two")
    out.add(Stop())
    assert out.effects == [
        Count("family", "label"),
        SendFrame(THERE, Probe(1), b"payload"),
        Note("info", "text", (("number", 1), ("word", "two"))),
        Stop(),
    ]
    assert not out.loopback


def test_a_frame_to_ourselves_never_leaves():
    out = Outbox(HERE)
    out.send(HERE, Probe(1))
    out.send(HERE, Probe(2), TensorHandle(7))
    assert out.effects == []
    assert list(out.loopback) == [(Probe(1), None), (Probe(2), 7)]


def test_what_may_have_to_be_sent_again_is_kept_by_who_sends_it():
    out = Outbox(HERE)
    out.send(THERE, Probe(1), TensorHandle(7), keep=True)
    assert out.effects == [SendFrame(THERE, Probe(1), TensorHandle(7), keep=True)]
    with pytest.raises(AssertionError):
        out.send(HERE, Probe(1), TensorHandle(7), keep=True)


def test_only_tensors_are_released():
    out = Outbox(HERE)
    for payload in (None, b"bytes", TensorHandle(7)):
        out.release(payload)
    assert out.effects == [ReleaseTensor(TensorHandle(7))]


def test_a_metric_may_grow_by_more_than_one():
    out = Outbox(HERE)
    out.count("bytes", "sent", 9)
    assert out.effects == [Count("bytes", "sent", 9)]


def test_two_outboxes_share_nothing():
    Outbox(HERE).add(Stop())
    assert Outbox(HERE).effects == []
