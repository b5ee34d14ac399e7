from dataclasses import FrozenInstanceError, fields

import pytest

from shoal_agent.core.events import BrokerLost, PeerMisbehaved
from shoal_agent.core.membership import SILENCE_S
from shoal_agent.core.view import DeploymentView, NodeView
from shoal_protocol.ids import digest_of
from shoal_protocol.messages import DeploymentPhase, NodePhase
from tests.support.toy import MODEL
from tests.support.world import TOY, World, world_of


def seen(world: World, index: int = 0) -> NodeView:
    return world.cells[world.names[index]].node.snapshot(world.now)


def test_a_node_that_just_began_believes_nothing():
    view = seen(World(1))
    assert (view.deployments, view.nodes, view.brokers, view.rejected) == ((), (), (), ())
    assert (view.requests, view.sessions, view.shadows, view.kv_bytes) == (0, 0, 0, 0)


def test_a_deployment_is_shown_with_every_stage_and_what_its_host_said():
    world = world_of(2)
    world.run(0.1)
    plan = world.plan(world.names[:2])
    (host,) = seen(world).deployments
    (bystander,) = seen(world, 2).deployments
    assert (host.deployment, host.epoch, host.model, host.context_tokens_max) == (TOY, 0, MODEL, 512)
    assert (host.serving, host.mine) == (True, DeploymentPhase.ACTIVE)
    assert (bystander.serving, bystander.mine) == (True, None)
    for view in (host, bystander):
        assert tuple(stage.stage for stage in view.stages) == plan.stages
        assert [stage.phase for stage in view.stages] == [DeploymentPhase.ACTIVE] * 2
    assert len(host.plan) == len(digest_of(b""))


def test_stages_nobody_reported_have_no_phase():
    world = World(2)
    world.start()
    world.cells[world.names[1]].dead = True
    world.announce(world.plan(world.names))
    world.run(0.2)
    (view,) = seen(world).deployments
    assert [stage.phase for stage in view.stages] == [DeploymentPhase.READY, None]
    assert not view.serving


def test_nodes_come_by_name_with_this_one_among_them():
    world = World(3)
    world.start()
    view = seen(world)
    assert [peer.node for peer in view.nodes] == sorted(world.names)
    assert all(peer.present and peer.state.phase is NodePhase.READY for peer in view.nodes)
    (own,) = [peer for peer in view.nodes if peer.node == view.node]
    assert own.silent_s == 0


def test_a_silent_node_stays_in_the_view_as_absent():
    world = World(2)
    world.start()
    world.kill(world.names[1])
    world.run(SILENCE_S + 2)
    (peer,) = [peer for peer in seen(world).nodes if peer.node == world.names[1]]
    assert not peer.present
    assert peer.silent_s > SILENCE_S


def test_brokers_and_rejections_come_sorted():
    world = World(1)
    world.start()
    cell = world.cells[world.names[0]]
    cell.post(BrokerLost("a", "reset"))
    for reason in ("version", "certificate", "version"):
        cell.post(PeerMisbehaved(None, reason))
    assert seen(world).brokers == (("a", False), ("b", True))
    assert seen(world).rejected == (("certificate", 1), ("version", 2))


def test_it_counts_requests_sessions_and_kv():
    world = world_of(2)
    world.hold("sample")
    sessions = [world.ask(world.names[2], tokens_max=7) for _ in range(3)]
    world.run(0.1)
    assert [seen(world, index).requests for index in range(3)] == [0, 0, 3]
    assert [seen(world, index).sessions for index in range(3)] == [3, 3, 0]
    assert [seen(world, index).kv_bytes for index in range(3)] == [3 * 10 * 4 * 64] * 2 + [0]
    assert len(sessions) == 3


def test_nothing_in_it_can_change_the_node():
    view = seen(world_of(1))
    for part in (view, view.deployments[0], view.deployments[0].stages[0], view.nodes[0]):
        with pytest.raises(FrozenInstanceError):
            setattr(part, fields(part)[0].name, None)
    assert isinstance(view.deployments[0], DeploymentView)


def test_it_counts_the_sessions_that_others_keep_copies_of_here():
    world = World(3)
    world.start()
    world.deploy(world.names[:2], standbys=((world.names[1],), ()))
    world.run(1.0)
    world.ask(world.names[2], tokens_max=40)
    world.run_until(lambda: seen(world, 1).shadows == 1)
    assert [seen(world, index).shadows for index in range(3)] == [0, 1, 0]
