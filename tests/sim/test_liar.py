from collections import Counter
from random import Random

from shoal_agent.sim.liar import forgeries
from tests.support.sim import judged


def test_everything_forged_is_refused_and_counted():
    world, judge = judged()
    end = forgeries(world, judge, Random(1))
    world.run(20.0)
    assert judge.violations == []
    reasons = Counter()
    for machine in world.living():
        reasons.update(dict(machine.node.snapshot(machine.now()).rejected))
    assert len(reasons) >= 4, reasons
    assert sum(reasons.values()) > 500
    end()
    world.run(1.0)
    before = sum(sum(dict(m.node.snapshot(m.now()).rejected).values()) for m in world.living())
    world.run(5.0)
    assert sum(sum(dict(m.node.snapshot(m.now()).rejected).values()) for m in world.living()) == before


def test_nobody_is_silenced_by_it():
    world, judge = judged()
    forgeries(world, judge, Random(2))
    world.run(20.0)
    for machine in world.living():
        assert all(peer.present for peer in machine.node.snapshot(machine.now()).nodes)
