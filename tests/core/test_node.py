import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal_agent
import shoal_models
import shoal_protocol
from shoal_agent.core.budgets import Terms
from shoal_agent.core.effects import Broadcast, Reject
from shoal_agent.core.events import (
    BrokerConnected,
    BrokerLost,
    EnvelopeReceived,
    FrameReceived,
    PeerConnected,
    PeerLost,
    PeerMisbehaved,
    PipelineEnded,
    Sampled,
    TimePassed,
)
from shoal_agent.core.node import Node
from shoal_agent.core.service_classes import RequestClass
from shoal_agent.core.voice import CoreConfig, Identity
from shoal_protocol.codec import HEADERS
from shoal_protocol.headers import Activation, Credit, Header, Hello, Probe, ProbeAnswered
from shoal_protocol.ids import Epoch, Incarnation, Instant, NodeId, SessionId
from shoal_protocol.messages import Capacity, Endpoint, Heartbeat, Load, NodePhase
from tests.support.cell import Cell
from tests.support.protocol import MESSAGES, by, node_of, records, sealed
from tests.support.protocol import STRANGER as OUTSIDER
from tests.support.schedule import ACTIONS, Schedule, trace_of
from tests.support.toy import toy_tokens
from tests.support.world import CLUSTER, TOY, World, world_of

ROOT = Path(__file__).parents[2]
START = Instant(5.0)


def lone() -> Cell:
    world = World(1)
    world.start()
    return next(iter(world.cells.values()))


# --- its face ---------------------------------------------------------------------------------------------------------


def test_it_asks_for_nothing_before_something_happens():
    world = World(1)
    key = world.cells[world.names[0]].key
    identity = Identity(world.names[0], Incarnation(1), key, world.roster)
    config = CoreConfig(CLUSTER, Endpoint("127.0.0.1", 1), "", 1, "test")
    node = Node(config, identity, Random(1), Instant(5.0))
    assert node.deadline() == 5.0
    assert node.story().entries() == ()
    node.check()


def test_a_run_of_a_pipeline_is_one_request_of_its_class():
    world = World(1)
    identity = Identity(world.names[0], Incarnation(1), world.cells[world.names[0]].key, world.roster)
    config = CoreConfig(
        CLUSTER, Endpoint("127.0.0.1", 1), "", 1, "test", classes=(RequestClass("search", 100.0, 0.25),)
    )
    node = Node(config, identity, Random(1), Instant(5.0))
    for kind, late in (("search", True), ("search", False), ("", True), ("unknown", True)):
        assert node.handle(PipelineEnded(kind, late), Instant(5.0)) == []
    assert dict(node.snapshot(Instant(5.0)).promises) == {"search": pytest.approx(0.5)}


def test_hours_cost_money_also_where_nothing_tells_what_the_machine_draws():
    world = World(1)
    identity = Identity(world.names[0], Incarnation(1), world.cells[world.names[0]].key, world.roster)
    terms = Terms(power_w=5.0, price_per_hour=1.0, money_per_hour=0.5, moved_bytes_per_s=100.0)
    node = Node(CoreConfig(CLUSTER, Endpoint("127.0.0.1", 1), "", 1, "test", terms=terms), identity, Random(1), START)
    node.handle(Sampled(Capacity(1, 1, 1, 1, 1, ()), Load(1000, 1, None, 0, 0), 1, None, 5.0, 700), START)
    budgets = dict(node.snapshot(START).budgets)
    assert budgets["money"] == pytest.approx(5.0), "ten seconds of the allowance in five"
    assert budgets["energy"] == 0.0
    assert budgets["moved"] == pytest.approx(2.0), "seven seconds' bytes in five"


def test_it_wakes_when_it_said_and_not_before():
    cell = lone()
    due = cell.node.deadline()
    assert cell.node.handle(TimePassed(), Instant(due - 0.001)) == []
    assert cell.node.deadline() == due
    assert cell.node.handle(TimePassed(), due) != []
    assert cell.node.deadline() > due


