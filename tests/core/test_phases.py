from dataclasses import replace

import pytest

from shoal_agent.core.effects import Broadcast
from shoal_agent.core.events import EnvelopeReceived
from shoal_agent.core.phases import EARLY_REPORTS_MAX
from shoal_protocol.codec import encode_plan
from shoal_protocol.ids import DeploymentId, Digest, Epoch, digest_of
from shoal_protocol.messages import DeploymentPhase, PhaseReported, Plan, PlanAnnounced
from tests.support.cell import Cell
from tests.support.world import TOY, World

LOADING, READY, ACTIVE = DeploymentPhase.LOADING, DeploymentPhase.READY, DeploymentPhase.ACTIVE


def hears(cell: Cell, broadcast: Broadcast, broker: str = "a") -> None:
    cell.post(EnvelopeReceived(broker, broadcast.topic, broadcast.wire))


def announced(world: World, plan: Plan, sequence: int = 1) -> Broadcast:
    return world.said(world.operator, PlanAnnounced(encode_plan(plan)), sequence=sequence)


def rejected(cell: Cell) -> dict[str, int]:
    return dict(cell.node.snapshot(cell.world.now).rejected)


def started(count: int) -> tuple[World, list[Cell]]:
    world = World(count)
    world.start()
    return world, list(world.cells.values())


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
    assert len(cell.node._citizen.staging._phases._early) == EARLY_REPORTS_MAX


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


def test_a_standby_is_heard_too_and_believed_about_its_standing_by_only():
    world, (one, two, three) = started(3)
    three.load_fault = "not yet"
    plan = world.plan([one.name, two.name], standbys=((three.name,), ()))
    world.announce(plan)
    world.run_until(world.serving)
    digest = digest_of(encode_plan(plan))
    hears(one, report(world, three, READY, 900, plan=digest, standing_by=(0, 1)))
    (first, second) = one.deployment().stages
    assert [(each.node, each.open) for each in first.standbys] == [(three.name, True)]
    assert second.standbys == (), "of stage 1 it is no standby, whatever it says"
    assert rejected(one) == {}


def test_a_report_goes_to_everybody_concerned_even_if_no_broker_is_left():
    world, (one, two, three) = started(3)
    world.retained.clear()
    plan = world.plan([one.name], standbys=((three.name,),))
    for cell in (one, two, three):
        hears(cell, announced(world, plan))
    for cell in (one, two, three):
        cell.subscribed = False
    world.run(1.0)
    assert one.deployment().stages[0].standbys[0].open
    assert three.deployment().serving
    assert not two.deployment().serving, "it has no part in it"
