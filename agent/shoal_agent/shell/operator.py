"""How a deployment begins: the operator listens, plans, announces, and waits until every host is ACTIVE.

The operator is needed for this one sentence only. It hears what the nodes say of themselves (``survey``), solves the
split (``core.planner``), and says the result once, signed: a retained message that the brokers hand to whoever comes
later. Each host checks the plan against itself; the operator's opinion of a host's memory binds nobody. After that the
operator can leave for ever: the epoch is the hosts' affair.

The announcement is repeated until every host has answered, because a broker's acknowledgement is no delivery. If the
same deployment was announced before with another plan, nothing is announced: its hosts would (rightly) refuse it.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import SystemRandom
from typing import Final

from shoal_agent.config import OperatorConfig
from shoal_agent.core.effects import Broadcast
from shoal_agent.core.events import BrokerConnected, BrokerLost, EnvelopeReceived, Event
from shoal_agent.core.facts import ModelFacts
from shoal_agent.core.gate import DuplicateEnvelope, Gate
from shoal_agent.core.plan import voters_for
from shoal_agent.core.planner import Genesis, plan_genesis
from shoal_agent.core.problem import CANDIDATES_EXACT_MAX, Infeasible, Split, problem_of
from shoal_agent.errors import ConfigError, FailedError, NoPlanError, TimedOutError, UnavailableError
from shoal_agent.shell.clock import Clock, wall_ms
from shoal_agent.shell.identity import member_in, open_roster, open_sealer
from shoal_agent.shell.model_facts import facts_of
from shoal_agent.shell.mqtt import MqttControlPlane
from shoal_agent.shell.mqtt_address import broker_address
from shoal_agent.shell.store import StateDir
from shoal_agent.shell.survey import Heard, Package, Survey, candidate_of, why_not
from shoal_models.errors import ModelError
from shoal_models.package import Store
from shoal_protocol.codec import decode_plan, encode_plan
from shoal_protocol.envelope import Envelope, seal
from shoal_protocol.errors import MalformedMessage, RemoteProtocolError
from shoal_protocol.ids import (
    DeploymentId,
    Digest,
    Incarnation,
    Instant,
    NodeId,
    Sequence,
    digest_of,
    parse_deployment_id,
)
from shoal_protocol.limits import TTL_MS_MAX
from shoal_protocol.messages import DeploymentPhase, NodePhase, Objective, PhaseReported, Plan, PlanAnnounced, Terms
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
CONTEXT_TOKENS: Final = 2048
"""Sessions are kept room for up to this length, unless the wish names another or the model has less."""

Tell = Callable[[str], None]
"""Takes a line about how far it has come."""
Publish = Callable[[Broadcast], None]
"""Hands a broadcast to every broker."""


@dataclass(frozen=True, slots=True)
class DeployWish:
    """What is to be deployed, and what is left to the planner."""

    model: str
    """A package of the operator's store."""
    deployment: str = ""
    """What clients call it; the package's name if empty."""
    stages: int | None = None
    """Exactly so many; None: as many as serve the objective."""
    nodes: tuple[str, ...] = ()
    """Ids, or beginnings of ids, of the only nodes to use; empty: whoever is heard."""
    objective: Objective = Objective.LATENCY
    context_tokens: int | None = None
    sessions: int = 2
    dry_run: bool = False
    timeout_s: float = 120.0
    """From the announcement until every host is ACTIVE."""
    zones: tuple[str, ...] = ()
    """Trust zones that may host, for the life of the deployment; empty: any."""
    faulty: int = 0
    """Voters that may lie."""
    gain_permille: int = 200


@dataclass(frozen=True, slots=True)
class DeployResult:
    """What was planned, and what became of it. ``active`` is False after a dry run."""

    plan: Plan
    digest: Digest
    split: Split
    heard: tuple[Heard, ...]
    active: bool


@dataclass(slots=True)
class Desk:
    """Everything heard, kept up to date by :meth:`post`; whoever waits is woken by every change."""

    gate: Gate
    clock: Clock
    survey: Survey
    brokers: dict[str, str] = field(default_factory=dict)
    """Broker -> empty while it is connected, else why it is not."""
    plans: dict[DeploymentId, tuple[Digest, Plan]] = field(default_factory=dict)
    phases: dict[tuple[Digest, NodeId], PhaseReported] = field(default_factory=dict)
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
            case PlanAnnounced(raw):
                plan = decode_plan(raw)
                self.plans[plan.deployment] = (digest_of(raw), plan)
            case PhaseReported() as report:
                self.phases[report.plan, envelope.sender] = report
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


@dataclass(frozen=True, slots=True)
class Operator:
    """Who announces: a member with the role, its key, and the number of this run."""

    node: NodeId
    incarnation: Incarnation
    sealer: Sealer
    roster: TrustedRoster


