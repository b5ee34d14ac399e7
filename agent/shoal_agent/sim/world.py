"""One world: real nodes on virtual machines, brokers and links between them, and an operator who deploys once.

Everything follows from the settings, the seed among them: nodes, network, workload and faults draw from generators of
their own (``seeds``), time is the agenda's, and nothing iterates what has no order. Every message is sealed and opened
with real Ed25519, every frame encoded and decoded.

A world does not judge. It hands every step of every node to its witness, who does, and adds it to the trace. Neither
is needed: a world of thousands of nodes, which is only counted, has none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from shoal_agent.core.effects import Broadcast, Effect, SendFrame
from shoal_agent.core.events import (
    BrokerConnected,
    BrokerLost,
    CancelRequested,
    EnvelopeReceived,
    Event,
    RequestArrived,
)
from shoal_agent.core.facts import GenerationRequest
from shoal_agent.core.voice import CoreConfig, Identity
from shoal_agent.sim.agenda import Agenda
from shoal_agent.sim.brokers import Brokers
from shoal_agent.sim.devices import Device
from shoal_agent.sim.links import Links
from shoal_agent.sim.machine import Machine, Seen
from shoal_agent.sim.opening import Openings
from shoal_agent.sim.orders import able_as, genesis, memory_bytes, recovery
from shoal_agent.sim.seeds import generator, seed_bytes
from shoal_agent.sim.settings import CLUSTER, HOME, HOMES, WALL_MS, Settings, Setup, found
from shoal_agent.sim.toy import toy_facts
from shoal_agent.sim.trace import Trace
from shoal_agent.sim.traitor import Mask, Pairs, Traitor
from shoal_agent.sim.weather import Weather
from shoal_protocol.envelope import Envelope, seal
from shoal_protocol.headers import Gossip
from shoal_protocol.ids import (
    Incarnation,
    NodeId,
    Sequence,
    SessionId,
    node_id_of,
)
from shoal_protocol.limits import TTL_MS_MAX
from shoal_protocol.messages import (
    ControlMessage,
    Endpoint,
    Plan,
    PlanAnnounced,
    RecoveryOrdered,
)
from shoal_protocol.sealing import Ed25519Sealer, Sealer
from shoal_protocol.topics import topic_for

BOASTING_SHARE: Final = 0.5
"""Of the liars."""
BOOT_S_MAX: Final = 1.0
"""Machines are switched on within this."""
SKEW_MS_MAX: Final = 30_000
"""Wall clocks are off by up to this, a quarter of what the protocol tolerates."""


class Witness(Protocol):
    """Who judges."""

    def handled(self, seen: Seen) -> None: ...

    def published(self, node: NodeId, effect: Broadcast, at_s: float) -> None: ...

    def asked(self, machine: Machine, request: GenerationRequest) -> None: ...


@dataclass(frozen=True, slots=True)
class _Client:
    """A machine's life, as its brokers know it."""

    machine: Machine
    boots: int
    post: Callable[[BrokerConnected | BrokerLost | EnvelopeReceived], None]
    witness: Witness | None
    agenda: Agenda

    @property
    def alive(self) -> bool:
        return self.machine.alive and self.machine.boots == self.boots

    @property
    def filters(self) -> tuple[str, ...]:
        return self.machine.filters

    def read(self, events: list[EnvelopeReceived]) -> None:
        self.machine.read(events)

    def will(self, broker: str, connection: int) -> Broadcast:
        topic, wire = self.machine.node.will(broker, connection, self.machine.now())
        effect = Broadcast(topic, wire, retain=False, at_least_once=True, expiry_s=0)
        if self.witness is not None:
            self.witness.published(self.machine.name, effect, self.agenda.now)
        return effect


def _mask_of(machine: Machine) -> Mask:
    return Mask(machine.name, machine.setup.sealer, CLUSTER, lambda: machine.life, machine.wall_ms)


