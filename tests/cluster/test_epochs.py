"""Epochs follow each other in a small cluster: make before break, break before make, and leaving."""

from dataclasses import replace

import pytest

from shoal_agent.core.effects import LoadBlocks, SendFrame, UnloadBlocks
from shoal_agent.core.events import (
    StopRequested,
)
from shoal_agent.core.facts import RejectCode
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.staging import BREAK_S, RETIRE_S
from shoal_agent.core.tenure import PAST_MAX
from shoal_agent.core.view import DeploymentView
from shoal_protocol.codec import encode_plan
from shoal_protocol.headers import CloseReason, CloseSession, OpenSession, RefusalCode, SessionRefused
from shoal_protocol.ids import Epoch, NodeId, SessionId, digest_of
from shoal_protocol.messages import (
    Cause,
    DeploymentPhase,
    NodePhase,
    Plan,
    PlanStage,
    SwitchMode,
)
from tests.support.cell import Cell
from tests.support.toy import GREEDY, toy_tokens
from tests.support.world import TOY, World, world_of

LOADING, READY, ACTIVE = DeploymentPhase.LOADING, DeploymentPhase.READY, DeploymentPhase.ACTIVE
DRAINED, FAILED = DeploymentPhase.DRAINED, DeploymentPhase.FAILED


def started(count: int) -> tuple[World, list[Cell]]:
    world = World(count)
    world.start()
    return world, list(world.cells.values())


# --- epochs -----------------------------------------------------------------------------------------------------------


def certify(world: World, hosts: list[NodeId], epoch: int = 1, **changes: object) -> Plan:
    """Every living node learns of a decided plan, as its council would tell it."""
    plan = replace(world.plan(hosts, epoch=epoch), cause=Cause.GAIN, **changes)
    for cell in world.cells.values():
        if not cell.dead:
            out = Outbox(cell.name)
            cell.node._citizen.staging.adopt(plan, digest_of(encode_plan(plan)), world.now, out)
            world.wake(cell)
    return plan


def epoch_of(cell: Cell, epoch: int) -> DeploymentView | None:
    views = cell.node.snapshot(cell.world.now).deployments
    return next((view for view in views if view.epoch == epoch), None)


def serves(world: World, epoch: int) -> bool:
    """Every living node serves ``epoch``, and no host of it is only ready any more."""
    views = [epoch_of(cell, epoch) for cell in world.cells.values() if not cell.dead]
    return all(view.serving and view.mine in (None, ACTIVE) for view in views)


def held(cell: Cell) -> list[tuple[int, int, int]]:
    """Spans open on a node: epoch, first and last block."""
    return sorted((span.epoch, span.first_block, span.last_block) for span in cell.loaded)


def test_the_old_epoch_serves_until_the_new_one_is_ready():
    world = world_of(2, 1)
    one, two, three = world.cells.values()
    three.load_s = 2.0
    certify(world, [one.name, three.name])
    world.run(1.5)
    assert world.answer(two.name, world.ask(two.name)) == toy_tokens((1, 2, 3), 8, 8)
    assert not epoch_of(one, 1).serving
    world.run_until(lambda: serves(world, 1))
    world.run(3.0)
    assert [held(cell) for cell in (one, two, three)] == [[(1, 0, 3)], [], [(1, 4, 7)]]
    assert [epoch_of(cell, 0).mine for cell in (one, two)] == [DRAINED, DRAINED]
    assert world.answer(two.name, world.ask(two.name)) == toy_tokens((1, 2, 3), 8, 8)
    world.check_idle()


def test_only_blocks_that_change_owner_are_opened():
    """Counted where they are opened: the engine shares a block among the spans that hold it."""
    world = world_of(2, 1)
    one, two, three = world.cells.values()
    opened = {cell.name: [] for cell in (one, two, three)}
    stages = (PlanStage(one.name, 0, 1), PlanStage(three.name, 2, 4), PlanStage(two.name, 5, 7))
    before = len(world.log)
    certify(world, world.names, stages=stages)
    world.run_until(lambda: serves(world, 1))
    world.run(3.0)
    open_blocks = {one.name: {0, 1, 2, 3}, two.name: {4, 5, 6, 7}, three.name: set()}
    holders = {name: [*blocks] for name, blocks in open_blocks.items()}
    for _, name, effect in world.log[before:]:
        if isinstance(effect, LoadBlocks | UnloadBlocks):
            span = range(effect.span.first_block, effect.span.last_block + 1)
            if isinstance(effect, LoadBlocks):
                opened[name] += [block for block in span if block not in holders[name]]
                holders[name] += span
            else:
                for block in span:
                    holders[name].remove(block)
    assert opened == {one.name: [], two.name: [], three.name: [2, 3, 4]}
    assert [sorted(holders[name]) for name in (one.name, two.name, three.name)] == [[0, 1], [5, 6, 7], [2, 3, 4]]


