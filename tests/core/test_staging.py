from dataclasses import replace

import pytest

from shoal_agent.core.effects import Broadcast, Effect, FetchModel, LoadBlocks, Persist
from shoal_agent.core.events import (
    BlocksFailed,
    BlocksLoaded,
    EnvelopeReceived,
    ModelAvailable,
    Restored,
)
from shoal_agent.core.facts import RejectCode
from shoal_agent.core.gossip import REFRESH_S
from shoal_protocol.codec import encode_plan
from shoal_protocol.envelope import Envelope, open_envelope
from shoal_protocol.ids import Digest, Epoch, NodeId
from shoal_protocol.messages import (
    DeploymentPhase,
    PhaseReported,
    Plan,
    PlanAnnounced,
    PlanStage,
)
from tests.support.cell import Cell
from tests.support.toy import MODEL, toy_tokens
from tests.support.world import CLUSTER, World, world_of

LOADING, READY, ACTIVE = DeploymentPhase.LOADING, DeploymentPhase.READY, DeploymentPhase.ACTIVE
DRAINED, FAILED = DeploymentPhase.DRAINED, DeploymentPhase.FAILED


def said(world: World, name: NodeId, kind: type) -> list[tuple[float, Envelope]]:
    """What ``name`` broadcast of ``kind``, and when."""
    sent = [(at, effect) for at, who, effect in world.log if who == name and isinstance(effect, Broadcast)]
    opened = [(at, open_envelope(effect.wire, world.roster, CLUSTER)) for at, effect in sent]
    return [(at, envelope) for at, envelope in opened if isinstance(envelope.message, kind)]


def hears(cell: Cell, broadcast: Broadcast, broker: str = "a") -> None:
    cell.post(EnvelopeReceived(broker, broadcast.topic, broadcast.wire))


def announced(world: World, plan: Plan, sequence: int = 1) -> Broadcast:
    return world.said(world.operator, PlanAnnounced(encode_plan(plan)), sequence=sequence)


def phases(world: World, name: NodeId) -> list[DeploymentPhase]:
    """The phases a host went through, without repetitions."""
    told = [envelope.message.phase for _, envelope in said(world, name, PhaseReported)]
    return [phase for index, phase in enumerate(told) if index == 0 or told[index - 1] is not phase]


def rejected(cell: Cell) -> dict[str, int]:
    return dict(cell.node.snapshot(cell.world.now).rejected)


def started(count: int) -> tuple[World, list[Cell]]:
    world = World(count)
    world.start()
    return world, list(world.cells.values())


# --- who may announce what --------------------------------------------------------------------------------------------


def test_only_an_operator_begins_a_deployment():
    world, (cell, other) = started(2)
    forged = world.said(other.key, PlanAnnounced(encode_plan(world.plan(world.names))), sequence=99)
    hears(cell, forged)
    assert rejected(cell) == {"sender": 1}
    assert cell.deployment() is None


def test_an_operator_announces_the_first_epoch_only():
    world, (cell,) = started(1)
    hears(cell, announced(world, world.plan(world.names, epoch=1)))
    assert rejected(cell) == {"sender": 1}
    assert cell.deployment() is None


def test_a_plan_with_a_stranger_in_it_is_refused_and_told():
    world, (cell,) = started(1)
    stranger = NodeId("a" * 32)
    hears(cell, announced(world, replace(world.plan(world.names), stages=(PlanStage(stranger, 0, 7),))))
    assert rejected(cell) == {"invalid-plan": 1}
    assert cell.deployment() is None
    assert not [name for name in cell.disk if name.startswith("plan")]
    (entry,) = cell.node.story().about("toy/0")
    assert entry.text == f"refused: {stranger} is not in the roster"
    assert world.ended(cell.name, world.ask(cell.name)).code is RejectCode.UNKNOWN_MODEL


def test_another_plan_for_the_same_epoch_is_refused_and_counted():
    world, cells = started(2)
    world.deploy()
    first = cells[0].deployment()
    world.announce(world.plan(world.names[::-1]))
    world.run(1)
    for cell in cells:
        assert rejected(cell) == {"equivocation": 1}
        assert cell.counts["plans_rejected", "equivocation"] == 1
        assert cell.deployment().plan == first.plan
    assert cells[0].loaded == [cells[0].loaded[0]]
    assert world.answer(world.names[0], world.ask(world.names[0])) == toy_tokens((1, 2, 3), 8, 8)


def test_the_same_plan_said_again_changes_nothing():
    world, cells = started(2)
    world.deploy()
    world.announce(world.plan(world.names))
    world.run(1)
    assert [len(cell.asked(LoadBlocks)) for cell in cells] == [1, 1]
    assert [rejected(cell) for cell in cells] == [{}, {}]


def test_a_plan_is_on_disk_before_anybody_hears_of_it():
    world, (cell,) = started(1)
    before = len(world.log)
    hears(cell, announced(world, world.plan(world.names)))
    world.run(0.01)
    kinds: list[type[Effect]] = [type(effect) for _, _, effect in world.log[before:]]
    assert kinds.index(Persist) < kinds.index(Broadcast)


# --- phases -----------------------------------------------------------------------------------------------------------


def test_hosts_are_active_only_when_all_are_ready():
    world, cells = started(3)
    cells[2].load_s = 3.0
    world.announce(world.plan(world.names))
    world.run(2.0)
    assert [cell.deployment().mine for cell in cells] == [READY, READY, LOADING]
    assert not any(cell.deployment().serving for cell in cells)
    world.run_until(world.serving)
    world.run(0.1)
    assert [phases(world, name) for name in world.names] == [[LOADING, READY, ACTIVE]] * 3
    assert cells[0].asked(LoadBlocks)[0].span.last_block == 2


