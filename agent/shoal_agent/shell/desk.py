"""An operator's desk: what it hears from all brokers, and how it says one sentence until it is answered.

An operator is a member like any other, but only for a minute: it connects, listens to who is there and to what is in
force, says a plan (founding a deployment, or recovering one), and leaves when every host has opened its blocks.

A sentence is repeated until every host has answered, because a broker's acknowledgement is no delivery; it is retained,
so that brokers hand it to whoever comes later.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import SystemRandom
from typing import Final

from shoal_agent.config import OperatorConfig
from shoal_agent.core.effects import Broadcast
from shoal_agent.core.events import BrokerConnected, BrokerLost, EnvelopeReceived, Event
from shoal_agent.core.gate import DuplicateEnvelope, Gate
from shoal_agent.core.plan import hosts_of
from shoal_agent.core.tenure import HostReport
from shoal_agent.errors import FailedError, TimedOutError, UnavailableError
from shoal_agent.shell.clock import Clock, wall_ms
from shoal_agent.shell.identity import member_in, open_roster, open_sealer
from shoal_agent.shell.mqtt import MqttControlPlane
from shoal_agent.shell.mqtt_address import broker_address
from shoal_agent.shell.store import StateDir
from shoal_agent.shell.survey import Package, Survey
from shoal_protocol.codec import decode_plan
from shoal_protocol.envelope import Envelope, seal
from shoal_protocol.errors import RemoteProtocolError
from shoal_protocol.ids import DeploymentId, Digest, Incarnation, Instant, NodeId, Sequence, digest_of
from shoal_protocol.limits import TTL_MS_MAX
from shoal_protocol.messages import (
    Certified,
    DeploymentPhase,
    PhaseReported,
    Plan,
    PlanAnnounced,
    RecoveryOrdered,
)
from shoal_protocol.roster import Role, TrustedRoster
from shoal_protocol.sealing import Sealer
from shoal_protocol.topics import agent_filters, topic_for

CONNECT_S: Final = 15.0
"""A broker in reach answers within a second; one that is being started, within a few."""
LISTEN_S: Final = 30.0
"""An agent that is being started needs some seconds to measure itself before it speaks."""
ANNOUNCE_S: Final = 3.0
"""Between two announcements; hosts need a fraction of it to answer."""
TICK_S: Final = 0.25
"""How late the end of a silence may be noticed."""

Tell = Callable[[str], None]
"""Takes a line about how far it has come."""
Publish = Callable[[Broadcast], None]
"""Hands a broadcast to every broker."""


@dataclass(frozen=True, slots=True)
class InForce:
    """The newest plan of a deployment that brokers know of; whoever brought it, only members could."""

    plan: Plan
    raw: bytes

    @property
    def digest(self) -> Digest:
        """What it is called."""
        return digest_of(self.raw)


@dataclass(slots=True)
class Operator:
    """Who speaks: a member with the role, its key, and the number of this run."""

    node: NodeId
    incarnation: Incarnation
    sealer: Sealer
    roster: TrustedRoster
    sequence: int = 0

    def seal(self, message: PlanAnnounced | RecoveryOrdered) -> Broadcast:
        """``message`` as brokers keep it."""
        self.sequence += 1
        cluster, number = self.roster.cluster, Sequence(self.sequence)
        wire = seal(self.sealer, cluster, self.node, self.incarnation, number, TTL_MS_MAX, wall_ms(), message)
        topic = topic_for(cluster, self.node, message)
        return Broadcast(topic, wire, retain=True, at_least_once=True, expiry_s=TTL_MS_MAX // 1000)


@dataclass(slots=True)
class Desk:
    """Everything heard, kept up to date by :meth:`post`; whoever waits is woken by every change."""

    gate: Gate
    clock: Clock
    survey: Survey
    brokers: dict[str, str] = field(default_factory=dict)
    """Broker -> empty while it is connected, else why it is not."""
    plans: dict[DeploymentId, InForce] = field(default_factory=dict)
    phases: dict[tuple[Digest, NodeId], HostReport] = field(default_factory=dict)
    """What each host said last of each plan, in its own order of words: several brokers deliver in any order."""
    troubles: Counter[str] = field(default_factory=Counter)
    """What went wrong, and how often: refusals of a broker, envelopes that were not accepted."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, name: str, label: str) -> None:
        """Remember that something went wrong on the way to a broker; it is told if the deployment fails."""
        self.troubles[f"{name} ({label})"] += 1

    def post(self, event: Event) -> None:
        """Take in what the control plane heard."""
        match event:
            case BrokerConnected(broker):
                self.brokers[broker] = ""
            case BrokerLost(broker, reason):
                self.brokers[broker] = reason
            case EnvelopeReceived():
                self._receive(event)
            case _:
                return
        self.changed.set()

    def _receive(self, arrival: EnvelopeReceived) -> None:
        try:
            self._hear(self.gate.open(arrival, wall_ms()))
        except DuplicateEnvelope:
            return
        except RemoteProtocolError as fault:
            self.count("messages_rejected", fault.reason)

    def _hear(self, envelope: Envelope) -> None:
        match envelope.message:
            case PlanAnnounced(raw) | Certified(raw) | RecoveryOrdered(raw):
                plan = decode_plan(raw)
                known = self.plans.get(plan.deployment)
                if known is None or known.plan.epoch < plan.epoch:
                    self.plans[plan.deployment] = InForce(plan, raw)
            case PhaseReported() as report:
                place, order = (report.plan, envelope.sender), (envelope.incarnation, envelope.sequence)
                earlier = self.phases.get(place)
                if earlier is None or order > (earlier.incarnation, earlier.sequence):
                    self.phases[place] = HostReport(report.phase, report.detail, *order)
            case _:
                self.survey.hear(envelope, self.clock.now())

    async def wait(self, done: Callable[[], bool], until: Instant) -> bool:
        """Wait for ``done``, asked again after every change and every ``TICK_S``; False if ``until`` came first."""
        while not done():
            self.changed.clear()
            rest = until - self.clock.now()
            if rest <= 0:
                return False
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), min(rest, TICK_S))
        return True

    async def connect(self) -> None:
        """Return when a broker answered; UnavailableError with what each of them said."""
        if await self.wait(lambda: "" in self.brokers.values(), Instant(self.clock.now() + CONNECT_S)):
            return
        reasons = "; ".join(f"{broker}: {reason}" for broker, reason in sorted(self.brokers.items()))
        hint = "check the brokers' URLs and certificates, and that they run"
        raise UnavailableError(f"no broker answered within {CONNECT_S:.0f} s. {reasons}".rstrip(), hint)

    async def listen(self, wanted: frozenset[NodeId], nodes_min: int, package: Package) -> None:
        """Return when listening longer would tell nothing more of who can host ``package``, or after LISTEN_S."""
        until = Instant(self.clock.now() + LISTEN_S)
        await self.wait(lambda: self.survey.over(wanted, nodes_min, package, self.clock.now()), until)

    async def announce(self, plan: Plan, digest: Digest, say: Callable[[], None], timeout_s: float) -> None:
        """``say`` the plan until every host has answered, then wait until all are ACTIVE; a UserError if not."""
        hosts = hosts_of(plan.stages)
        until = Instant(self.clock.now() + timeout_s)

        def answered() -> bool:
            return all((digest, node) in self.phases for node in hosts)

        def settled() -> bool:
            phases = [self.phases[digest, node].phase for node in hosts if (digest, node) in self.phases]
            return DeploymentPhase.FAILED in phases or phases.count(DeploymentPhase.ACTIVE) == len(hosts)

        while not (answered() or settled()) and self.clock.now() < until:
            say()
            await self.wait(lambda: answered() or settled(), min(until, Instant(self.clock.now() + ANNOUNCE_S)))
        await self.wait(settled, until)
        self._judge(digest, hosts, timeout_s)

    def _judge(self, digest: Digest, hosts: tuple[NodeId, ...], timeout_s: float) -> None:
        """Raise unless every host is ACTIVE, with what each one last said."""
        reports = {node: self.phases.get((digest, node)) for node in hosts}
        lines = [
            f"{node}: " + (f"{report.phase.name.lower()} {report.detail}".rstrip() if report else "did not answer")
            for node, report in reports.items()
        ]
        phases = [report.phase for report in reports.values() if report is not None]
        if DeploymentPhase.FAILED in phases:
            raise FailedError("\n  ".join(["a host cannot take its stage:", *lines]), "mend what it says, then again")
        if phases.count(DeploymentPhase.ACTIVE) < len(hosts):
            lines += [f"{what}: {count}" for what, count in sorted(self.troubles.items())]
            message = f"not every host is active after {timeout_s:.0f} s:"
            raise TimedOutError("\n  ".join([message, *lines]), "the plan stands: shoal status shows how it goes on")


@asynccontextmanager
async def open_desk(config: OperatorConfig) -> AsyncIterator[tuple[Operator, Desk, Publish]]:
    """The operator of ``config`` at its desk, on its way to the brokers; a UserError if it is none."""
    sealer = open_sealer(config.operator.key_file)
    roster = open_roster(config.cluster)
    member = member_in(roster, sealer, Role.OPERATOR)
    clock = Clock()
    desk = Desk(Gate(roster.cluster, member.node, roster), clock, Survey(clock.now()))
    with StateDir.open(config.operator.state_dir) as state:
        operator = Operator(member.node, state.next_incarnation(), sealer, roster)
        control = MqttControlPlane(
            # Another name each run: a broker does not hand what one name published to that name, earlier runs included.
            f"{operator.node}.{operator.incarnation}",
            [broker_address(section) for section in config.brokers],
            agent_filters(roster.cluster, operator.node, None),
            None,
            desk.post,
            desk.count,
            SystemRandom(),
        )
        links = asyncio.create_task(control.run())
        try:
            yield operator, desk, control.publish
        finally:
            links.cancel()
            await asyncio.gather(links, return_exceptions=True)