class Founding:
    """One deployment, from listening to ACTIVE."""

    def __init__(
        self,
        operator: Operator,
        wish: DeployWish,
        facts: ModelFacts,
        package: Package,
        desk: Desk,
        publish: Publish,
        tell: Tell,
    ) -> None:
        self._operator = operator
        self._wish = wish
        self._facts = facts
        self._package = package
        self._desk = desk
        self._publish = publish
        self._tell = tell
        self._sequence = 0
        self._deployment = _deployment_id(wish)
        self._wanted = resolve_nodes(operator.roster, wish.nodes)

    async def run(self) -> DeployResult:
        """The result; a UserError says what stood in the way."""
        await self._connect()
        await self._listen()
        heard = self._desk.survey.heard()
        genesis = self._plan(heard)
        raw = encode_plan(genesis.plan)
        result = DeployResult(genesis.plan, digest_of(raw), genesis.split, heard, active=False)
        self._refuse_another(result)
        if self._wish.dry_run:
            return result
        await self._announce(result, raw)
        return replace(result, active=True)

    async def _connect(self) -> None:
        desk = self._desk
        if await desk.wait(lambda: "" in desk.brokers.values(), Instant(desk.clock.now() + CONNECT_S)):
            return
        reasons = "; ".join(f"{broker}: {reason}" for broker, reason in sorted(desk.brokers.items()))
        hint = "check the brokers' URLs and certificates, and that they run"
        raise UnavailableError(f"no broker answered within {CONNECT_S:.0f} s. {reasons}".rstrip(), hint)

    async def _listen(self) -> None:
        desk = self._desk
        self._tell("listening for nodes ...")
        until = Instant(desk.clock.now() + LISTEN_S)
        nodes_min = self._wish.stages or 1
        await desk.wait(lambda: desk.survey.over(self._wanted, nodes_min, self._package, desk.clock.now()), until)

    def _plan(self, heard: tuple[Heard, ...]) -> Genesis:
        """Solve the split over those who can host; NoPlanError with a line for each who was looked at."""
        wish, facts = self._wish, self._facts
        if heard and not self._desk.survey.held(self._package):
            raise NoPlanError(f"no node that was heard has the package {facts.name}", "import it on one of the nodes")
        asked = [each for each in heard if not self._wanted or each.node in self._wanted]
        faults = {each.node: why_not(each.state, self._package) or self._zone_fault(each.node) for each in asked}
        faults |= dict.fromkeys(self._wanted - set(faults), "was not heard")
        able = [each for each in asked if faults[each.node] is None]
        self._tell(f"{len(able)} of {len(faults)} nodes can host {facts.name}")
        context = min(wish.context_tokens or CONTEXT_TOKENS, facts.context_tokens_max)
        terms = terms_of(wish)
        problem = problem_of(facts, terms, context, tuple(candidate_of(each) for each in able))
        alive = [each.node for each in heard if each.state.phase is NodePhase.READY]
        genesis = plan_genesis(
            problem,
            self._deployment,
            facts.model,
            terms,
            lambda hosts: voters_for(self._deployment, hosts, alive, terms.faulty),
        )
        if isinstance(genesis, Infeasible):
            lines = [*genesis.nodes, *(f"{node}: {why}" for node, why in sorted(faults.items()) if why is not None)]
            message = "\n  ".join([genesis.reason, *lines])
            raise NoPlanError(message, "add nodes, give them more room, or ask for less context")
        voters_min = 3 * terms.faulty + 1
        if terms.faulty and len(genesis.plan.voters) < voters_min:
            fault = f"{voters_min} voters are needed where {terms.faulty} may lie, {len(alive)} agents are there"
            raise NoPlanError(fault, "start more agents, or trust those that are there: --faulty 0")
        return genesis

    def _zone_fault(self, node: NodeId) -> str | None:
        member, zones = self._operator.roster.member(node), self._wish.zones
        assert member is not None, "the gate lets members speak only"
        return None if not zones or member.zone in zones else f"is in zone {member.zone}"

    def _refuse_another(self, result: DeployResult) -> None:
        known = self._desk.plans.get(self._deployment)
        if known is None or known[0] == result.digest:
            return
        held = ", ".join(f"{s.node[:8]} {s.first_block}-{s.last_block}" for s in known[1].stages)
        raise FailedError(
            f"{self._deployment} is deployed already, epoch {known[1].epoch}: {held}",
            "shoal status shows it; deploy under another name with --name",
        )

    async def _announce(self, result: DeployResult, raw: bytes) -> None:
        """Say the plan until every host has answered, then wait until all are ACTIVE."""
        desk, plan = self._desk, result.plan
        hosts = [stage.node for stage in plan.stages]
        until = Instant(desk.clock.now() + self._wish.timeout_s)
        self._tell(f"announcing plan {result.digest.hex()[:16]} to {len(hosts)} hosts ...")

        def answered() -> bool:
            return all((result.digest, node) in desk.phases for node in hosts)

        def settled() -> bool:
            phases = [desk.phases[result.digest, node].phase for node in hosts if (result.digest, node) in desk.phases]
            return DeploymentPhase.FAILED in phases or phases.count(DeploymentPhase.ACTIVE) == len(hosts)

        while not (answered() or settled()) and desk.clock.now() < until:
            self._publish(self._envelope(raw))
            await desk.wait(lambda: answered() or settled(), min(until, Instant(desk.clock.now() + ANNOUNCE_S)))
        await desk.wait(settled, until)
        self._judge(result, hosts)

    def _judge(self, result: DeployResult, hosts: list[NodeId]) -> None:
        """Raise unless every host is ACTIVE, with what each one last said."""
        reports = {node: self._desk.phases.get((result.digest, node)) for node in hosts}
        lines = [
            f"{node}: " + (f"{report.phase.name.lower()} {report.detail}".rstrip() if report else "did not answer")
            for node, report in reports.items()
        ]
        phases = [report.phase for report in reports.values() if report is not None]
        if DeploymentPhase.FAILED in phases:
            raise FailedError("\n  ".join(["a host cannot take its stage:", *lines]), "mend what it says, then again")
        if phases.count(DeploymentPhase.ACTIVE) < len(hosts):
            lines += [f"{what}: {count}" for what, count in sorted(self._desk.troubles.items())]
            message = f"not every host is active after {self._wish.timeout_s:.0f} s:"
            raise TimedOutError("\n  ".join([message, *lines]), "the plan stands: shoal status shows how it goes on")

    def _envelope(self, raw: bytes) -> Broadcast:
        self._sequence += 1
        who, message = self._operator, PlanAnnounced(raw)
        cluster = who.roster.cluster
        wire = seal(
            who.sealer,
            cluster,
            who.node,
            who.incarnation,
            Sequence(self._sequence),
            TTL_MS_MAX,
            wall_ms(),
            message,
        )
        topic = topic_for(cluster, who.node, message)
        return Broadcast(topic, wire, retain=True, at_least_once=True, expiry_s=TTL_MS_MAX // 1000)


async def deploy(config: OperatorConfig, wish: DeployWish, tell: Tell) -> DeployResult:
    """Deploy as ``wish`` says, over the brokers of ``config``; a UserError says what stood in the way."""
    sealer = open_sealer(config.operator.key_file)
    roster = open_roster(config.cluster)
    member = member_in(roster, sealer, Role.OPERATOR)
    facts, package = _package(config, wish.model)
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
        founding = Founding(operator, wish, facts, package, desk, control.publish, tell)
        links = asyncio.create_task(control.run())
        try:
            return await founding.run()
        finally:
            links.cancel()
            await asyncio.gather(links, return_exceptions=True)


def _package(config: OperatorConfig, name: str) -> tuple[ModelFacts, Package]:
    try:
        manifest = Store(config.models.store_dir).load(name)
        return facts_of(manifest), Package(manifest.digest, manifest.package_bytes)
    except ModelError as fault:
        raise ConfigError(str(fault), f"shoal model import {name} --store {config.models.store_dir}") from fault


def terms_of(wish: DeployWish) -> Terms:
    """What ``wish`` fixes for the life of its deployment."""
    return Terms(
        wish.objective,
        wish.stages or 1,
        wish.stages or CANDIDATES_EXACT_MAX,
        wish.sessions,
        zones=wish.zones,
        faulty=wish.faulty,
        gain_permille=wish.gain_permille,
    )


def _deployment_id(wish: DeployWish) -> DeploymentId:
    try:
        return parse_deployment_id(wish.deployment or wish.model)
    except MalformedMessage as fault:
        raise ConfigError(str(fault), "--name smollm2") from fault


def resolve_nodes(roster: TrustedRoster, names: Iterable[str]) -> frozenset[NodeId]:
    """The members whose ids begin with ``names``; ConfigError if one fits none or several."""
    nodes = set()
    for name in names:
        fits = [member.node for member in roster.members if name and member.node.startswith(name)]
        if len(fits) != 1:
            known = ", ".join(member.node[:8] for member in roster.members if Role.AGENT in member.roles)
            raise ConfigError(f"{name!r} names {len(fits)} members of the roster, not one", f"agents: {known}")
        nodes.add(fits[0])
    return frozenset(nodes)
