"""Standing by, in a small cluster: a block takes 1000 bytes and, with a session of 512 tokens, 32 KiB of KV."""

from dataclasses import replace

from shoal_agent.core.effects import Broadcast, FetchBlocks, LoadBlocks, UnloadBlocks
from shoal_agent.core.events import ModelAvailable, Sampled
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.reserve import RETRY_S, TRIES_MAX
from shoal_agent.core.view import StageView
from shoal_protocol.codec import encode_plan
from shoal_protocol.envelope import open_envelope
from shoal_protocol.ids import Digest, NodeId, digest_of
from shoal_protocol.messages import DeploymentPhase, Load, PhaseReported, Plan, PlanStage, SwitchMode
from tests.support.cell import Cell
from tests.support.toy import toy_tokens
from tests.support.world import CLUSTER, World, capacity

LOADING, READY, ACTIVE = DeploymentPhase.LOADING, DeploymentPhase.READY, DeploymentPhase.ACTIVE
DRAINED, FAILED = DeploymentPhase.DRAINED, DeploymentPhase.FAILED
BLOCK, KV = 1000, 64 * 512
HALF = 4 * (BLOCK + KV)


def started(count: int, **memory: int) -> tuple[World, list[Cell]]:
    world = World(count)
    for index, cell in enumerate(world.cells.values()):
        world.boot(cell, memory_bytes=memory.get(f"of_{index}", 10**9))
    world.run(0.5)
    return world, list(world.cells.values())


def reports(world: World, name: NodeId) -> list[PhaseReported]:
    sent = [effect for _, who, effect in world.log if who == name and isinstance(effect, Broadcast)]
    messages = [open_envelope(effect.wire, world.roster, CLUSTER).message for effect in sent]
    return [message for message in messages if isinstance(message, PhaseReported)]


def phases(world: World, name: NodeId) -> list[DeploymentPhase]:
    """The phases a host went through, without repetitions."""
    told = [report.phase for report in reports(world, name)]
    return [phase for index, phase in enumerate(told) if index == 0 or told[index - 1] is not phase]


def stages(cell: Cell, epoch: int = 0) -> tuple[StageView, ...]:
    views = cell.node.snapshot(cell.world.now).deployments
    return next(view.stages for view in views if view.epoch == epoch)


def standbys(cell: Cell, epoch: int = 0) -> list[list[tuple[NodeId, bool]]]:
    return [[(each.node, each.open) for each in stage.standbys] for stage in stages(cell, epoch)]


def told(cell: Cell, epoch: int = 0) -> list[str]:
    return [entry.text for entry in cell.node.story().about(f"toy/{epoch}")]


def certify(world: World, plan: Plan) -> None:
    for cell in world.cells.values():
        out = Outbox(cell.name)
        cell.node._citizen.staging.adopt(plan, digest_of(encode_plan(plan)), world.now, out)
        world.wake(cell)


def test_two_nodes_back_each_other_once_their_own_stages_are_ready():
    world, (one, two) = started(2)
    one.load_s = 0.5
    world.announce(world.plan(world.names, standbys=((two.name,), (one.name,))))
    world.run(0.3)
    assert [len(cell.asked(LoadBlocks)) for cell in (one, two)] == [1, 2], "one's own comes first"
    world.run(1.0)
    assert standbys(one) == standbys(two) == [[(two.name, True)], [(one.name, True)]]
    spans = [[(load.span.first_block, load.span.last_block) for load in cell.asked(LoadBlocks)] for cell in (one, two)]
    assert spans == [[(0, 3), (4, 7)], [(4, 7), (0, 3)]]
    assert [phases(world, cell.name) for cell in (one, two)] == [[LOADING, READY, ACTIVE]] * 2
    assert told(one)[-1] == "blocks 4-7 hold 1 bytes, to stand by"
    hosted = [(held.first_block, held.last_block) for held in one.node.snapshot(world.now).nodes[0].state.hosted]
    assert hosted == [(0, 3), (4, 7)]


