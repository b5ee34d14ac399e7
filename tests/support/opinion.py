"""One node with opinions: its tables filled by hand, in a cluster of five in which two hold the toy model."""

from collections.abc import Container
from dataclasses import replace

from shoal_agent.core.causes import is_gone
from shoal_agent.core.crowding import price
from shoal_agent.core.events import Sampled
from shoal_agent.core.facts import Standing
from shoal_agent.core.outlook import Outlooks
from shoal_agent.core.plan import GENESIS_PARENT, hosts_of, voters_for
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import Holding, HostReport, Tenure
from shoal_agent.core.voice import CoreConfig, Identity, Voice
from shoal_protocol.codec import encode_plan
from shoal_protocol.ids import (
    ClusterId,
    DeploymentId,
    Epoch,
    Incarnation,
    Instant,
    NodeId,
    Sequence,
    digest_of,
    node_id_of,
)
from shoal_protocol.measured import DemandMeasured, LinkMeasured
from shoal_protocol.messages import (
    Capacity,
    Cause,
    DeploymentPhase,
    Endpoint,
    HostedStage,
    Load,
    NodePhase,
    NodeState,
    Plan,
    PlanStage,
    Terms,
)
from shoal_protocol.roster import Member, Role, Roster, TrustedRoster, sign_roster
from shoal_protocol.sealing import Ed25519Sealer
from tests.support.toy import MODEL, toy_facts

CLUSTER = ClusterId("ab" * 16)
TOY = DeploymentId("toy")
MEMORY = 10**9
SPEED = 10**9
NOW = Instant(1000.0)
ZONES = ("home", "home", "home", "home", "lab", "home")
"""The fifth node is elsewhere, the sixth a witness."""


def _roster(keys: list[Ed25519Sealer]) -> TrustedRoster:
    root = Ed25519Sealer(bytes([1]) * 32)
    members = tuple(
        Member(node_id_of(key.public_key), key.public_key, (role,), zone, key.public_key)
        for key, zone, role in zip(keys, ZONES, [Role.AGENT] * 5 + [Role.WITNESS], strict=True)
    )
    roster = Roster(CLUSTER, 1, 4_000_000_000, (root.public_key,), 1, members)
    return TrustedRoster.open(sign_roster(roster, [root]), (root.public_key,), 1, 1_700_000_000)