class World:
    """Machines, brokers, links and time."""

    def __init__(self, settings: Settings, witness: Witness | None, trace: Trace | None) -> None:
        assert 0 < settings.hosts <= settings.nodes, "hosts are nodes"
        self.settings = settings
        self.agenda = Agenda()
        self.weather = Weather()
        self.trace = trace
        self._witness = witness
        network = generator(settings.seed, "network")
        names = tuple(f"broker-{index}" for index in range(settings.brokers))
        self.brokers = Brokers(names, self.agenda, self.weather, network, settings.bundle_s)
        self.links = Links(self.agenda, self.weather, network)
        keys = [Ed25519Sealer(seed_bytes(f"{settings.seed}/key/{index}") * 2) for index in range(settings.nodes)]
        self._operator = Ed25519Sealer(seed_bytes(f"{settings.seed}/operator") * 2)
        self._announced = 0
        self._opener = Openings().open
        self.roster = found(settings, keys, self._operator)
        self.names = [node_id_of(key.public_key) for key in keys]
        self.liars = tuple(generator(settings.seed, "liars").sample(self.names, settings.liars))
        made = [self._machine(index, key) for index, key in enumerate(keys)]
        self.machines = {machine.name: machine for machine in made}
        self._traitors = self._corrupt()
        self.lost: list[NodeId] = []
        """Nodes that will never come back."""
        self.tripwires: list[Callable[[NodeId, Broadcast], None]] = []
        """Called with everything nodes say to everybody."""
        self._spent: tuple[NodeId, ...] = self.liars

    def _corrupt(self) -> dict[NodeId, Traitor]:
        pairs, traitors = Pairs(), {}
        for name in self.liars:
            mask = _mask_of(self.machines[name])
            traitors[name] = Traitor(mask, self.names, self, pairs, generator(self.settings.seed, "liar", name))
        for name, traitor in traitors.items():
            traitor.friends = [friend for other, friend in traitors.items() if other != name]
        return traitors

    def _machine(self, index: int, key: Ed25519Sealer) -> Machine:
        settings = self.settings
        rng = generator(settings.seed, "node", index)
        facts = toy_facts(settings.blocks, settings.context_tokens)
        speed = rng.uniform(0.05, 1.0)
        name = node_id_of(key.public_key)
        setup = Setup(
            CoreConfig(CLUSTER, Endpoint("127.0.0.1", 1000 + index), "", settings.kv_bytes_max, "sim"),
            key,
            rate=1.0 + settings.drift * rng.uniform(-1.0, 1.0),
            origin_s=rng.uniform(0.0, 1e6),
            skew_ms=rng.randint(-SKEW_MS_MAX, SKEW_MS_MAX),
            has_services=index < settings.nodes - settings.bare_nodes,
            memory_bytes=memory_bytes(settings, self.zone_of(name)),
            speed=speed,
            boasts=name in self.liars and generator(settings.seed, "boasts", index).random() < BOASTING_SHARE,
            opener=self._opener,
            check_every=settings.check_every,
        )

        def identity(life: Incarnation) -> Identity:
            return Identity(name, life, key, self.roster)

        return Machine(identity, setup, lambda: Device(facts, speed), self.agenda, self, rng)

    # --- what machines are connected to ---------------------------------------------------------------------------

    def publish(self, node: NodeId, effect: Broadcast) -> None:
        """A node says something to everybody."""
        traitor = self._traitors.get(node)
        if traitor is None or not traitor.speaks(effect):
            self.tell_all(node, effect)

    def tell_all(self, node: NodeId, effect: Broadcast) -> None:
        """What a node says to everybody reaches the brokers."""
        if self._witness is not None:
            self._witness.published(node, effect, self.agenda.now)
        self.brokers.publish(node, effect)
        for trip in self.tripwires:
            trip(node, effect)

    def send(self, node: NodeId, effect: SendFrame, data: bytes | None) -> None:
        """A node sends a frame."""
        traitor = self._traitors.get(node)
        if traitor is not None and traitor.repeats(effect):
            return
        self.links.send(node, effect.peer, effect.header, data)

    def tell(self, node: NodeId, peer: NodeId, effect: Broadcast) -> None:
        """A liar says something to one node."""
        if self._witness is not None:
            self._witness.published(node, effect, self.agenda.now)
        if self.machines[node].alive:
            self.links.send(node, peer, Gossip(effect.topic), effect.wire)

    def opened(self, said: Broadcast) -> Envelope:
        """What a member said."""
        return self._opener(said.wire, said.topic, self.roster, CLUSTER)

    def listen(self, node: NodeId) -> None:
        """A node hears other shards than before."""
        self.brokers.subscribe(node)

    @property
    def observed(self) -> bool:
        """Whether anybody looks on."""
        return self.trace is not None or self._witness is not None

    def handled(self, machine: Machine, event: Event, effects: list[Effect]) -> None:
        """A node took a step."""
        if self.trace is not None:
            self.trace.add(self.agenda.now, machine.name, event, effects)
        if self._witness is not None:
            self._witness.handled(Seen(self.agenda.now, machine, event, effects))

    # --- lives ----------------------------------------------------------------------------------------------------

    def living(self) -> list[Machine]:
        """Machines that run, paused ones included."""
        return [machine for machine in self.machines.values() if machine.alive]

    def honest(self) -> list[Machine]:
        """Those of them who do not lie."""
        return [machine for machine in self.living() if machine.name not in self.liars]

    def start(self) -> None:
        """Switch everything on, not all at once."""
        for index, name in enumerate(self.names[: len(self.names) - self.settings.late]):
            delay_s = generator(self.settings.seed, "boot", index).uniform(0.0, BOOT_S_MAX)
            self.agenda.after(delay_s, self._booter(name))
        self.run(2 * BOOT_S_MAX)

    def _booter(self, name: NodeId) -> Callable[[], None]:
        return lambda: self.boot(name)

    def boot(self, name: NodeId) -> None:
        """A life begins."""
        machine = self.machines[name]
        machine.boot()
        self.links.attach(name, machine)
        self.brokers.attach(name, _Client(machine, machine.boots, machine.post, self._witness, self.agenda))

    def crash(self, name: NodeId, *, silent: bool = False, amnesia: bool = False) -> None:
        """A life ends: kill -9, or ``silent`` as when the power goes; ``amnesia`` takes what it had persisted."""
        self.machines[name].crash(amnesia=amnesia)
        self.links.detach(name, silent=silent)
        self.brokers.detach(name)

    def stopped(self, name: NodeId) -> None:
        """A process ended by itself: it said goodbye to its brokers, which keep its will for themselves."""
        self.agenda.after(0.0, lambda: self._stopped(name))

    def _stopped(self, name: NodeId) -> None:
        if self.machines[name].alive:
            self.machines[name].crash(amnesia=False)
            self.links.detach(name, silent=False)
            self.brokers.detach(name, farewell=True)

    def pause(self, name: NodeId) -> None:
        """SIGSTOP."""
        self.machines[name].pause()
        self.links.watch(name)

    def may_fail(self, name: NodeId) -> bool:
        """Whether ``name`` may break, or lose its memory, and agreement still owes a decision; then it has."""
        if not self._spent:
            self._spent = (name,)
        return self._spent == (name,) and name not in self.liars

    def may_break_quorum(self) -> bool:
        """Whether so many voters may break that operators must help; then they have."""
        whole, self._spent = not self._spent, tuple(self.names)
        return whole

    # --- plans and requests ---------------------------------------------------------------------------------------

    def hosts(self) -> list[NodeId]:
        """Who holds blocks; where the ends of the model are guarded, who is at home comes first."""
        if self.settings.guarded:
            return [self.names[0], *self.names[HOMES : HOMES + self.settings.hosts - 1]]
        return self.names[: self.settings.hosts]

    def deploy(self) -> None:
        """The operator splits the model evenly over the hosts and announces that as epoch 0."""
        there = self.names[: len(self.names) - self.settings.late]
        able = [able_as(self.settings, name, self.zone_of(name)) for name in self.homely() if name in there]
        self._order(genesis(self.settings, self.hosts(), there, able))

    def could_host(self, broken: list[NodeId]) -> bool:
        """Whether operators would find somebody whose zone may host, if ``broken`` were lost for good."""
        return any(name not in broken and name not in self.lost for name in self.homely())

    def homely(self) -> list[NodeId]:
        """Who is in a zone in which blocks may be hosted."""
        return [name for name in self.names if self.settings.guarded or self.zone_of(name) == HOME]

    def zone_of(self, name: NodeId) -> str:
        """The trust zone that ``name`` stands in."""
        member = self.roster.member(name)
        assert member is not None, "machines are members"
        return member.zone

    def ready(self) -> list[NodeId]:
        """Who lives, and is in the zone in which blocks may be hosted."""
        alive = [machine.name for machine in self.living()]
        return [name for name in self.homely() if name in alive]

    def recover(self, known: Plan) -> None:
        """The operator puts those who are ``ready`` in the place of a plan whose voters are lost."""
        self._order(recovery(self.settings, known, self.ready(), self._operator))

    def _order(self, message: PlanAnnounced | RecoveryOrdered) -> None:
        self._announced += 1
        effect = self.said(self._operator, message, self._announced, 0)
        if self._witness is not None:
            self._witness.published(node_id_of(self._operator.public_key), effect, self.agenda.now)
        self.brokers.publish(None, effect)

    def said(self, key: Sealer, message: ControlMessage, sequence: int, ago_ms: int) -> Broadcast:
        """What the owner of ``key`` says, sealed ``ago_ms`` ago; it is not published by this."""
        sender = node_id_of(key.public_key)
        wall_ms = WALL_MS + int(self.agenda.now * 1000) - ago_ms
        ttl_ms = TTL_MS_MAX if isinstance(message, PlanAnnounced | RecoveryOrdered) else 1000
        wire = seal(key, CLUSTER, sender, Incarnation(1), Sequence(sequence), ttl_ms, wall_ms, message)
        return Broadcast(topic_for(CLUSTER, sender, message), wire, retain=True, at_least_once=True, expiry_s=300)

    def ask(self, ingress: NodeId, request: GenerationRequest) -> None:
        """A client asks ``ingress``; a machine that is down or hangs does not answer it."""
        machine = self.machines[ingress]
        if machine.alive and not machine.paused:
            if self._witness is not None:
                self._witness.asked(machine, request)
            machine.post(RequestArrived(request))

    def cancel(self, ingress: NodeId, session: SessionId) -> None:
        """The client goes away."""
        self.machines[ingress].post(CancelRequested(session))

    # --- time -----------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self.agenda.run_to(self.agenda.now + seconds)
