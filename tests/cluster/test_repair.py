"""Whole clusters that repair and improve themselves, nobody being in charge."""

from dataclasses import replace

import pytest

from shoal_agent.core.decision import HOLD_S
from shoal_agent.core.events import LockChanged, Sampled, StopRequested
from shoal_agent.core.plan import voters_for
from shoal_agent.core.problem import Candidate, problem_of
from shoal_agent.core.standbys import back_up
from shoal_agent.core.validity import COOL_DOWN_S
from shoal_agent.sim.solutions import solution
from shoal_protocol.messages import Capacity, Load, Terms
from tests.support.opinion import MEMORY, SPEED, TOY
from tests.support.toy import toy_tokens
from tests.support.world import World

LINK_S = (0.0005, 0.0005)
"""All links alike: what is better here is better because of the nodes."""
LOAD = Load(0, 10**9, None, 0, 0)


def cluster(count, hosting, **terms):
    world = World(count)
    world.link_s = LINK_S
    world.start()
    plan, limits = world.plan(world.names[:hosting]), Terms(**({"stages_min": hosting} | terms))
    able = tuple(Candidate(name, SPEED, MEMORY) for name in world.names)
    backing = back_up(problem_of(world.facts, limits, 512, able), plan.stages, limits.standbys)
    voters = voters_for(plan.deployment, world.names[:hosting], world.names, limits.faulty)
    world.announce(replace(plan, voters=voters, terms=limits, stages=backing.stages))
    world.run_until(world.serving)
    return world


def newest(cell):
    return cell.node.snapshot(cell.world.now).deployments[-1]


def settled(world, epoch):
    living = [cell for cell in world.cells.values() if not cell.dead]
    views = [newest(cell) for cell in living if cell.deployment() is not None]
    return len(views) == len(living) and all(view.epoch >= epoch and view.serving for view in views)


@pytest.mark.parametrize(("count", "hosting", "faulty"), [(3, 2, 0), (5, 3, 0), (4, 3, 0), (7, 5, 0), (7, 3, 1)])
def test_a_dead_host_is_replaced_within_five_seconds(count, hosting, faulty):
    world = cluster(count, hosting, faulty=faulty)
    world.run(5)
    begun, dead = world.now, world.names[0]
    world.kill(dead)
    world.run_until(lambda: settled(world, 1), 5.0)
    assert world.now - begun <= 5.0
    asker = world.names[-1]
    assert world.answer(asker, world.ask(asker)) == toy_tokens((1, 2, 3), 8, 8)
    world.run(5.0)
    for cell in world.cells.values():
        assert cell.dead or {span.epoch for span in cell.loaded} <= {newest(cell).epoch}, "nothing is left behind"


def test_one_host_after_the_other_dies_and_each_is_replaced():
    world = cluster(5, 2)
    for epoch in (1, 2):
        world.run(15)
        victim = newest(world.cells[world.names[-1]]).stages[0].stage.node
        world.kill(victim)
        world.run_until(lambda epoch=epoch: settled(world, epoch), 8.0)
    alive = next(cell.name for cell in world.cells.values() if not cell.dead)
    assert world.answer(alive, world.ask(alive)) == toy_tokens((1, 2, 3), 8, 8)


def test_a_host_that_comes_back_gives_back_what_is_not_its_own_any_more():
    world = cluster(4, 2)
    world.run(5)
    name = world.names[0]
    world.kill(name)
    world.run_until(lambda: settled(world, 1), 5.0)
    world.run(3)
    again = world.restart(name)
    world.run(10)
    assert newest(again).epoch == 1
    assert again.loaded == []


def test_a_host_that_cannot_open_its_blocks_is_passed_over():
    world = World(4)
    world.start()
    broken = world.cells[world.names[1]]
    broken.load_fault = "no space left"
    voters = voters_for(TOY, world.names[:2], world.names, 0)
    world.announce(replace(world.plan(world.names[:2]), voters=voters, terms=Terms(stages_min=2)))
    world.run_until(lambda: settled(world, 1), 10.0)
    view = newest(broken)
    assert broken.name not in [stage.stage.node for stage in view.stages]
    assert world.answer(world.names[3], world.ask(world.names[3])) == toy_tokens((1, 2, 3), 8, 8)


def test_a_rolling_goodbye_is_not_noticed_by_clients():
    world = cluster(4, 2)
    world.run(5)
    leaver, asker = world.cells[world.names[0]], world.names[3]
    leaver.post(StopRequested())
    while not leaver.dead:
        assert world.answer(asker, world.ask(asker)) == toy_tokens((1, 2, 3), 8, 8)
    assert world.answer(asker, world.ask(asker)) == toy_tokens((1, 2, 3), 8, 8)
    assert newest(world.cells[asker]).epoch == 1


