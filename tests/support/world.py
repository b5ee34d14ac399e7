"""A small world in memory: several real nodes, two brokers, links and a toy model, on a virtual clock.

Everything between nodes goes through the real codec and the real framing; what surrounds a node is in ``cell``.
"""

import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, Final

from shoal_agent.core.effects import Broadcast, Effect, Finish, Reject, SendFrame
from shoal_agent.core.events import (
    BrokerConnected,
    EnvelopeReceived,
    FrameReceived,
    ModelAvailable,
    PeerLost,
    RequestArrived,
    Restored,
    Sampled,
    ServicesAvailable,
    TimePassed,
)
from shoal_agent.core.facts import Claim, GenerationRequest, Prompt, Shortcut, TensorHandle, TokenPrompt
from shoal_agent.core.node import Node
from shoal_agent.core.plan import GENESIS_PARENT
from shoal_agent.core.service_classes import RequestClass
from shoal_agent.core.voice import CoreConfig, Identity
from shoal_protocol.codec import encode_plan
from shoal_protocol.envelope import seal
from shoal_protocol.frames import FrameReader, encode_frame
from shoal_protocol.headers import Activation, Header, KvRows, Sampling
from shoal_protocol.ids import (
    ClusterId,
    DeploymentId,
    Digest,
    Epoch,
    Incarnation,
    Instant,
    NodeId,
    Sequence,
    SessionId,
    node_id_of,
)
from shoal_protocol.limits import TTL_MS_MAX
from shoal_protocol.messages import (
    Capacity,
    Cause,
    ControlMessage,
    Endpoint,
    Load,
    Plan,
    PlanAnnounced,
    PlanStage,
    Terms,
)
from shoal_protocol.roster import Member, Role, Roster, TrustedRoster, sign_roster
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.topics import topic_for
from tests.support.cell import Cell
from tests.support.toy import GREEDY, MODEL, NAMES, toy_facts

CLUSTER: Final = ClusterId("ab" * 16)
TOY: Final = DeploymentId("toy")
WALL_MS: Final = 1_700_000_000_000
BROKERS: Final = ("a", "b")
HOPS_MAX: Final = 200_000
MEMORY_BYTES: Final = 10**9
SPEED: Final = 10**9


def capacity(memory_bytes: int = MEMORY_BYTES, speed: int = SPEED) -> Capacity:
    return Capacity(1, memory_bytes, memory_bytes, 10**9, speed, ("CPU",))


def world_of(stages: int, outsiders: int = 1, **options: Any) -> "World":
    """A world that serves: the first ``stages`` nodes are the hosts, the others hold nothing."""
    world = World(stages + outsiders, **options)
    world.start()
    world.deploy(world.names[:stages])
    return world


