"""Whole clusters with both ends of the model at home: planned, served, struck, left and repaired.

Two of five nodes are at home; the first two blocks and the last one may be nowhere else, and no node has room for all.
The second node at home is slow, so the first one holds both ends and the second one stands by for both.
"""

from dataclasses import replace

import pytest

from shoal_agent.core.causes import trigger_of
from shoal_agent.core.effects import LoadBlocks
from shoal_agent.core.events import BlocksFailed, BlocksLoaded, StopRequested
from shoal_agent.core.facts import Standing
from shoal_agent.core.outlook import Outlooks
from shoal_agent.core.plan import folded, hosts_of, own_stages, voters_for
from shoal_agent.core.planner import plan_genesis
from shoal_agent.core.problem import Candidate, Infeasible, problem_of
from shoal_agent.core.validity import Sight, Validity
from shoal_protocol.messages import DeploymentPhase, Terms
from shoal_protocol.trust import GuardedBlocks
from tests.support.opinion import MEMORY, NOW, SPEED, TOY, Opinion
from tests.support.toy import MODEL, toy_tokens
from tests.support.world import World

AT_HOME = (GuardedBlocks(0, 1, ("home",)), GuardedBlocks(7, 7, ("home",)))
BLOCK_BYTES = 1000 + 64 * 512 * 2
"""With KV for two sessions of the whole context."""
ROOM = 5 * BLOCK_BYTES + 5000
SPEEDS = (SPEED, SPEED // 10, SPEED, SPEED, SPEED)
PROMPT = (1, 2, 3)


def genesis(world, *, homes=2, room=ROOM, **terms):
    """The plan that an operator's planner makes for it."""
    limits = Terms(sessions=2, guarded=AT_HOME, **terms)
    zones = [world.roster.member(name).zone for name in world.names]
    able = tuple(
        Candidate(name, speed, room, zone=zone) for name, speed, zone in zip(world.names, SPEEDS, zones, strict=True)
    )
    able = tuple(c for n, c in enumerate(able) if c.zone == "abroad" or n < homes)
    return plan_genesis(
        problem_of(world.facts, limits, 512, able),
        TOY,
        MODEL,
        limits,
        lambda hosts: voters_for(TOY, hosts, world.names, limits.faulty),
    )


def u_world(*, room=ROOM, **terms):
    world = World(5, abroad=3)
    world.link_s = (0.0005, 0.0005)
    for cell, speed in zip(world.cells.values(), SPEEDS, strict=True):
        world.boot(cell, memory_bytes=room, speed=speed)
    world.run(0.5)
    found = genesis(world, **terms)
    world.announce(found.plan)
    return world, found.plan


def newest(world):
    living = [cell for cell in world.cells.values() if not cell.dead]
    return [cell.node.snapshot(world.now).deployments[-1] for cell in living]


def stages_now(world):
    return [view.stage for view in newest(world)[-1].stages]


def guarded(world):
    """Whether nothing of the newest plan is where it must not be."""
    first, *_, last = stages_now(world)
    return {*hosts_of([first, last]), *first.standbys, *last.standbys} <= set(world.names[:2])


def settled(world, epoch):
    living = [cell for cell in world.cells.values() if not cell.dead]
    views = newest(world) if all(cell.deployment() is not None for cell in living) else []
    return bool(views) and all(view.epoch >= epoch and view.serving for view in views)


def begun(world, asker, tokens):
    session = world.ask(asker, PROMPT, tokens_max=tokens, deadline_s=120.0)
    world.run_until(lambda: len(world.cells[asker].tokens(session)) >= 20)
    return session


def test_the_planner_bends_the_model_where_one_trusted_node_has_to_hold_both_ends():
    world = World(5, abroad=3)
    found = genesis(world, homes=1)
    assert folded(found.plan.stages)
    assert hosts_of(found.plan.stages)[0] == world.names[0]
    assert len(found.plan.voters) == 3, "two hosts and a witness: who holds two stages has one vote"
    assert [stage.standbys for stage in found.plan.stages[::2]] == [(), ()], "nobody else may hold them"
    assert isinstance(genesis(world, homes=1, room=2 * BLOCK_BYTES), Infeasible), "three blocks are no two"


def test_without_a_guard_a_model_is_bent_only_if_that_is_better():
    world = World(5, abroad=3)
    able = tuple(Candidate(name, SPEED, ROOM) for name in world.names)
    terms = Terms(sessions=2)
    found = plan_genesis(problem_of(world.facts, terms, 512, able), TOY, MODEL, terms, lambda hosts: hosts)
    assert not folded(found.plan.stages)


def test_both_ends_serve_from_one_node_and_answers_are_those_of_the_whole_model():
    world, plan = u_world()
    world.run_until(world.serving)
    assert folded(plan.stages)
    home = world.cells[plan.stages[0].node]
    assert own_stages(plan, home.name) == (0, 2)
    ours = [(span.first_block, span.last_block) for span in home.loaded]
    assert ours[:2] == [(stage.first_block, stage.last_block) for stage in plan.stages[::2]]
    for asker in (home.name, world.names[1], world.names[4]):
        session = world.ask(asker, PROMPT, tokens_max=40)
        assert world.answer(asker, session) == toy_tokens(PROMPT, 8, 40)
    world.run(2.0)
    world.check_idle()


def test_a_session_at_both_ends_of_a_node_is_one_session():
    world, plan = u_world()
    world.run_until(world.serving)
    session = begun(world, world.names[4], 60)
    serving = {name: world.cells[name].node.snapshot(world.now).sessions for name in hosts_of(plan.stages)}
    assert serving == dict.fromkeys(hosts_of(plan.stages), 1)
    assert len(world.answer(world.names[4], session)) == 60


def test_it_says_that_it_is_ready_when_both_are_open():
    world, plan = u_world()
    home = world.cells[plan.stages[0].node]
    home.load_s = 10.0
    world.run_until(lambda: len(home.asked(LoadBlocks)) == 2)
    head, tail = [load.span for load in home.asked(LoadBlocks)]
    home.post(BlocksLoaded(head, 1))
    assert home.deployment().mine is DeploymentPhase.LOADING
    home.post(BlocksLoaded(tail, 1))
    assert home.deployment().mine is DeploymentPhase.READY


@pytest.mark.parametrize("asking", [0, pytest.param(4, marks=pytest.mark.long)])
def test_a_lost_middle_is_replaced_by_its_standby_and_no_token_differs(asking):
    world, plan = u_world()
    world.run_until(world.serving)
    middle = plan.stages[1]
    asker = next(n for n in world.names[asking:] + world.names if n != middle.node)
    session = begun(world, asker, 200)
    world.kill(middle.node)
    assert world.answer(asker, session) == toy_tokens(PROMPT, 8, 200)
    world.run_until(lambda: settled(world, 1), 10.0)
    assert middle.node not in hosts_of(stages_now(world))
    assert guarded(world)


@pytest.mark.parametrize("way", ["killed", pytest.param("leaves", marks=pytest.mark.long)])
def test_a_lost_home_is_followed_by_the_other_one_with_both_ends(way):
    world, plan = u_world()
    world.run_until(world.serving)
    home, other = plan.stages[0].node, next(n for n in world.names[:2] if n != plan.stages[0].node)
    assert plan.stages[0].standbys == plan.stages[2].standbys == (other,)
    world.run(1.0)
    asker = next(n for n in world.names[2:] if n != plan.stages[1].node)
    session = begun(world, asker, 300)
    if way == "killed":
        world.kill(home)
    else:
        world.cells[home].post(StopRequested())
    assert world.answer(asker, session) == toy_tokens(PROMPT, 8, 300)
    world.run_until(lambda: settled(world, 1), 15.0)
    stages = stages_now(world)
    assert [stage.node for stage in stages[::2]] == [other, other]
    assert guarded(world)
    again = world.ask(asker, PROMPT, tokens_max=10)
    assert world.answer(asker, again) == toy_tokens(PROMPT, 8, 10)


def test_a_home_that_restarts_holds_both_again():
    world, plan = u_world(standbys=0)
    world.run_until(world.serving)
    home = plan.stages[0].node
    world.restart(home, memory_bytes=ROOM)
    world.run_until(lambda: settled(world, 0), 10.0)
    asker = world.names[4]
    assert world.answer(asker, world.ask(asker, PROMPT)) == toy_tokens(PROMPT, 8, 8)
    assert newest(world)[0].epoch == 0, "an agent restarts faster than it is replaced"
    assert len(world.cells[home].loaded) == 2


def test_who_cannot_open_one_of_both_gives_back_the_other():
    world, plan = u_world(standbys=0)
    home, other = world.cells[plan.stages[0].node], next(n for n in world.names[:2] if n != plan.stages[0].node)
    world.run_until(lambda: len(home.asked(LoadBlocks)) == 2)
    (_, tail) = [load.span for load in home.asked(LoadBlocks)]
    home.loaded.remove(tail)
    home.post(BlocksFailed(tail, "a shard is broken"))
    assert home.loaded == [], "the one that was being opened is not wanted any more"
    world.run_until(lambda: settled(world, 1), 15.0)
    assert [stage.node for stage in stages_now(world)[::2]] == [other, other]
    assert home.name not in hosts_of(stages_now(world))


def test_whose_memory_holds_either_end_and_not_both_refuses():
    world = World(5, abroad=3)
    world.link_s = (0.0005, 0.0005)
    for cell in world.cells.values():
        world.boot(cell, memory_bytes=2 * BLOCK_BYTES + 5000)
    world.run(0.5)
    plan = world.plan([world.names[index] for index in (0, 2, 3, 0)])
    voters = voters_for(TOY, hosts_of(plan.stages), world.names, 0)
    world.announce(replace(plan, terms=Terms(sessions=2, guarded=AT_HOME, standbys=0), voters=voters))
    world.run(2.0)
    (home, *_) = newest(world)
    assert home.mine is DeploymentPhase.FAILED
    assert "blocks 6-7 need" in home.stages[0].detail


@pytest.mark.long
def test_liars_may_be_voters_too():
    world, plan = u_world(faulty=1)
    assert len(plan.voters) == len(set(plan.voters)) == 4
    world.run_until(world.serving)
    world.run(5.0)
    world.kill(plan.stages[1].node)
    world.run_until(lambda: settled(world, 1), 10.0)
    assert guarded(world)


# --- one voter --------------------------------------------------------------------------------------------------------


def bereaved():
    me = Opinion()
    me.record(me.names[1], standing=Standing.DEAD)
    return me


def judge(me, plan):
    trigger = trigger_of(me.tables, me.here, me.head, {}, NOW)
    outlook = Outlooks(me.here, me.tables, me.roster).of(me.head.plan, me.facts, {}, NOW)
    return Validity(me.here, me.tables, me.voice, MEMORY).judge(plan, Sight(me.head, trigger, outlook, 3_600_000), NOW)


def test_one_node_may_hold_both_ends_and_has_one_vote():
    bereft = bereaved()
    bent = bereft.after((0, 0, 1), (2, 2, 6), (0, 7, 7))
    assert len(bent.voters) == 3
    assert judge(bereft, bent) == (True, "")
    twice = replace(bent, voters=(bereft.here, bereft.here, bereft.names[2]))
    assert judge(bereft, twice) == (False, "voters: one is named twice")


def test_the_memory_of_both_ends_counts():
    bereft = bereaved()
    bent = bereft.after((0, 0, 1), (2, 2, 6), (0, 7, 7))
    # Blocks 0, 1 and 7 with KV for 512 tokens; 2 and 3, which it has now, stay open meanwhile.
    needed = 5 * 1000 + 3 * 512 * 64
    bereft.sense(needed)
    assert judge(bereft, bent) == (True, "")
    bereft.sense(needed - 1)
    verdict, why = judge(bereft, bent)
    assert verdict is False
    assert why.startswith(f"capacity: blocks 7-7 need {needed} bytes beside 0-1 of epoch 1, 0-3 of epoch 0")
