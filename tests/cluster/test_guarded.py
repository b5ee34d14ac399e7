"""Whole clusters whose first blocks may be at home only: who lies elsewhere neither hosts them nor stands by."""

from dataclasses import replace

import pytest

from shoal_agent.core.plan import voters_for
from shoal_protocol.messages import Terms
from shoal_protocol.trust import GuardedBlocks
from tests.support.toy import toy_tokens
from tests.support.world import World

AT_HOME = (GuardedBlocks(0, 3, ("home",)),)


def guarded_world(hosting, standbys=()):
    """Three nodes at home, two abroad; blocks 0-3 and 4-7 on two of them."""
    world = World(5, abroad=2)
    world.link_s = (0.0005, 0.0005)
    world.start()
    hosts = [world.names[index] for index in hosting]
    plan = world.plan(hosts, standbys=tuple((world.names[index],) for index in standbys))
    voters = voters_for(plan.deployment, hosts, world.names, 0)
    terms = Terms(stages_min=2, guarded=AT_HOME, standbys=plan.terms.standbys)
    world.announce(replace(plan, terms=terms, voters=voters))
    return world


def views(world):
    living = [cell for cell in world.cells.values() if not cell.dead]
    return [cell.node.snapshot(world.now).deployments[-1] for cell in living]


def test_a_repair_keeps_them_at_home():
    """However often their host is lost: the last node at home gets them, though one abroad has nothing to do."""
    world = guarded_world((0, 3))
    world.run_until(world.serving)
    for epoch in (1, 2):
        world.run(15)
        world.kill(views(world)[-1].stages[0].stage.node)
        world.run_until(lambda epoch=epoch: all(v.epoch >= epoch and v.serving for v in views(world)), 10.0)
    stages = views(world)[-1].stages
    assert all(node in world.names[:3] for node in (stages[0].stage.node, *stages[0].stage.standbys))
    asker = world.names[-1]
    assert world.answer(asker, world.ask(asker)) == toy_tokens((1, 2, 3), 8, 8)


@pytest.mark.parametrize(("hosting", "standbys"), [((3, 0), ()), ((0, 1), (4, 2))])
def test_nobody_takes_up_a_plan_that_takes_them_abroad(hosting, standbys):
    world = guarded_world(hosting, standbys)
    world.run(2.0)
    assert not world.serving()
    told = [entry.text for cell in world.cells.values() for entry in cell.node._tables.story.about("toy/0")]
    assert any("blocks 0-3 may not be in zone abroad" in text for text in told), told
