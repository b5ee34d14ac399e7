import pytest

from shoal_agent.core.effects import Broadcast, Emit, Finish, Persist, ReleaseTensor
from shoal_agent.core.events import BlocksFailed, BlocksLoaded, PeerLost, Restored, Sampled, StopRequested, TimePassed
from shoal_agent.core.facts import FinishReason
from shoal_agent.sim.machine import SAMPLE_S, BrokenWorld
from shoal_agent.sim.toy import toy_tokens
from shoal_protocol.ids import NodeId
from tests.support.sim import noted, request

STRANGER = NodeId("z" * 32)


@pytest.fixture
def scene():
    world, notes = noted()
    return world, notes, world.machines[world.names[0]]


def test_it_answers_as_the_unsplit_model(scene):
    world, notes, machine = scene
    world.ask(machine.name, request())
    world.run(3.0)
    assert [effect.piece.token for effect in notes.effects(machine.name, Emit)] == toy_tokens((1, 2, 3), 8, 8)
    assert notes.effects(machine.name, Finish)[0].reason is FinishReason.LENGTH
    assert machine.device.leftovers() == []


def test_what_happens_to_the_dead_does_not_happen(scene):
    world, notes, machine = scene
    world.crash(machine.name)
    machine.post(PeerLost(STRANGER, "late"))
    assert notes.events(machine.name, PeerLost) == []


def test_a_paused_process_handles_everything_late_and_in_order(scene):
    world, notes, machine = scene
    world.pause(machine.name)
    seen = len(notes.steps)
    for number in range(3):
        machine.post(PeerLost(STRANGER, str(number)))
    world.run(3.0)
    assert all(step.machine is not machine for step in notes.steps[seen:])
    at_s = world.agenda.now
    machine.resume()
    late = [step for step in notes.steps if step.machine is machine and isinstance(step.event, PeerLost)]
    assert [step.event.reason for step in late if step.event.peer == STRANGER] == ["0", "1", "2"]
    assert all(step.at_s == at_s for step in late)


def test_a_new_life_has_the_disk_and_the_next_number(scene):
    world, notes, machine = scene
    life = machine.life
    world.crash(machine.name)
    world.boot(machine.name)
    assert machine.life == life + 1
    restored = {event.name for event in notes.events(machine.name, Restored)}
    assert restored >= {"council.life", "plan.toy"}
    world.run(2.0)
    assert len(notes.events(machine.name, BlocksLoaded)) == 2


def test_amnesia_takes_the_disk_and_the_number(scene):
    world, notes, machine = scene
    world.crash(machine.name)
    world.boot(machine.name)
    world.crash(machine.name, amnesia=True)
    notes.steps.clear()
    world.boot(machine.name)
    assert machine.life == 1
    assert notes.events(machine.name, Restored) == []


def test_clocks_drift_apart_and_never_go_back():
    world, _ = noted(nodes=4, drift=0.2)
    before = [machine.now() for machine in world.machines.values()]
    world.run(100.0)
    rates = [(machine.now() - was) / 100.0 for machine, was in zip(world.machines.values(), before, strict=True)]
    assert all(0.8 <= rate <= 1.2 for rate in rates)
    assert max(rates) - min(rates) > 0.05


def test_a_fast_clock_beats_more_often():
    world, notes = noted(nodes=6, drift=0.2)
    world.run(60.0)
    beats = {name: len(notes.events(name, TimePassed)) for name in world.names}
    rates = {name: world.machines[name].setup.rate for name in world.names}
    fastest, slowest = max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)
    assert beats[fastest] > beats[slowest]


def test_sensors_are_read_again_and_again(scene):
    world, notes, machine = scene
    before = len(notes.events(machine.name, Sampled))
    world.run(4 * SAMPLE_S)
    assert len(notes.events(machine.name, Sampled)) - before in (3, 4, 5)


def test_whatever_a_node_raises_ends_the_world(scene, monkeypatch):
    _, _, machine = scene
    monkeypatch.setattr(machine.node, "check", lambda: {}["gone"])
    with pytest.raises(BrokenWorld, match="KeyError"):
        machine.post(PeerLost(STRANGER, "x"))


def test_a_broken_contract_ends_the_world(scene, monkeypatch):
    _, _, machine = scene
    monkeypatch.setattr(machine.node, "handle", lambda event, now: [ReleaseTensor(99)])
    with pytest.raises(BrokenWorld, match="KeyError"):
        machine.post(PeerLost(STRANGER, "x"))


def test_what_follows_a_slow_write_waits_for_it_and_so_does_what_arrives(scene, monkeypatch):
    world, notes, machine = scene
    machine.disk_s = 0.5
    said = Broadcast("after", b"", retain=False, at_least_once=False, expiry_s=1)
    handle = machine.node.handle
    wanted = [[Persist("vote", b"1"), said, Persist("vote", b"2")]]
    monkeypatch.setattr(machine.node, "handle", lambda event, now: wanted.pop() if wanted else handle(event, now))
    before = len(notes.said)
    machine.post(PeerLost(STRANGER, "x"))
    machine.post(PeerLost(STRANGER, "y"))
    world.run(0.4)
    assert "vote" not in machine.disk
    assert said not in [effect for _, effect in notes.said[before:]]
    assert len(notes.events(machine.name, PeerLost)) == 1
    world.run(0.2)
    assert machine.disk["vote"] == b"1"
    assert said in [effect for _, effect in notes.said[before:]]
    assert len(notes.events(machine.name, PeerLost)) == 1
    world.crash(machine.name)
    world.run(2.0)
    assert machine.disk["vote"] == b"1"
    assert len(notes.events(machine.name, PeerLost)) == 1


def test_an_agent_that_is_stopped_ends(scene):
    world, _, machine = scene
    machine.post(StopRequested())
    world.run(machine.setup.config.leave_s_max + 1.0)
    assert not machine.alive
    assert not world.brokers.connected("broker-0", machine.name)


def test_an_engine_that_opens_nothing_says_so(scene):
    world, notes, machine = scene
    machine.refuses_blocks = True
    world.crash(machine.name)
    world.boot(machine.name)
    world.run(1.0)
    assert len(notes.events(machine.name, BlocksFailed)) == 1
    assert machine.device.loaded == []