def test_it_is_starting_until_a_broker_hears_it():
    world = World(2)
    cell, other = world.cells.values()
    cell.post(BrokerLost("a", "refused"))
    assert cell.node._tables.phase is NodePhase.STARTING
    world.boot(cell)
    assert cell.node._tables.phase is NodePhase.READY
    assert cell.node.snapshot(world.now).brokers == (("a", True), ("b", True))
    cell.post(BrokerLost("a", "reset"))
    assert cell.node.snapshot(world.now).brokers == (("a", False), ("b", True))
    assert not other.dead


def test_a_new_broker_hears_everything_at_once():
    world = world_of(1)
    cell = world.cells[world.names[0]]
    before = len(cell.asked(Broadcast))
    cell.post(BrokerConnected("c"))
    assert {effect.topic.rsplit("/", 1)[-1] for effect in cell.asked(Broadcast)[before:]} == {"state", cell.name}


def test_links_and_misbehaviour_are_counted():
    cell = lone()
    cell.post(PeerConnected(cell.name))
    cell.post(PeerLost(cell.name, "reset"))
    cell.post(PeerMisbehaved(cell.name, "checksum"))
    cell.post(PeerMisbehaved(None, "certificate"))
    assert (cell.counts["links_opened", "data"], cell.counts["links_lost", "data"]) == (1, 1)
    assert cell.counts["peers_misbehaved", "checksum"] == 1
    assert cell.node.snapshot(cell.world.now).rejected == (("certificate", 1), ("checksum", 1))
    assert [dict(note.fields)["peer"] for note in cell.notes] == [cell.name, "unknown"]


@pytest.mark.parametrize(
    "header", [Hello(1, node_of(OUTSIDER), Incarnation(1), 1), Credit(1), Probe(1), ProbeAnswered(1)], ids=str
)
def test_what_the_data_plane_keeps_to_itself_costs_its_payload_and_nothing_else(header):
    cell = lone()
    cell.post(FrameReceived(cell.name, header, cell.put(b"tensor")))
    assert not cell.tensors
    cell.post(FrameReceived(cell.name, header, None))


# --- what brokers bring -----------------------------------------------------------------------------------------------


def test_every_refusal_is_counted_under_its_reason_and_no_copy_is():
    world = World(2)
    world.start()
    cell, other = world.cells.values()
    world.run(1)
    before = dict(cell.node.snapshot(world.now).rejected)
    said = world.said(other.key, Heartbeat(1, 1), sequence=500)
    foreign = world.said(OUTSIDER, Heartbeat(1, 1))
    forged = said.wire[:-1] + bytes([said.wire[-1] ^ 1])
    late = world.said(other.key, Heartbeat(1, 1), incarnation=0, sequence=501)
    operator = world.said(world.operator, Heartbeat(1, 1))
    for broker, topic, wire in [
        ("a", said.topic, said.wire),
        ("b", said.topic, said.wire),
        ("a", said.topic, said.wire),
        ("a", said.topic, forged),
        ("a", foreign.topic, foreign.wire),
        ("a", operator.topic, operator.wire),
        ("a", late.topic, late.wire),
        ("a", "elsewhere", world.said(other.key, Heartbeat(2, 1), sequence=502).wire),
        ("a", said.topic, sealed(Heartbeat(1, 1))),
        ("a", said.topic, bytes(300_000)),
    ]:
        cell.post(EnvelopeReceived(broker, topic, wire))
    assert before == {}
    assert dict(cell.node.snapshot(world.now).rejected) == {
        "cluster": 1,
        "malformed": 1,
        "oversized": 1,
        "replay": 2,
        "sender": 2,
        "signature": 1,
    }
    assert cell.counts["messages_rejected", "replay"] == 2
    assert cell.counts["messages_duplicate", "b"] > 0
    assert all(note.level == "warning" for note in cell.notes)