def test_nobody_waits_for_a_node_that_only_stands_by():
    world, (one, two, three) = started(3)
    three.load_s = 5.0
    world.deploy([one.name, two.name], standbys=((three.name,), (three.name,)))
    world.run(1.0)
    assert phases(world, one.name) == [LOADING, READY, ACTIVE]
    assert phases(world, three.name) == [LOADING]
    assert standbys(one) == [[(three.name, False)]] * 2
    assert world.answer(two.name, world.ask(two.name)) == toy_tokens((1, 2, 3), 8, 8)
    world.run(6.0)
    assert phases(world, three.name) == [LOADING, READY, ACTIVE]
    assert standbys(one) == [[(three.name, True)]] * 2
    assert one.deployment().route == (one.name, two.name)
    assert reports(world, three.name)[-1].standing_by == (0, 1)


def test_an_epoch_whose_primary_is_gone_serves_over_its_standby():
    world, (one, two, three) = started(3)
    world.deploy([one.name, two.name], standbys=((three.name,), (three.name,)))
    world.run(1.0)
    world.kill(one.name)
    world.run_until(lambda: two.deployment().route != (one.name, two.name))
    assert (two.deployment().route, two.deployment().serving) == ((three.name, two.name), True)


def test_without_room_it_stays_without_and_everybody_can_see_why():
    world, (one, two, three) = started(3, of_1=2 * HALF - 1, of_2=HALF - 1)
    world.deploy([one.name, two.name], standbys=((two.name, three.name), (one.name,)))
    world.run(1.0)
    assert standbys(two) == [[(two.name, False), (three.name, False)], [(one.name, True)]]
    beside = f"less than it should: blocks 0-3 need {2 * HALF} bytes beside 4-7 of epoch 0, {2 * HALF - 1} are offered"
    alone = f"less than it should: blocks 0-3 need {HALF} bytes, {HALF - 1} are offered"
    assert [each.detail for each in stages(one)[0].standbys] == [beside, alone]
    assert f"this node stands by for {beside}" in told(two)
    assert [phases(world, cell.name) for cell in (two, three)] == [[LOADING, READY, ACTIVE]] * 2
    assert not three.asked(LoadBlocks)
    for cell in (two, three):
        (ahead,) = cell.asked(FetchBlocks)
        assert (ahead.span.first_block, ahead.span.last_block) == (0, 3), "its weights wait here for the room"
        assert one.name in ahead.sources
    assert not one.asked(FetchBlocks)


def test_it_opens_as_soon_as_there_is_room():
    world, (one, two) = started(2, of_1=2 * HALF - 1)
    world.deploy(standbys=((two.name,), (one.name,)))
    world.run(1.0)
    two.post(Sampled(capacity(2 * HALF), Load(0, 10**9, None, 0, 0), world.wall_ms()))
    two.post(ModelAvailable(world.facts))
    world.run(1.0)
    assert standbys(one) == [[(two.name, True)], [(one.name, True)]]
    assert stages(one)[1].detail == ""
    assert told(two)[-2] == "this node stands by for all that it should"


def test_blocks_that_cannot_be_opened_are_no_failure_of_the_host_and_tried_again():
    world, (one, two) = started(2)
    one.load_s = 0.5
    world.announce(world.plan(world.names, standbys=((two.name,), (one.name,))))
    world.run_until(lambda: len(two.asked(LoadBlocks)) == 1)
    two.load_fault = "a shard is missing"
    world.run(2.0)
    assert phases(world, two.name) == [LOADING, READY, ACTIVE]
    assert stages(one)[1].detail == "less than it should: blocks 0-3: a shard is missing"
    assert standbys(one)[0] == [(two.name, False)]
    two.load_fault = ""
    world.run(RETRY_S)
    assert standbys(one)[0] == [(two.name, True)]
    assert stages(one)[1].detail == ""


def test_what_fails_again_and_again_is_left_alone_in_the_end():
    world, (one, two, three) = started(3)
    three.load_fault = "no"
    world.deploy([one.name, two.name], standbys=((three.name,), ()))
    world.run(RETRY_S * (TRIES_MAX + 5))
    assert len(three.asked(LoadBlocks)) == TRIES_MAX
    assert three.deployment().mine is ACTIVE
    three.load_fault = ""
    three.post(ModelAvailable(world.facts))
    world.run(1.0)
    assert standbys(one)[0] == [(three.name, True)], "until the package comes anew"