class World:
    """Virtual time, two brokers, links between all nodes. Node ``names[i]`` is the i-th one made."""

    def __init__(
        self,
        count: int,
        *,
        blocks: int = 8,
        seed: int = 1,
        kv_bytes_max: int = 10**9,
        context: int = 512,
        abroad: int = 0,
        classes: tuple[RequestClass, ...] = (),
        shortcuts: tuple[Shortcut, ...] = (),
    ) -> None:
        """``abroad``: so many of the last nodes stand in a trust zone of their own."""
        self.now = Instant(0.0)
        self.rng = Random(seed)
        self.facts = replace(toy_facts(blocks, context), shortcuts=shortcuts)
        self.classes = classes
        self.kv_bytes_max = kv_bytes_max
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.ties = itertools.count()
        self.log: list[tuple[Instant, NodeId, Effect]] = []
        self.retained: dict[str, bytes] = {}
        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.loses: Callable[[Header], bool] = lambda header: False
        self.link_s = (0.001, 0.004)
        self.last_arrival: dict[tuple[NodeId, NodeId], float] = defaultdict(float)
        self.armed: dict[NodeId, float] = {}
        self.announced = 0
        root = Ed25519Sealer(bytes([1]) * 32)
        self.operator = Ed25519Sealer(bytes([2]) * 32)
        keys = [Ed25519Sealer(bytes([10 + index]) * 32) for index in range(count)]
        roles = [(key, (Role.AGENT,), key.public_key) for key in keys] + [(self.operator, (Role.OPERATOR,), b"")]
        zones = ["home"] * (count - abroad) + ["abroad"] * abroad + ["home"]
        members = tuple(
            Member(node_id_of(key.public_key), key.public_key, held, zone, der)
            for (key, held, der), zone in zip(roles, zones, strict=True)
        )
        roster = Roster(CLUSTER, 1, 4_000_000_000, (root.public_key,), 1, members)
        wire = sign_roster(roster, [root])
        self.roster = TrustedRoster.open(wire, (root.public_key,), 1, WALL_MS // 1000)
        self.cells = {cell.name: cell for cell in (self.cell(key, 1) for key in keys)}
        self.names = list(self.cells)

    def cell(self, key: Ed25519Sealer, incarnation: int) -> Cell:
        name = node_id_of(key.public_key)
        endpoint = Endpoint("127.0.0.1", 1000)
        config = CoreConfig(CLUSTER, endpoint, "", self.kv_bytes_max, "test", classes=self.classes)
        identity = Identity(name, Incarnation(incarnation), key, self.roster)
        rng = Random(self.rng.random())
        return Cell(self, Node(config, identity, rng, self.now), name, key, incarnation)

    def start(self, *, without_services: tuple[NodeId, ...] = ()) -> None:
        for cell in self.cells.values():
            self.boot(cell, with_services=cell.name not in without_services)
        self.run(0.5)

    def boot(
        self,
        cell: Cell,
        *,
        with_services: bool = True,
        with_model: bool = True,
        memory_bytes: int = MEMORY_BYTES,
        speed: int = SPEED,
    ) -> None:
        cell.post(Sampled(capacity(memory_bytes, speed), Load(0, 10**9, None, 0, 0), self.wall_ms()))
        if with_model:
            cell.post(ModelAvailable(self.facts))
        if with_services:
            cell.post(ServicesAvailable(NAMES))
        for name, data in cell.disk.items():
            cell.post(Restored(name, data))
        for broker in BROKERS:
            for topic, wire in list(self.retained.items()):
                cell.post(EnvelopeReceived(broker, topic, wire))
        cell.subscribed = True
        for broker in BROKERS:
            cell.post(BrokerConnected(broker))

    def wall_ms(self) -> int:
        return WALL_MS + int(self.now * 1000)

    # --- time -----------------------------------------------------------------------------------------------------

    def later(self, delay_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (self.now + delay_s, next(self.ties), act))

    def wake(self, cell: Cell) -> None:
        deadline = cell.node.deadline()
        if deadline is not None and self.armed.get(cell.name) != deadline:
            self.armed[cell.name] = deadline
            self.later(max(0.0, deadline - self.now), lambda: self.ring(cell, deadline))

    def ring(self, cell: Cell, deadline: float) -> None:
        if self.armed.get(cell.name) == deadline:
            del self.armed[cell.name]
            cell.post(TimePassed())

    def run(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        end = self.now + seconds
        for _ in range(HOPS_MAX):
            if not self.heap or self.heap[0][0] > end:
                self.now = Instant(end)
                return
            self.step()
        raise AssertionError("the world does not come to rest")

    def sleep(self, seconds: float) -> None:
        """The machine was suspended: ``seconds`` are gone, and everything that was due is late."""
        self.now = Instant(self.now + seconds)

    def run_until(self, done: Callable[[], bool], seconds: float = 60.0) -> None:
        """Let time pass until ``done``, at most ``seconds``."""
        end = self.now + seconds
        while not done():
            assert self.heap, "nothing will ever happen again"
            assert self.heap[0][0] <= end, "what was awaited did not come"
            self.step()

    def step(self) -> None:
        at, _, act = heapq.heappop(self.heap)
        self.now = Instant(max(self.now, at))
        act()

    # --- between nodes --------------------------------------------------------------------------------------------

    def publish(self, effect: Broadcast) -> None:
        if effect.retain:
            self.retained[effect.topic] = effect.wire
        for cell in self.cells.values():
            for broker in BROKERS if cell.subscribed and cell.hears(effect.topic) else ():
                cell.later(self.rng.uniform(0.001, 0.01), EnvelopeReceived(broker, effect.topic, effect.wire))

    def carry(self, source: Cell, effect: SendFrame) -> None:
        """A link is ordered, and delays a frame by a little."""
        data = source.sent(effect)
        head, _ = encode_frame(effect.header, data)
        target = self.cells.get(effect.peer)
        link = (source.name, effect.peer)
        if target is None or target.dead or link in self.cut:
            source.later(0.01, PeerLost(effect.peer, "unreachable"))
            return
        if self.loses(effect.header):
            return
        frame = FrameReader().feed(head + (data or b""))[0]
        assert frame.header == effect.header
        at = max(self.last_arrival[link], self.now + self.rng.uniform(*self.link_s))
        self.last_arrival[link] = at
        self.later(at - self.now, lambda: self.inject(link[0], link[1], effect.header, data))

    def inject(self, source: NodeId, target: NodeId, header: Header, data: bytes | None = None) -> None:
        """``target`` receives a frame, now."""
        cell = self.cells[target]
        payload: TensorHandle | bytes | None = data
        if cell.dead:
            return
        if data is not None and isinstance(header, Activation | KvRows):
            payload = cell.put(data)
        cell.post(FrameReceived(source, header, payload))

    def break_link(self, one: NodeId, other: NodeId) -> None:
        """Nothing passes between the two any more, and both notice."""
        for source, target in ((one, other), (other, one)):
            self.cut.add((source, target))
            self.cells[source].later(0.01, PeerLost(target, "reset"))

    def kill(self, name: NodeId) -> None:
        """The node is gone; those that had a link to it notice."""
        self.cells[name].dead = True
        for cell in self.cells.values():
            cell.later(0.01, PeerLost(name, "reset"))

    def restart(self, name: NodeId, **boot: object) -> Cell:
        """Kill the node and start it again with its key and its disk."""
        self.kill(name)
        old = self.cells[name]
        cell = self.cells[name] = self.cell(old.key, old.incarnation + 1)
        cell.disk, cell.load_s, cell.run_s = old.disk, old.load_s, old.run_s
        self.armed.pop(name, None)
        self.boot(cell, **boot)
        return cell

    # --- plans and requests ---------------------------------------------------------------------------------------

    def plan(
        self,
        hosts: list[NodeId],
        *,
        epoch: int = 0,
        context: int | None = None,
        model: Digest = MODEL,
        standbys: tuple[tuple[NodeId, ...], ...] = (),
    ) -> Plan:
        """The model split evenly over ``hosts``; ``standbys`` of each stage, if there are any."""
        count = len(self.facts.blocks)
        edges = [round(index * count / len(hosts)) for index in range(len(hosts) + 1)]
        backed = standbys or ((),) * len(hosts)
        stages = tuple(PlanStage(host, edges[i], edges[i + 1] - 1, backed[i]) for i, host in enumerate(hosts))
        limit = context or self.facts.context_tokens_max
        cause = Cause.GAIN if epoch else Cause.GENESIS
        terms = Terms(standbys=max(len(nodes) for nodes in backed))
        return Plan(TOY, Epoch(epoch), GENESIS_PARENT, model, limit, stages, terms, cause=cause)

    def said(self, key: Ed25519Sealer, message: ControlMessage, incarnation: int = 1, sequence: int = 1) -> Broadcast:
        """What a member says, as it is published."""
        sender = node_id_of(key.public_key)
        number, life = Sequence(sequence), Incarnation(incarnation)
        wire = seal(key, CLUSTER, sender, life, number, TTL_MS_MAX, self.wall_ms(), message)
        return Broadcast(topic_for(CLUSTER, sender, message), wire, True, True, 300)

    def announce(self, plan: Plan) -> None:
        self.announced += 1
        self.publish(self.said(self.operator, PlanAnnounced(encode_plan(plan)), sequence=self.announced))

    def serving(self) -> bool:
        """Whether every living node believes that the deployment is served."""
        views = [cell.deployment() for cell in self.cells.values() if not cell.dead]
        return all(view is not None and view.serving for view in views)

    def deploy(
        self,
        hosts: list[NodeId] | None = None,
        *,
        context: int | None = None,
        standbys: tuple[tuple[NodeId, ...], ...] = (),
    ) -> None:
        self.announce(self.plan(hosts or self.names, context=context, standbys=standbys))
        self.run_until(self.serving)

    def ask(
        self,
        ingress: NodeId,
        prompt: tuple[int, ...] | Prompt = (1, 2, 3),
        *,
        tokens_max: int | None = 8,
        deadline_s: float = 30.0,
        deployment: DeploymentId = TOY,
        sampling: Sampling = GREEDY,
        stop: tuple[str, ...] = (),
        session: SessionId | None = None,
        claim: Claim | None = None,
        kind: str = "",
    ) -> SessionId:
        session = session or SessionId(self.rng.randbytes(16))
        asked = TokenPrompt(prompt) if isinstance(prompt, tuple) else prompt
        request = GenerationRequest(session, deployment, asked, sampling, tokens_max, stop, deadline_s, claim, kind)
        self.cells[ingress].post(RequestArrived(request))
        return session

    def answer(self, ingress: NodeId, session: SessionId) -> list[int]:
        """Run until the session is over; its tokens."""
        self.run_until(lambda: self.cells[ingress].ending(session) is not None)
        return self.cells[ingress].tokens(session)

    def ended(self, ingress: NodeId, session: SessionId) -> Finish | Reject:
        """Run until the session is over; how it ended."""
        self.answer(ingress, session)
        ending = self.cells[ingress].ending(session)
        assert ending is not None
        return ending

    def hold(self, method: str) -> None:
        """No light service answers ``method`` before ``Cell.release``."""
        for cell in self.cells.values():
            cell.slow = {method}

    def check_idle(self) -> None:
        """Teardown: nothing is left anywhere."""
        for cell in self.cells.values():
            cell.release()
        self.run(2.0)
        for cell in self.cells.values():
            assert cell.dead or not cell.leftovers(), (cell.name, cell.leftovers())