def test_a_node_that_hosts_nothing_loads_nothing_and_serves_as_ingress():
    world = world_of(2, 1)
    bystander = world.cells[world.names[2]]
    view = bystander.deployment()
    assert (view.mine, view.serving) == (None, True)
    assert not bystander.asked(LoadBlocks)
    assert not said(world, bystander.name, PhaseReported)


def lacking() -> tuple[World, Cell, Cell]:
    """Two nodes, of which the second does not have the package."""
    world = World(2)
    one, two = world.cells.values()
    world.boot(one)
    world.boot(two, with_model=False)
    world.run(0.5)
    return world, one, two


def test_a_host_without_the_package_fetches_it_from_whom_it_knows_to_have_it():
    world, one, two = lacking()
    world.announce(world.plan(world.names))
    world.run_until(world.serving)
    assert two.asked(FetchModel) == [FetchModel(MODEL, (one.name,))]
    assert two.asked(LoadBlocks)[0].sources == (one.name,)
    assert phases(world, two.name) == [LOADING, READY, ACTIVE]
    assert world.answer(one.name, world.ask(one.name)) == toy_tokens((1, 2, 3), 8, 8)


def test_a_host_that_begins_before_it_knows_anybody_names_who_has_the_package_once_it_does():
    """It may have been killed while it fetched."""
    world, (one, two) = started(2)
    world.deploy()
    two.load_s, begun = 30.0, len(world.log)
    world.retained = {topic: wire for topic, wire in world.retained.items() if not topic.endswith("/state")}
    world.restart(two.name)
    world.run(20.0)
    asked = [effect for _, name, effect in world.log[begun:] if name == two.name]
    assert [effect.sources for effect in asked if isinstance(effect, LoadBlocks)] == [()]
    assert [effect for effect in asked if isinstance(effect, FetchModel)] == [FetchModel(MODEL, (one.name,))]
    world.run_until(world.serving)


def test_a_host_that_cannot_get_the_package_fails_and_loads_once_it_has_it():
    world, one, two = lacking()
    world.facts = replace(world.facts, model=Digest(bytes(32)))
    world.announce(world.plan(world.names))
    world.run(1.0)
    assert [stage.phase for stage in one.deployment().stages] == [READY, FAILED]
    assert one.deployment().stages[1].detail == "asked 1 peers"
    assert not one.deployment().serving
    world.facts = replace(world.facts, model=MODEL)
    two.post(ModelAvailable(world.facts))
    world.run_until(world.serving)
    assert phases(world, two.name)[:4] == [LOADING, FAILED, LOADING, READY]
    assert world.answer(one.name, world.ask(one.name)) == toy_tokens((1, 2, 3), 8, 8)


def test_a_host_without_the_memory_says_so_to_everybody():
    world = World(2)
    one, two = world.cells.values()
    world.boot(one)
    world.boot(two, memory_bytes=5000)
    world.run(0.5)
    world.announce(world.plan(world.names))
    world.run(1.0)
    (stage,) = [stage for stage in one.deployment().stages if stage.stage.node == two.name]
    assert stage.phase is DeploymentPhase.FAILED
    assert stage.detail == f"blocks 4-7 need {4 * 1000 + 4 * 64 * 512} bytes, 5000 are offered"
    assert not two.asked(LoadBlocks)


def test_blocks_that_cannot_be_opened_fail_in_one_line_and_may_be_tried_again():
    world, (one, two) = started(2)
    two.load_fault = "block 5: tampered " * 100
    world.announce(world.plan(world.names))
    world.run(1.0)
    assert one.deployment().stages[1].phase is DeploymentPhase.FAILED
    assert len(one.deployment().stages[1].detail) == 200
    two.load_fault = ""
    two.post(ModelAvailable(world.facts))
    world.run_until(world.serving)


def test_an_answer_of_the_engine_nobody_waits_for_changes_nothing():
    world, cells = started(2)
    world.deploy()
    span = cells[0].loaded[0]
    for stale in (BlocksLoaded(span, 1), BlocksFailed(span, "late"), BlocksFailed(replace(span, epoch=Epoch(9)), "no")):
        cells[0].post(stale)
    assert world.serving()


def test_a_host_that_restarts_pauses_serving_and_resumes_by_itself():
    world, cells = started(2)
    world.deploy()
    world.run(1)
    cells[1].load_s = 2.0
    again = world.restart(world.names[1])
    world.run(1.0)
    assert not cells[0].deployment().serving
    assert world.ended(cells[0].name, world.ask(cells[0].name)).code is RejectCode.NOT_READY
    world.run_until(world.serving)
    world.run(0.1)
    assert again.deployment().mine is ACTIVE
    assert world.answer(cells[0].name, world.ask(cells[0].name)) == toy_tokens((1, 2, 3), 8, 8)
    world.check_idle()


def test_a_plan_comes_back_from_disk_when_no_broker_has_it():
    world, cells = started(2)
    world.deploy()
    world.retained.clear()
    again = world.restart(world.names[1])
    assert again.deployment().plan == cells[0].deployment().plan
    world.run_until(world.serving, 2 * REFRESH_S)
    assert world.answer(again.name, world.ask(again.name)) == toy_tokens((1, 2, 3), 8, 8)
    written = [effect.name for effect in again.asked(Persist)]
    assert written.count("plan.toy") == 1, "what was on disk is not written again"


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x92" + b"\x91" * 1000])
def test_a_damaged_disk_is_noted_and_the_node_goes_on(data):
    world, (cell,) = started(1)
    cell.post(Restored("plan.toy", data))
    assert cell.deployment() is None
    assert cell.notes[-1].text == "stored record refused"
    world.deploy()