def test_a_node_that_cannot_get_the_package_is_heard_all_the_same():
    world = World(3)
    one, two, three = world.cells.values()
    for cell in (one, two):
        world.boot(cell)
    world.boot(three, with_model=False)
    world.run(0.5)
    facts, world.facts = world.facts, replace(world.facts, model=Digest(bytes(32)))
    world.announce(world.plan([one.name, two.name], standbys=((three.name,), ())))
    world.run(1.0)
    assert phases(world, three.name)[:2] == [LOADING, READY]
    assert stages(one)[0].standbys[0].detail == "less than it should: asked 2 peers"
    world.facts = facts
    three.post(ModelAvailable(facts))
    world.run(1.0)
    assert standbys(one)[0] == [(three.name, True)]


def test_what_it_stood_by_for_goes_with_its_epoch():
    world, (one, two, three) = started(3)
    world.deploy([one.name, two.name], standbys=((three.name,), (three.name,)))
    world.run(1.0)
    certify(world, world.plan([one.name, two.name], epoch=1, standbys=((three.name,), (one.name,))))
    world.run(5.0)
    assert sorted((span.epoch, span.first_block) for span in three.loaded) == [(1, 0)]
    assert sorted((span.epoch, span.first_block) for span in one.loaded) == [(1, 0), (1, 4)]
    assert standbys(two, 1) == [[(three.name, True)], [(one.name, True)]]
    assert phases(world, three.name)[-1] is ACTIVE
    world.check_idle()


def test_blocks_of_two_epochs_are_counted_once():
    world, (one, two) = started(2, of_0=2 * HALF, of_1=2 * HALF)
    world.deploy(standbys=((two.name,), (one.name,)))
    world.run(1.0)
    certify(world, world.plan([two.name, one.name], epoch=1, standbys=((one.name,), (two.name,))))
    world.run_until(lambda: standbys(one, 1) == [[(one.name, True)], [(two.name, True)]])
    assert not [text for text in told(one) if "makes room" in text]


def test_standbys_of_the_epoch_before_make_room_for_a_stage_of_ones_own():
    world, (one, two, three) = started(3, of_2=HALF + 3 * BLOCK)
    world.deploy([one.name, two.name], standbys=((three.name,), ()))
    world.run(1.0)
    assert standbys(one)[0] == [(three.name, True)]
    certify(world, world.plan([one.name, three.name], epoch=1, standbys=((two.name,), (two.name,))))
    world.run(0.02)
    assert told(three)[-1] == "this node makes room: it stands by for stages (0,) no longer"
    effects = [effect for _, name, effect in world.log if name == three.name]
    order = [(type(each), each.span.epoch) for each in effects if isinstance(each, LoadBlocks | UnloadBlocks)]
    assert order == [(LoadBlocks, 0), (UnloadBlocks, 0), (LoadBlocks, 1)]
    world.run(5.0)
    assert one.deployment() is not None
    assert standbys(one, 1) == [[(two.name, True)], [(two.name, True)]]
    assert phases(world, three.name)[-1] is ACTIVE
    world.check_idle()


def test_what_is_stood_by_for_goes_first_if_the_old_epoch_has_to_break():
    world, (one, two, three) = started(3)
    world.deploy([one.name, two.name], standbys=((two.name,), (three.name,)))
    world.run(1.0)
    two.post(Sampled(capacity(7 * (BLOCK + KV)), Load(0, 10**9, None, 0, 0), world.wall_ms()))
    two.run_s = 0.1
    session = world.ask(two.name, tokens_max=60)
    world.run(0.5)
    plan = world.plan([two.name, three.name], epoch=1, standbys=((one.name,), (one.name,)))
    wide = (PlanStage(two.name, 0, 6, (one.name,)), PlanStage(three.name, 7, 7, (one.name,)))
    certify(world, replace(plan, stages=wide, mode=SwitchMode.BREAK_BEFORE_MAKE))
    world.run(0.5)
    spans = [(span.epoch, span.first_block) for span in two.loaded]
    assert spans == [(0, 4)], "its own serves on while sessions need it"
    assert not standbys(one)[0][0][1]
    assert world.answer(two.name, session) == toy_tokens((1, 2, 3), 8, 60)
    world.run_until(lambda: standbys(three, 1) == [[(one.name, True)], [(one.name, True)]])
    world.check_idle()