VICTIM = lone()
WIRES = [effect.wire for effect in VICTIM.asked(Broadcast)] + [sealed(message, **by(OUTSIDER)) for message in MESSAGES]
TOPICS = [effect.topic for effect in VICTIM.asked(Broadcast)]
PIECES = st.sampled_from([b"\x91" * 700, b"\x81\xc0\xc0", b"\xdd\xff\xff\xff\xff", b"\xc1", b""]) | st.binary(
    max_size=9
)


@settings(max_examples=1500, deadline=None)
@given(
    st.sampled_from(TOPICS) | st.text(max_size=80),
    st.binary(max_size=200)
    | st.tuples(st.sampled_from(WIRES), st.integers(0, 400), st.integers(0, 400), PIECES).map(
        lambda cut: cut[0][: cut[1]] + cut[3] + cut[0][cut[2] :]
    ),
)
def test_no_bytes_of_a_broker_make_it_raise(topic, wire):
    VICTIM.post(EnvelopeReceived("a", topic, wire))


# --- what peers bring -------------------------------------------------------------------------------------------------

SESSIONS = [SessionId(bytes([number]) * 16) for number in range(2)]
FRAMES = st.tuples(
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from(HEADERS).flatmap(records),
    st.none() | st.binary(max_size=40).map(lambda raw: raw[: len(raw) // 8 * 8]),
    st.fixed_dictionaries(
        {},
        optional={
            "deployment": st.just(TOY),
            "epoch": st.just(Epoch(0)),
            "session": st.sampled_from(SESSIONS),
            "stage": st.integers(0, 2),
            "position": st.integers(0, 4),
            "token_count": st.integers(1, 4),
            "tokens_max": st.integers(1, 600),
            "call": st.integers(1, 6),
        },
    ),
)


def plausible(header: Header, changes: dict[str, object], data: bytes | None) -> Header:
    """``header`` nearer to what is going on. A tensor has the size its shape says: the framing sees to that."""
    fitting = {name: value for name, value in changes.items() if hasattr(header, name)}
    if isinstance(header, Activation):
        fitting["shape"] = (1, len(data or b"") // 8)
    return replace(header, **fitting)


@settings(max_examples=40, deadline=None)
@given(st.lists(FRAMES, min_size=5, max_size=30))
def test_no_frame_of_a_peer_makes_it_raise_or_disturbs_a_session(frames):
    """The frames come from and to every node, hosts and ingress of a stream among them, but never name its session."""
    world = world_of(2)
    ingress = world.names[2]
    session = world.ask(ingress, tokens_max=12)
    for source, target, header, data, changes in frames:
        world.inject(world.names[source], world.names[target], plausible(header, changes, data), data)
        world.run(0.002)
    assert world.answer(ingress, session) == toy_tokens((1, 2, 3), 8, 12)


# --- whatever happens -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 999)), max_size=40))
def test_whatever_happens_each_request_ends_once_and_its_tokens_are_right(seed, steps):
    schedule = Schedule(seed)
    for action, pick in steps:
        schedule.act(action, pick)
    schedule.finish()


def in_a_process_of_its_own(seed: int, hash_seed: int) -> str:
    roots = [Path(module.__file__).parents[1] for module in (shoal_agent, shoal_models, shoal_protocol)]
    paths = os.pathsep.join(map(str, [ROOT, *roots]))
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": paths}
    command = [sys.executable, "-m", "tests.support.schedule", str(seed)]
    return subprocess.run(
        command, env=environment, cwd=ROOT, check=True, timeout=60, capture_output=True, text=True
    ).stdout


def test_the_same_events_have_the_same_effects_in_every_process():
    """Also where strings hash differently: nothing follows the order of a set."""
    expected = trace_of(7)
    assert trace_of(8) != expected
    assert [in_a_process_of_its_own(7, hash_seed) for hash_seed in (1, 2)] == [expected, expected]


def test_a_node_never_addresses_itself_on_the_wire():
    world = world_of(3)
    name = world.names[0]
    world.answer(name, world.ask(name))
    assert not [effect for _, who, effect in world.log if getattr(effect, "peer", NodeId("")) == who]
    assert not world.cells[name].asked(Reject)