def test_a_session_that_is_over_soon_ends_in_the_epoch_it_began_in():
    world = world_of(2, 1)
    one, two, three = world.cells.values()
    for cell in (one, two):
        cell.run_s = 0.05
    session = world.ask(two.name, (1, 2, 3), tokens_max=22)
    world.run(0.5)
    certify(world, [three.name, one.name])
    world.run_until(lambda: serves(world, 1))
    world.run(1.0)
    assert two.ending(session) is None
    assert epoch_of(two, 0).mine is ACTIVE
    assert (0, 4, 7) in held(two)
    assert world.answer(two.name, session) == toy_tokens((1, 2, 3), 8, 22)
    world.run(RETIRE_S)
    assert epoch_of(two, 0).mine is DRAINED
    assert held(two) == []
    world.check_idle()


def test_a_long_session_moves_and_does_not_keep_the_old_epoch():
    world = world_of(2, 1)
    one, two, three = world.cells.values()
    for cell in world.cells.values():
        cell.run_s = 0.05
    session = world.ask(two.name, (1, 2, 3), tokens_max=80)
    world.run(0.5)
    certify(world, [three.name, one.name])
    world.run_until(lambda: serves(world, 1))
    world.run(RETIRE_S + 1.0)
    assert two.ending(session) is None
    assert (epoch_of(two, 0).mine, held(two)) == (DRAINED, [])
    assert world.answer(two.name, session) == toy_tokens((1, 2, 3), 8, 80)
    world.check_idle()


def test_a_superseded_epoch_takes_no_sessions_soon_after_and_refuses_politely():
    world = world_of(2, 1)
    one, two, three = world.cells.values()
    plan = certify(world, [one.name, three.name])
    world.run_until(lambda: serves(world, 1))
    stale = OpenSession(TOY, Epoch(0), SessionId(b"s" * 16), 1, 20, 1000, GREEDY)
    world.run(RETIRE_S / 2)
    world.inject(three.name, two.name, stale)
    assert two.node.snapshot(world.now).sessions == 1
    world.inject(three.name, two.name, CloseSession(stale.session, CloseReason.FINISHED))
    world.run(RETIRE_S)
    world.inject(three.name, two.name, stale)
    refusals = [effect.header for effect in two.asked(SendFrame) if isinstance(effect.header, SessionRefused)]
    assert [refusal.code for refusal in refusals] == [RefusalCode.NOT_HOSTED]
    assert plan.epoch == 1


def test_an_epoch_that_never_served_is_given_back():
    world = world_of(2, 2)
    one, two, three, four = world.cells.values()
    four.load_fault = "no room on disk"
    certify(world, [three.name, four.name])
    world.run(1.0)
    assert held(three) == [(1, 0, 3)]
    certify(world, [one.name, three.name], epoch=2)
    world.run_until(lambda: serves(world, 2))
    world.run(3.0)
    assert [held(cell) for cell in (one, two, three, four)] == [[(2, 0, 3)], [], [(2, 4, 7)], []]
    assert epoch_of(three, 1).mine is epoch_of(four, 1).mine is DRAINED


def test_blocks_that_are_being_opened_are_given_back_when_their_epoch_is_superseded():
    world = world_of(2, 1)
    one, two, three = world.cells.values()
    three.load_s = 5.0
    certify(world, [one.name, three.name])
    world.run(1.0)
    certify(world, [two.name, one.name], epoch=2)
    world.run_until(lambda: serves(world, 2))
    world.run(6.0)
    assert [held(cell) for cell in (one, two, three)] == [[(2, 4, 7)], [(2, 0, 3)], []]


def failures(cell: Cell) -> int:
    return cell.counts["staging_failed", TOY]


def test_a_host_that_fails_is_told_once():
    world = world_of(2, 1)
    one, two, three = world.cells.values()
    three.load_fault = "tampered"
    certify(world, [one.name, three.name])
    world.run(25.0)
    assert [failures(cell) for cell in (one, two, three)] == [1, 1, 1]
    assert world.answer(one.name, world.ask(one.name)) == toy_tokens((1, 2, 3), 8, 8), "the epoch before goes on"


def test_the_time_to_open_blocks_is_limited():
    world = world_of(2, 1)
    one, two, three = world.cells.values()
    three.load_s = 100.0
    certify(world, [one.name, three.name], staging_ms=7000)
    world.run(6.9)
    assert failures(two) == 0
    world.run(0.2)
    assert [failures(cell) for cell in (one, two, three)] == [1, 1, 1]
    (late,) = [entry.text for entry in two.node.story().about("toy/1") if "not ready" in entry.text]
    assert late == f"not ready after 7 s: {three.name[:8]}"


def test_a_lost_hosts_last_word_is_not_believed():
    world, cells = started(2)
    world.deploy()
    one, two = cells
    one.node._tables.tenures.lost.add(two.name)
    assert not one.deployment().serving
    assert world.ended(one.name, world.ask(one.name)).code is RejectCode.NOT_READY
    one.node._tables.tenures.lost.discard(two.name)
    assert world.answer(one.name, world.ask(one.name)) == toy_tokens((1, 2, 3), 8, 8)