def quicken(world, index):
    """One node turns out to be ten times faster than all others."""
    cell = world.cells[world.names[index]]
    fast = Capacity(1, MEMORY, MEMORY, 10**9, 10 * SPEED, ("CPU",))
    cell.post(Sampled(fast, Load(0, 10**9, None, 0, 0), world.wall_ms()))
    cell.node._tables.changed(world.now)


def test_a_faster_node_takes_blocks_without_an_operator():
    world = cluster(4, 2)
    world.run(5)
    quicken(world, 3)
    begun = world.now
    world.run(HOLD_S - 5)
    assert not settled(world, 1)
    world.run_until(lambda: settled(world, 1), 20.0)
    assert HOLD_S - 1 <= world.now - begun <= HOLD_S + 20
    assert world.names[3] in [stage.stage.node for stage in newest(world.cells[world.names[0]]).stages]
    assert world.answer(world.names[2], world.ask(world.names[2])) == toy_tokens((1, 2, 3), 8, 8)


def test_a_lock_postpones_that_until_it_is_taken_away():
    world = cluster(4, 2)
    world.run(5)
    world.cells[world.names[0]].post(LockChanged(held=True))
    quicken(world, 3)
    world.run(2 * HOLD_S)
    assert not settled(world, 1)
    world.cells[world.names[0]].post(LockChanged(held=False))
    world.run_until(lambda: settled(world, 1), 20.0)


def live(world, seconds):
    """Clients ask, sensors are read."""
    end = world.now + seconds
    while world.now < end:
        for cell in world.cells.values():
            if not cell.dead:
                cell.post(Sampled(Capacity(1, MEMORY, MEMORY, 10**9, SPEED, ("CPU",)), LOAD, world.wall_ms()))
        asker = world.names[2]
        assert world.answer(asker, world.ask(asker, tokens_max=40)) == toy_tokens((1, 2, 3), 8, 40)
        world.run(2.0)


def test_a_host_that_is_slower_than_its_profile_is_relieved_and_stays_so():
    world = cluster(4, 2)
    for cell in world.cells.values():
        cell.run_s, cell.block_s = 0.0, 0.0001  # as the profile predicts
    slow = world.cells[world.names[0]]
    slow.block_s = 0.001
    live(world, 2 * HOLD_S)
    view = newest(world.cells[world.names[1]])
    assert view.epoch == 1
    assert slow.name not in [stage.stage.node for stage in view.stages]
    nodes = world.cells[world.names[1]].node.snapshot(world.now).nodes
    (record,) = [peer.state for peer in nodes if peer.node == slow.name]
    assert record.stage_permille > 2000, "what it measured is not forgotten"
    live(world, 2 * HOLD_S)
    view = newest(world.cells[world.names[1]])
    assert slow.name not in [stage.stage.node for stage in view.stages], "and so it does not get its blocks back"
    assert view.epoch == 1, "what was unknown before is no better than what was left"


def joined(factor):
    """A cluster whose fourth node, ``factor`` times as fast as the others, is switched on later."""
    world = World(4)
    world.link_s = LINK_S
    early, late = list(world.cells.values())[:3], world.cells[world.names[3]]
    for cell in early:
        world.boot(cell)
    world.run(0.5)
    voters = voters_for(TOY, world.names[:2], world.names[:3], 0)
    world.announce(replace(world.plan(world.names[:2]), voters=voters, terms=Terms(stages_min=2)))
    world.run_until(lambda: all(cell.deployment() is not None and cell.deployment().serving for cell in early))
    world.run(30)
    world.boot(late)
    fast = Capacity(1, MEMORY, MEMORY, 10**9, int(factor * SPEED), ("CPU",))
    late.post(Sampled(fast, LOAD, world.wall_ms()))
    world.run(HOLD_S + COOL_DOWN_S)
    view = newest(world.cells[world.names[0]])
    return world, late.name, [stage.stage.node for stage in view.stages]


def test_a_newcomer_that_helps_takes_blocks():
    world, late, hosts = joined(5)
    assert late in hosts
    assert world.answer(world.names[2], world.ask(world.names[2])) == toy_tokens((1, 2, 3), 8, 8)


def test_a_newcomer_that_does_not_help_is_left_out_with_its_figures():
    world, late, hosts = joined(0.5)
    assert late not in hosts
    told = world.cells[world.names[0]].node.explain(None, None, world.now)
    (rival,) = [rival for rival in solution(told.problem).rivals if rival.node == late]
    assert rival.score_us > told.current.score_us
