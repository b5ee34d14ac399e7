import pytest

from shoal_agent.core.effects import Accept, Broadcast, Emit, Finish
from shoal_agent.core.events import CancelRequested, RequestArrived
from shoal_agent.sim.settings import TOY, Settings
from shoal_agent.sim.trace import Trace
from shoal_agent.sim.world import World
from shoal_protocol.envelope import open_envelope
from shoal_protocol.ids import Epoch
from shoal_protocol.messages import Heartbeat, PlanAnnounced
from tests.support.sim import Notes, noted, request, served


def test_it_serves_what_the_operator_deployed():
    world, _ = noted(nodes=4, hosts=3)
    for machine in world.living():
        (view,) = machine.node.snapshot(machine.now()).deployments
        assert (view.deployment, view.epoch, view.serving) == (TOY, Epoch(0), True)
        assert [stage.stage.node for stage in view.stages] == world.hosts()
    assert len(world.hosts()) == 3


def test_everything_published_is_truly_signed():
    world, notes = noted()
    opened = [open_envelope(effect.wire, world.roster, world.roster.cluster) for _, effect in notes.said]
    assert any(isinstance(envelope.message, PlanAnnounced) for envelope in opened)
    assert {envelope.sender for envelope in opened} >= set(world.names)


def test_a_node_without_services_is_served_by_others():
    world, notes = noted(nodes=3, bare_nodes=1)
    bare = world.names[-1]
    assert not world.machines[bare].setup.has_services
    world.ask(bare, request())
    world.run(3.0)
    assert len(notes.effects(bare, Accept)) == len(notes.effects(bare, Finish)) == 1
    assert len(notes.effects(bare, Emit)) > 0


def test_one_seed_is_one_world_and_another_seed_another():
    hashes = []
    for seed in (1, 1, 2):
        world = World(Settings(seed, 3, 2), Notes(), Trace())
        served(world)
        hashes.append(world.trace.hexdigest())
    assert hashes[0] == hashes[1] != hashes[2]


def test_nobody_asks_the_dead_or_the_paused():
    world, notes = noted()
    world.crash(world.names[0])
    world.pause(world.names[1])
    for name in world.names[:2]:
        world.ask(name, request())
    assert notes.requests == []


def test_a_client_may_go_away():
    world, notes = noted()
    asked = request(tokens_max=500)
    world.ask(world.names[0], asked)
    world.cancel(world.names[0], asked.session)
    assert len(notes.events(world.names[0], RequestArrived)) == len(notes.events(world.names[0], CancelRequested)) == 1


def test_hosts_are_nodes():
    with pytest.raises(AssertionError):
        World(Settings(1, 2, 3), Notes(), Trace())


def test_a_broadcast_is_not_published_by_being_said():
    world, notes = noted()
    before = len(notes.said)
    key = world.machines[world.names[0]].setup.sealer
    assert isinstance(world.said(key, Heartbeat(1, 1), 1, 0), Broadcast)
    assert len(notes.said) == before