NEEDED = 4 * 1000 + 4 * 64 * 512
"""Half the toy model and one session's KV."""


def tight(count: int, **changes: object) -> tuple[World, list[Cell]]:
    """Nodes that have room for half the model and not a block more; epoch 0 serves on two of them."""
    world = World(count)
    for cell in world.cells.values():
        world.boot(cell, memory_bytes=NEEDED)
    world.run(0.5)
    world.deploy(world.names[:2])
    certify(world, [world.names[1], world.names[0]], **changes)
    return world, list(world.cells.values())


def test_a_host_without_room_for_both_epochs_says_so():
    world, cells = tight(2)
    world.run(1.0)
    assert [epoch_of(cell, 1).mine for cell in cells] == [FAILED, FAILED]
    detail = epoch_of(cells[0], 1).stages[1].detail
    assert detail == f"blocks 4-7 need {NEEDED + 4000} bytes beside 0-3 of epoch 0, {NEEDED} are offered"
    assert world.answer(cells[0].name, world.ask(cells[0].name)) == toy_tokens((1, 2, 3), 8, 8)


def test_break_before_make_ends_old_sessions_first_and_is_announced():
    world, (one, two) = tight(2, mode=SwitchMode.BREAK_BEFORE_MAKE)
    world.run_until(lambda: serves(world, 1))
    order = [
        type(effect)
        for _, name, effect in world.log
        if name == one.name and isinstance(effect, LoadBlocks | UnloadBlocks)
    ]
    assert order == [LoadBlocks, UnloadBlocks, LoadBlocks]
    assert [held(cell) for cell in (one, two)] == [[(1, 4, 7)], [(1, 0, 3)]]
    assert any("break before make" in entry.text for entry in one.node.story().about("toy/1"))
    assert world.answer(one.name, world.ask(one.name)) == toy_tokens((1, 2, 3), 8, 8)


def test_break_before_make_waits_for_sessions_but_not_for_ever_and_they_go_on_in_the_new_epoch():
    world = World(2)
    for cell in world.cells.values():
        world.boot(cell, memory_bytes=NEEDED)
        cell.run_s = 0.1
    world.run(0.5)
    world.deploy()
    one, two = world.cells.values()
    session = world.ask(one.name, tokens_max=70, deadline_s=60.0)
    world.run(1.0)
    certify(world, [two.name, one.name], mode=SwitchMode.BREAK_BEFORE_MAKE)
    world.run(BREAK_S - 0.5)
    assert one.ending(session) is None
    assert held(one) == [(0, 0, 3)]
    world.run_until(lambda: serves(world, 1), 2.0)
    assert one.ending(session) is None
    assert world.answer(one.name, session) == toy_tokens((1, 2, 3), 8, 70)
    world.check_idle()


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_a_host_that_is_asked_to_stop_serves_until_others_do():
    world = World(3)
    world.start()
    world.announce(replace(world.plan(world.names[:2]), voters=tuple(world.names)))
    world.run_until(world.serving)
    one, two, three = world.cells.values()
    two.post(StopRequested())
    world.run(0.5)
    assert not two.dead
    (seen,) = [peer for peer in one.node.snapshot(world.now).nodes if peer.node == two.name]
    assert seen.state.phase is NodePhase.DRAINING
    assert world.answer(one.name, world.ask(one.name)) == toy_tokens((1, 2, 3), 8, 8)
    certify(world, [one.name, three.name])
    world.run_until(lambda: two.dead)
    assert world.answer(one.name, world.ask(one.name)) == toy_tokens((1, 2, 3), 8, 8)
    assert world.now < 10


def test_a_host_does_not_wait_for_others_for_ever():
    world = World(2)
    one, two = world.cells.values()
    world.boot(one)
    world.boot(two, memory_bytes=1000)
    world.run(0.5)
    world.announce(replace(world.plan(world.names[:1]), voters=tuple(world.names)))
    world.run_until(world.serving)
    begun = world.now
    one.post(StopRequested())
    world.run_until(lambda: one.dead)
    assert world.now - begun == pytest.approx(10.0, abs=0.1)


def test_when_everybody_leaves_nobody_waits():
    world = World(3)
    world.start()
    world.announce(replace(world.plan(world.names), voters=tuple(world.names)))
    world.run_until(world.serving)
    begun = world.now
    for cell in world.cells.values():
        cell.post(StopRequested())
    world.run_until(lambda: all(cell.dead for cell in world.cells.values()))
    assert world.now - begun < 2


def test_the_past_is_forgotten_in_the_end():
    world = world_of(2)
    one, two = world.names[:2]
    for epoch in range(1, 3 * PAST_MAX):
        certify(world, [one, two] if epoch % 2 else [two, one], epoch=epoch)
        world.run(0.5)
    world.run(RETIRE_S + 1)
    cell = world.cells[one]
    epochs = [view.epoch for view in cell.node.snapshot(world.now).deployments]
    assert epochs == list(range(2 * PAST_MAX - 1, 3 * PAST_MAX))
    assert len(held(cell)) == 1
