from shoal_agent.core.effects import Count
from shoal_agent.core.events import EnvelopeReceived, TimePassed
from shoal_agent.sim.trace import Trace
from shoal_protocol.ids import NodeId

NODE = NodeId("a" * 32)


def hash_of(*steps):
    trace = Trace()
    for step in steps:
        trace.add(*step)
    return trace.hexdigest()


STEP = (1.0, NODE, TimePassed(), [Count("beats", "x")])


def test_equal_steps_hash_equal():
    assert hash_of(STEP, STEP) == hash_of(STEP, STEP)


def test_every_part_counts():
    others = [
        (1.5, NODE, TimePassed(), [Count("beats", "x")]),
        (1.0, NodeId("b" * 32), TimePassed(), [Count("beats", "x")]),
        (1.0, NODE, TimePassed(), [Count("beats", "y")]),
        (1.0, NODE, TimePassed(), []),
        (1.0, NODE, EnvelopeReceived("a", "t", b"1"), []),
        (1.0, NODE, EnvelopeReceived("a", "t", b"2"), []),
    ]
    hashes = {hash_of(step) for step in [STEP, *others]}
    assert len(hashes) == 1 + len(others)


def test_order_counts():
    assert hash_of(STEP, (2.0, NODE, TimePassed(), [])) != hash_of((2.0, NODE, TimePassed(), []), STEP)


def test_lines_are_told():
    lines = []
    Trace(lines.append).add(*STEP)
    assert len(lines) == 2
    assert "TimePassed" in lines[0]
    assert "-> Count" in lines[1]
