from dataclasses import replace

import pytest

from shoal_agent.core.effects import Broadcast, Effect, FetchModel, LoadBlocks, Persist, SendFrame, UnloadBlocks
from shoal_agent.core.events import (
    BlocksFailed,
    BlocksLoaded,
    EnvelopeReceived,
    ModelAvailable,
    Restored,
    StopRequested,
)
from shoal_agent.core.facts import RejectCode
from shoal_agent.core.gossip import REFRESH_S
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.staging import BREAK_S, EARLY_REPORTS_MAX, RETIRE_S, SETTLE_S
from shoal_agent.core.tenure import PAST_MAX
from shoal_agent.core.view import DeploymentView
from shoal_protocol.codec import encode_plan
from shoal_protocol.envelope import Envelope, open_envelope
from shoal_protocol.headers import CloseReason, CloseSession, OpenSession, RefusalCode, SessionRefused
from shoal_protocol.ids import DeploymentId, Digest, Epoch, NodeId, SessionId, digest_of
from shoal_protocol.messages import (
    Cause,
    DeploymentPhase,
    NodePhase,
    PhaseReported,
    Plan,
    PlanAnnounced,
    PlanStage,
    SwitchMode,
)
from tests.support.cell import Cell
from tests.support.toy import GREEDY, MODEL, toy_tokens
from tests.support.world import CLUSTER, TOY, World, world_of

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


def test_reports_that_come_before_their_plan_are_kept_for_it():
    world = World(3)
    one, two, late = world.cells.values()
    for cell in (one, two):
        world.boot(cell)
    world.run(0.5)
    world.announce(world.plan(world.names[:2]))
    world.run(1.0)
    retained = sorted(world.retained.items(), key=lambda item: item[0].endswith("cert"))
    world.retained.clear()
    world.boot(late)
    for topic, wire in retained:
        late.post(EnvelopeReceived("a", topic, wire))
    assert late.deployment().serving


def report(world: World, cell: Cell, phase: DeploymentPhase, sequence: int, **changes: object) -> Broadcast:
    message = PhaseReported(TOY, Epoch(0), digest_of(encode_plan(world.plan(world.names))), phase, "")
    return world.said(cell.key, replace(message, **changes), sequence=sequence)


def test_early_reports_about_another_plan_are_not_believed():
    world, (cell, host) = started(2)
    hears(cell, report(world, host, READY, 900, plan=Digest(bytes(32))))
    hears(cell, announced(world, world.plan(world.names)))
    assert cell.deployment().stages[1].phase is None


def test_early_reports_are_bounded():
    world, (cell, host) = started(2)
    for number in range(EARLY_REPORTS_MAX + 5):
        hears(cell, report(world, host, READY, 100 + number, deployment=DeploymentId(f"d{number}")))
    assert len(cell.node._citizen.staging._early) == EARLY_REPORTS_MAX


def test_an_older_report_that_comes_late_from_another_broker_changes_nothing():
    world, (cell, host) = started(2)
    world.deploy()
    hears(cell, report(world, host, ACTIVE, 901))
    hears(cell, report(world, host, LOADING, 900), broker="b")
    assert cell.deployment().serving
    hears(cell, report(world, host, LOADING, 902), broker="b")
    assert not cell.deployment().serving


@pytest.mark.parametrize("changes", [{}, {"plan": Digest(bytes(32))}], ids=["not a host", "another plan"])
def test_a_report_that_cannot_be_is_refused_and_counted(changes):
    world, (cell, host, stranger) = started(3)
    world.announce(world.plan([cell.name, host.name]))
    world.run_until(world.serving)
    speaker = host if changes else stranger
    plan = digest_of(encode_plan(world.plan([cell.name, host.name])))
    hears(cell, report(world, speaker, DeploymentPhase.FAILED, 900, **({"plan": plan} | changes)))
    assert rejected(cell) == {"phase": 1}
    assert cell.deployment().serving


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


def test_a_session_stays_in_the_epoch_it_began_in():
    world = world_of(2, 1)
    one, two, three = world.cells.values()
    for cell in (one, two):
        cell.run_s = 0.05
    session = world.ask(two.name, (1, 2, 3), tokens_max=60)
    world.run(0.5)
    certify(world, [three.name, one.name])
    world.run_until(lambda: serves(world, 1))
    world.run(RETIRE_S + 0.5)
    assert two.ending(session) is None
    assert epoch_of(two, 0).mine is ACTIVE
    assert (0, 4, 7) in held(two)
    assert world.answer(two.name, session) == toy_tokens((1, 2, 3), 8, 60)
    world.run(2 * SETTLE_S)
    assert epoch_of(two, 0).mine is DRAINED
    assert held(two) == []
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


def test_break_before_make_waits_for_sessions_but_not_for_ever():
    world = World(2)
    for cell in world.cells.values():
        world.boot(cell, memory_bytes=NEEDED)
        cell.run_s = 1.0
    world.run(0.5)
    world.deploy()
    one, two = world.cells.values()
    session = world.ask(one.name, tokens_max=100)
    world.run(1.0)
    certify(world, [two.name, one.name], mode=SwitchMode.BREAK_BEFORE_MAKE)
    world.run(BREAK_S - 0.5)
    assert one.ending(session) is None
    assert held(one) == [(0, 0, 3)]
    ending = world.ended(one.name, session)
    assert "had to make room" in ending.detail
    world.run_until(lambda: serves(world, 1))
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
