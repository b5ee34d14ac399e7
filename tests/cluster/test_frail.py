"""Whole clusters that cannot back a stage while primaries stay: one moves, and then any single node may be lost."""

from dataclasses import replace

import pytest

from shoal_agent.cli.explain import prose
from shoal_agent.core.backbone import BackboneProblem
from shoal_agent.core.causes import STANDBY_S
from shoal_agent.core.decision import HOLD_S
from shoal_agent.core.effects import Broadcast, LoadBlocks, Solve, UnloadBlocks
from shoal_agent.core.events import Sampled
from shoal_agent.core.plan import voters_for
from shoal_agent.core.validity import COOL_DOWN_S
from shoal_agent.shell.explanation import explanation_json
from shoal_protocol.envelope import open_envelope
from shoal_protocol.messages import Cause, Load, Terms, VoteCast
from tests.support.opinion import SPEED, TOY
from tests.support.toy import toy_tokens
from tests.support.world import CLUSTER, World, capacity

BLOCK_BYTES = 1000 + 64 * 512
LINK_S = (0.0005, 0.0005)


def newest(cell):
    return cell.node.snapshot(cell.world.now).deployments[-1]


def views(world):
    return [newest(cell) for cell in world.cells.values() if not cell.dead]


def at_epoch(world, epoch):
    return all(view.epoch >= epoch and view.serving for view in views(world))


def standbys(world):
    return [[each.node for each in view.standbys if each.open] for view in views(world)[0].stages]


def frail(*, backed=True):
    """Blocks 0-2 on the one node that could back 3-7; the spare ones have room for 0-2 only, and one backs them."""
    world = World(4)
    world.link_s = LINK_S
    for cell, blocks in zip(world.cells.values(), (5.2, 5.2, 3.2, 3.2), strict=True):
        world.boot(cell, memory_bytes=int(blocks * BLOCK_BYTES))
    world.run(1.0)
    plan = world.plan(world.names[:2])
    first, last = plan.stages
    stages = replace(first, last_block=2, standbys=(world.names[2],) * backed), replace(last, first_block=3)
    voters = voters_for(TOY, world.names[:2], world.names, 0)
    world.announce(replace(plan, voters=voters, stages=stages, terms=Terms(stages_min=2)))
    world.run_until(world.serving)
    return world


def firm():
    world = frail()
    world.run_until(lambda: at_epoch(world, 1), 2 * (HOLD_S + COOL_DOWN_S))
    world.run(5.0)
    return world


def test_a_primary_moves_so_that_any_single_node_may_be_lost():
    world = frail()
    one = world.cells[world.names[0]]
    session = world.ask(world.names[1], tokens_max=100, deadline_s=300.0)
    world.run_until(lambda: at_epoch(world, 1), 2 * (HOLD_S + COOL_DOWN_S))
    world.run(5.0)
    assert world.answer(world.names[1], session) == toy_tokens((1, 2, 3), 8, 100)
    stages = [view.stage for view in newest(one).stages]
    assert [(stage.first_block, stage.last_block) for stage in stages] == [(0, 2), (3, 7)]
    assert (stages[0].node in world.names[2:], stages[1].node) == (True, world.names[1])
    assert standbys(world)[1] == [world.names[0]]
    assert all(standbys(world)), "and each is open"
    lost = stages[0].node
    session = world.ask(world.names[1], tokens_max=100, deadline_s=60.0)
    world.run(0.2)
    world.kill(lost)
    assert world.answer(world.names[1], session) == toy_tokens((1, 2, 3), 8, 100)


@pytest.mark.long
def test_first_comes_what_can_be_had_while_the_stages_stay():
    world = frail(backed=False)
    world.run_until(lambda: at_epoch(world, 1), 2 * STANDBY_S)
    world.run(5.0)
    assert sum(not each for each in standbys(world)) == 1
    assert world.cells[world.names[0]].node.explain(None, None, world.now).plan.cause is Cause.THIN
    world.run_until(lambda: at_epoch(world, 2), 2 * (HOLD_S + COOL_DOWN_S))
    world.run(5.0)
    assert all(standbys(world))


