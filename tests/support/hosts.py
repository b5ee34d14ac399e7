"""Hosts without an engine: they say what hosts say, in real envelopes on the real topics, and open no blocks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from shoal_agent.config import BrokerSection, load_config
from shoal_agent.core.effects import Broadcast
from shoal_agent.core.events import EnvelopeReceived, Event
from shoal_agent.shell.clock import wall_ms
from shoal_agent.shell.identity import open_roster, open_sealer
from shoal_agent.shell.mqtt import MqttControlPlane
from shoal_agent.shell.mqtt_address import broker_address
from shoal_models.package import Store
from shoal_protocol.codec import decode_plan
from shoal_protocol.envelope import open_envelope, seal
from shoal_protocol.errors import UnknownSender
from shoal_protocol.ids import Digest, Incarnation, NodeId, digest_of, node_id_of
from shoal_protocol.ids import Sequence as EnvelopeSequence
from shoal_protocol.messages import (
    Capacity,
    ControlMessage,
    DeploymentPhase,
    Endpoint,
    Heartbeat,
    Load,
    NodePhase,
    NodeState,
    PhaseReported,
    Plan,
    PlanAnnounced,
    RecoveryOrdered,
)
from shoal_protocol.roster import TrustedRoster
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.topics import agent_filters, topic_for
from tests.support.broker import running
from tests.support.fleet import Fleet, configure

LOADING = (DeploymentPhase.LOADING, DeploymentPhase.READY, DeploymentPhase.ACTIVE)
BEAT_S = 0.2
"""Faster than a real agent: a test waits for heartbeats."""


@dataclass
class Host:
    """One node. It answers a plan that names it with ``phases``, in order."""

    sealer: Ed25519Sealer
    roster: TrustedRoster
    phases: tuple[DeploymentPhase, ...] = LOADING
    detail: str = ""
    deaf: int = 0
    """So many announcements do not reach it."""
    memory_bytes: int = 1_000_000_000
    sequence: int = 0
    plans: list[Plan] = field(default_factory=list)

    @property
    def node(self) -> NodeId:
        return node_id_of(self.sealer.public_key)

    def say(self, message: ControlMessage) -> Broadcast:
        """``message`` as this node broadcasts it."""
        self.sequence += 1
        cluster = self.roster.cluster
        wire = seal(
            self.sealer,
            cluster,
            self.node,
            Incarnation(1),
            EnvelopeSequence(self.sequence),
            60_000,
            wall_ms(),
            message,
        )
        retain = not isinstance(message, Heartbeat)
        return Broadcast(topic_for(cluster, self.node, message), wire, retain, at_least_once=True, expiry_s=60)

    def record(self, models: Sequence[Digest], phase: NodePhase = NodePhase.READY) -> Broadcast:
        """What it says of itself."""
        capacity = Capacity(4, self.memory_bytes, 2**33, 2**33, 5 * 10**9, ())
        load = Load(100, self.memory_bytes, None, 0, 0)
        endpoint = Endpoint("127.0.0.1", 7600)
        return self.say(NodeState(1, phase, endpoint, "", capacity, load, (), tuple(models), (), "shoal 0"))

    def answer(self, wire: bytes) -> list[Broadcast]:
        """What it says to an envelope: nothing, unless a plan names it."""
        message = open_envelope(wire, self.roster, self.roster.cluster).message
        if not isinstance(message, PlanAnnounced | RecoveryOrdered):
            return []
        plan = decode_plan(message.plan)
        if self.node not in [stage.node for stage in plan.stages]:
            return []
        if self.deaf:
            self.deaf -= 1
            return []
        self.plans.append(plan)
        digest = digest_of(message.plan)
        return [
            self.say(PhaseReported(plan.deployment, plan.epoch, digest, phase, self.detail)) for phase in self.phases
        ]


@contextlib.asynccontextmanager
async def on_air(host: Host, broker: BrokerSection, models: Sequence[Digest]) -> AsyncIterator[None]:
    """``host`` connected to a real broker, beating, for the time of the block."""

    def post(event: Event) -> None:
        if isinstance(event, EnvelopeReceived):
            with contextlib.suppress(UnknownSender):
                for said in host.answer(event.wire):
                    control.publish(said)

    async def beat() -> None:
        for number in range(1_000_000):
            control.publish(host.say(Heartbeat(number, 1)))
            await asyncio.sleep(BEAT_S)

    filters = agent_filters(host.roster.cluster, host.node, None)
    address = broker_address(broker)
    control = MqttControlPlane(host.node, [address], filters, None, post, lambda _name, _label: None, Random(0))
    control.publish(host.record(models))
    tasks = [asyncio.create_task(control.run()), asyncio.create_task(beat())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def cluster(
    fleet: Fleet, folder: Path, store: Store, alter: Callable[[list[Host]], None] = lambda hosts: None, absent: int = 0
) -> AsyncIterator[list[Host]]:
    """The fleet on a real broker, every machine but the engine; the first ``absent`` hosts say nothing at all."""
    async with (
        running(folder / "broker", fleet.cluster, [fleet.operator]) as broker,
        contextlib.AsyncExitStack() as up,
    ):
        configure(fleet, [broker.url], store.root)
        hosts, sections = [], []
        for machine in fleet.machines:
            config = load_config(machine.config, environment={})
            hosts.append(Host(open_sealer(config.node.key_file), open_roster(config.cluster)))
            sections.append(config.brokers[0])
        alter(hosts)
        for host, section in list(zip(hosts, sections, strict=True))[absent:]:
            await up.enter_async_context(on_air(host, section, [store.load("tiny").digest]))
        yield hosts