class Opinion:
    """``names[0]`` is this node; 0 and 1 are the hosts of epoch 0, 2 and 3 are spare, 4 is in another zone."""

    def __init__(
        self,
        *,
        terms: Terms | None = None,
        epoch: int = 0,
        served: bool = True,
        standbys: tuple[tuple[int, ...], ...] = ((), ()),
    ) -> None:
        keys = sorted((Ed25519Sealer(bytes([10 + i]) * 32) for i in range(6)), key=lambda k: node_id_of(k.public_key))
        self.roster = _roster(keys)
        self.names = [node_id_of(key.public_key) for key in keys]
        self.here = self.names[0]
        self.facts = toy_facts(8)
        config = CoreConfig(CLUSTER, Endpoint("127.0.0.1", 1), "", MEMORY, "test")
        self.voice = Voice(config, Identity(self.here, Incarnation(1), keys[0], self.roster))
        self.tables = Tables()
        self.tables.phase = NodePhase.READY
        self.tables.models[MODEL] = self.facts
        self.sense()
        hosts = self.names[:2]
        plan = Plan(
            TOY,
            Epoch(epoch),
            GENESIS_PARENT,
            MODEL,
            512,
            (PlanStage(hosts[0], 0, 3, self.named(standbys[0])), PlanStage(hosts[1], 4, 7, self.named(standbys[1]))),
            terms or Terms(stages_min=2, standbys=0),
            voters_for(TOY, hosts, self.names[:4], 0),
            Cause.GENESIS if epoch == 0 else Cause.GAIN,
        )
        self.head = self.adopt(plan, Instant(NOW - 500))
        for index, node in enumerate(self.names):
            stage = plan.stages[index] if index < 2 and served else None
            self.record(node, hosted=stage)
        if served:
            for node in hosts:
                self.report(node, DeploymentPhase.ACTIVE)
            self.head.served = self.head.since
            self.head.mine, self.head.held = DeploymentPhase.ACTIVE, {0: Holding.OPEN}

    def sense(self, memory_bytes: int = MEMORY, disk_free_bytes: int = 10**9) -> None:
        capacity = Capacity(1, memory_bytes, memory_bytes, disk_free_bytes, SPEED, ("CPU",))
        self.voice.sense(Sampled(capacity, Load(0, MEMORY, None, 0, 0), 1_700_000_000_000), NOW)

    def adopt(self, plan: Plan, since: Instant = NOW) -> Tenure:
        tenure = self.tables.tenures.add(plan, digest_of(encode_plan(plan)), since)
        assert tenure is not None
        return tenure

    def report(
        self, node: NodeId, phase: DeploymentPhase, detail: str = "", at: Instant = NOW, sequence: int = 1
    ) -> None:
        self.head.hear(node, HostReport(phase, detail, Incarnation(1), Sequence(sequence), at))

    def record(
        self,
        node: NodeId,
        *,
        hosted: PlanStage | None = None,
        standing: Standing = Standing.ALIVE,
        speed: int = SPEED,
        memory: int = MEMORY,
        free: int = MEMORY,
        foreign: int = 0,
        pace: int = 1000,
        phase: NodePhase = NodePhase.READY,
        locked: bool = False,
        models: tuple = (MODEL,),
        links: dict[NodeId, int] | None = None,
        relayed: Container[NodeId] = (),
        asked: tuple[int, int] = (0, 0),
        rates: dict[NodeId, int] | None = None,
    ) -> NodeState:
        """What ``node`` says of itself now, and how it stands."""
        known = self.tables.membership.peer(node)
        state = NodeState(
            version=1 if known is None else known.state.version + 1,
            phase=phase,
            data=Endpoint("127.0.0.1", 1),
            api="",
            capacity=Capacity(1, memory, memory, 10**9, speed, ("CPU",)),
            load=Load(0, free, None, 0, 0, foreign),
            hosted=() if hosted is None else (HostedStage(TOY, Epoch(0), hosted.first_block, hosted.last_block),),
            models=models,
            services=(),
            software="test",
            links=tuple(
                LinkMeasured(peer, rtt, peer in relayed, (rates or {}).get(peer, 0))
                for peer, rtt in (links or {}).items()
            ),
            stage_permille=pace,
            locked=locked,
            demands=(DemandMeasured(TOY, *asked),) if any(asked) else (),
        )
        if node == self.here:
            self.tables.state = state
            self.tables.phase = phase
            self.tables.locked = locked
        else:
            self.tables.membership.merge(node, Incarnation(1), state, NOW)
            self.tables.membership.stand(node, standing)
        return state

    def named(self, indices: tuple[int, ...]) -> tuple[NodeId, ...]:
        return tuple(self.names[index] for index in indices)

    def after(
        self, *stages: tuple[int, int, int], standbys: tuple[tuple[int, ...], ...] = (), **changes: object
    ) -> Plan:
        """A plan that follows the head: (index of the node, first block, last block) for each stage."""
        plan = self.head.plan
        backed = standbys or ((),) * len(stages)
        parts = tuple(
            PlanStage(self.names[index], first, last, self.named(nodes))
            for (index, first, last), nodes in zip(stages, backed, strict=True)
        )
        hosts = hosts_of(parts)
        there = [name for name in self.names if not is_gone(self.tables, self.here, name)]
        voters = voters_for(TOY, hosts, there, plan.terms.faulty)
        follower = replace(
            plan,
            epoch=Epoch(plan.epoch + 1),
            parent=self.head.digest,
            stages=parts,
            voters=voters,
            cause=Cause.HOST_LOST,
        )
        outlook = Outlooks(self.here, self.tables, self.roster).of(plan, self.facts, {}, NOW)
        found = price(outlook.problem, parts) if parts[-1].last_block < len(self.facts.blocks) else None
        scored = replace(follower, score_us=0 if found is None else found.score_us)
        return replace(scored, **changes)
