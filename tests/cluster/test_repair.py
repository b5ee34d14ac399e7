"""Whole clusters that repair and improve themselves, nobody being in charge."""

from dataclasses import replace

import pytest

from shoal_agent.core.causes import STANDBY_S
from shoal_agent.core.decision import HOLD_S
from shoal_agent.core.effects import LoadBlocks
from shoal_agent.core.events import LockChanged, Sampled, StopRequested
from shoal_agent.core.plan import voters_for
from shoal_agent.core.problem import Candidate, problem_of
from shoal_agent.core.standbys import back_up
from shoal_agent.core.validity import COOL_DOWN_S
from shoal_agent.sim.solutions import solution
from shoal_protocol.messages import Capacity, Cause, Load, Terms
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
    return settled_on([cell for cell in world.cells.values() if not cell.dead], epoch)


def settled_on(living, epoch):
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


# --- standbys ---------------------------------------------------------------------------------------------------------


def backing(world, cell):
    """The stages as ``cell`` sees them, and whether each standby is open."""
    stages = newest(cell).stages
    primaries = [(view.stage.node, view.stage.first_block, view.stage.last_block) for view in stages]
    return primaries, [[(each.node, each.open) for each in view.standbys] for view in stages]


def test_a_standby_that_dies_is_replaced_without_a_stage_being_moved():
    world = cluster(4, 2)
    world.run(5)
    one, two, three, four = world.cells.values()
    before, standbys = backing(world, one)
    assert standbys == [[(three.name, True)], [(four.name, True)]]
    loads = len(one.asked(LoadBlocks)), len(two.asked(LoadBlocks))
    session = world.ask(one.name, tokens_max=100, deadline_s=120.0)
    world.kill(four.name)
    world.run(STANDBY_S - 2)
    assert newest(one).epoch == 0, "it may be restarting"
    world.run_until(lambda: settled(world, 1), 10.0)
    world.run(2.0)
    assert backing(world, one) == (before, [[(three.name, True)], [(three.name, True)]])
    assert (len(one.asked(LoadBlocks)), len(two.asked(LoadBlocks))) == (loads[0] + 1, loads[1] + 1)
    assert world.answer(one.name, session) == toy_tokens((1, 2, 3), 8, 100)
    why = one.node.explain(None, None, world.now).plan
    assert (why.cause, why.reason) == (Cause.THIN, f"standby {four.name[:8]} is dead; 1 of 2 standbys are there")
    world.restart(four.name)
    world.run(120)
    assert newest(one).epoch == 1, "what it asks for it has: there is no way back and forth"


def test_a_restart_of_a_standby_burns_no_epoch():
    world = cluster(4, 2)
    world.run(5)
    spare = world.names[3]
    for _ in range(4):
        world.kill(spare)
        world.run(6)
        world.restart(spare)
        world.run(14)
    assert newest(world.cells[world.names[0]]).epoch == 0
    assert backing(world, world.cells[world.names[0]])[1][1] == [(spare, True)]


def test_a_newcomer_makes_up_for_what_was_lacking():
    world = World(3)
    world.link_s = LINK_S
    one, two, late = world.cells.values()
    tight = 4 * (1000 + 64 * 512) + 10_000
    for cell in (one, two):
        world.boot(cell, memory_bytes=tight)
    world.run(1.0)
    plan = world.plan([one.name, two.name])
    voters = voters_for(TOY, [one.name, two.name], [one.name, two.name], 0)
    world.announce(replace(plan, voters=voters, terms=Terms(stages_min=2)))
    world.run_until(lambda: settled_on((one, two), 0))
    world.run(2 * STANDBY_S)
    assert (newest(one).epoch, backing(world, one)[1]) == (0, [[], []])
    why = one.node.explain(None, None, world.now).account.backing.lacks[0].why
    assert why == "they need 0.1 MB, other nodes have at most 0.0 MB left"
    world.boot(late)
    world.run_until(lambda: settled_on((one, two, late), 1), 20.0)
    world.run(2.0)
    assert backing(world, one)[1] == [[(late.name, True)], [(late.name, True)]]
    assert one.node.explain(None, None, world.now).plan.cause is Cause.THIN
    world.run(100)
    assert newest(one).epoch == 1


def test_standbys_are_placed_together_where_one_by_one_they_find_no_room():
    """The spare could hold either stage's, the second host the first's: only one of the two ways has room for both."""
    world = World(3)
    world.link_s = LINK_S
    one, two, three = world.cells.values()
    stage_bytes = 4 * (1000 + 64 * 512)
    for cell, stages in ((one, 1.2), (two, 2.2), (three, 1.2)):
        world.boot(cell, memory_bytes=int(stages * stage_bytes))
    world.run(1.0)
    plan = world.plan([one.name, two.name])
    voters = voters_for(TOY, [one.name, two.name], world.names, 0)
    world.announce(replace(plan, voters=voters, terms=Terms(stages_min=2)))
    world.run_until(lambda: settled(world, 1), 2 * STANDBY_S)
    world.run(2.0)
    before = [(stage.node, stage.first_block, stage.last_block) for stage in plan.stages]
    assert backing(world, one) == (before, [[(two.name, True)], [(three.name, True)]])
    why = one.node.explain(None, None, world.now).plan
    assert (why.cause, why.reason) == (Cause.THIN, "0 of 2 standbys are there; placed together")
    world.kill(one.name)
    world.run(5.0)
    assert newest(two).stages[0].stage.node != one.name
    world.run(100)
    assert newest(two).epoch <= 3, "there is no way back and forth"


def test_a_dead_primary_is_followed_by_its_standby_which_has_the_blocks():
    world = cluster(5, 2)
    world.run(5)
    one, two = list(world.cells.values())[:2]
    heir = newest(one).stages[1].standbys[0].node
    opened = len(world.cells[heir].asked(LoadBlocks))
    session = world.ask(one.name, tokens_max=400, deadline_s=60.0)
    world.run(0.2)
    world.kill(two.name)
    world.run_until(lambda: settled(world, 1), 5.0)
    stages = newest(one).stages
    assert [view.stage.node for view in stages] == [one.name, heir]
    spans = [load.span for load in world.cells[heir].asked(LoadBlocks)[opened:]]
    assert [(span.epoch, span.first_block, span.last_block) for span in spans][:1] == [(1, 4, 7)]
    assert world.answer(one.name, session) == toy_tokens((1, 2, 3), 8, 400)
    world.run(5.0)
    assert all(each.open for view in newest(one).stages for each in view.standbys)
    world.check_idle()