@pytest.mark.long
def test_there_is_no_way_back_and_forth():
    world = firm()
    world.run(300)
    assert {view.epoch for view in views(world)} == {1}


@pytest.mark.long
@pytest.mark.parametrize("index", range(4))
def test_then_it_survives_the_loss_of_any_one(index):
    world = firm()
    asker = world.names[index - 1]
    session = world.ask(asker, tokens_max=200, deadline_s=60.0)
    world.run(0.2)
    world.kill(world.names[index])
    assert world.answer(asker, session) == toy_tokens((1, 2, 3), 8, 200)
    assert world.answer(asker, world.ask(asker)) == toy_tokens((1, 2, 3), 8, 8)


@pytest.mark.long
def test_one_voter_asks_for_it_and_all_can_explain_it():
    world = firm()
    asked = [
        cell.name
        for cell in world.cells.values()
        if any(isinstance(solve.problem, BackboneProblem) and solve.problem.edges for solve in cell.asked(Solve))
    ]
    assert len(asked) == 1
    for cell in world.cells.values():
        told = cell.node.explain(None, None, world.now)
        assert told.plan.cause is Cause.FRAIL
        text = " ".join("\n".join(prose(explanation_json(told, None, world.now))).split())
        assert "It makes the deployment survive the loss of any one node: primaries had to move for that." in text
        assert "blocks 3-7 have no standby" in text
        assert "ms/token instead of" in text


@pytest.mark.long
def test_it_is_made_before_what_runs_is_broken():
    world = firm()
    moved = newest(world.cells[world.names[0]]).stages[0].stage.node
    ends = [at for at, name, effect in world.log if name == world.names[0] and isinstance(effect, UnloadBlocks)]
    begins = [at for at, name, effect in world.log if name == moved and isinstance(effect, LoadBlocks)]
    assert begins
    assert ends
    assert begins[0] < ends[-1]


# --- who lies about it ------------------------------------------------------------------------------------------------


def lying(cell):
    """It claims half of what its plans cost."""
    steering = cell.node._citizen.steering
    wish = steering._wish
    steering._wish = lambda scene, plan, now: wish(scene, replace(plan, score_us=plan.score_us // 2), now)


def refusals(world):
    said = (effect.wire for _, _, effect in world.log if isinstance(effect, Broadcast))
    words = (open_envelope(wire, world.roster, CLUSTER).message for wire in said)
    return [word.reason for word in words if isinstance(word, VoteCast) and word.reason.startswith("claim: it claims")]


@pytest.mark.long
def test_nobody_agrees_to_a_plan_that_claims_half_of_what_it_costs():
    world = frail()
    for cell in world.cells.values():
        lying(cell)
    world.run(2 * (HOLD_S + COOL_DOWN_S))
    assert {view.epoch for view in views(world)} == {0}
    assert refusals(world)


@pytest.mark.long
@pytest.mark.parametrize("index", range(3))
def test_one_liar_keeps_nobody_from_a_gain(index):
    """All wish for it: whoever is honest is believed."""
    world = World(4)
    world.link_s = LINK_S
    for cell, times in zip(world.cells.values(), (1, 1, 1, 4), strict=True):
        world.boot(cell)
        able = replace(capacity(), speed_macs_per_s=times * SPEED)
        cell.post(Sampled(able, Load(0, 10**9, None, 0, 0), world.wall_ms()))
    world.run(1.0)
    voters = voters_for(TOY, world.names[:2], world.names, 0)
    plan = replace(world.plan(world.names[:2]), voters=voters, terms=Terms(stages_min=2, standbys=0))
    world.announce(plan)
    world.run_until(world.serving)
    lying(world.cells[voters[index]])
    world.run_until(lambda: at_epoch(world, 1), 2 * (HOLD_S + COOL_DOWN_S))
    told = world.cells[voters[index]].node.explain(None, None, world.now)
    assert (told.plan.cause, world.names[3] in [s.node for s in told.plan.stages]) == (Cause.GAIN, True)
    assert told.plan.score_us * 3 > told.current.score_us * 2, "what it claims is true"
