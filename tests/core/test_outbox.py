from shoal_agent.core.effects import Count, Note, SendFrame, Stop
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


def test_two_outboxes_share_nothing():
    Outbox(HERE).add(Stop())
    assert Outbox(HERE).effects == []
