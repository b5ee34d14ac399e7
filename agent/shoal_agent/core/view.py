"""What a node believes, frozen: for `/state`, for oracles, for tests. Nothing here can change the node."""

from collections.abc import Container, Iterator
from dataclasses import dataclass

from shoal_agent.core.host import Host
from shoal_agent.core.ingress import Ingress
from shoal_agent.core.movers import Movers
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import Tenure, route_of
from shoal_agent.core.voice import Identity
from shoal_protocol.ids import DeploymentId, Digest, Epoch, Incarnation, Instant, NodeId
from shoal_protocol.light import ServiceLoad
from shoal_protocol.messages import DeploymentPhase, NodeState, PlanStage


@dataclass(frozen=True, slots=True)
class StandbyView:
    """A standby of a stage: whether it could serve it now, and what it last said of itself."""

    node: NodeId
    open: bool
    detail: str


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage of an epoch and what its primary last reported; None if nothing yet."""

    stage: PlanStage
    phase: DeploymentPhase | None
    detail: str
    standbys: tuple[StandbyView, ...] = ()


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """One epoch of one deployment.

    ``serving``: requests are taken; ``route``: over these nodes, stage by stage, None if some stage has nobody.
    """

    deployment: DeploymentId
    epoch: Epoch
    plan: Digest
    model: Digest
    context_tokens_max: int
    serving: bool
    mine: DeploymentPhase | None
    stages: tuple[StageView, ...]
    route: tuple[NodeId, ...] | None = None


@dataclass(frozen=True, slots=True)
class PeerView:
    """One node of the cluster. ``silent_s``: since it was last heard; 0 for this node.

    ``rtt_us``: of our link to it, if it was measured; ``relayed``: that link goes through the brokers.
    """

    node: NodeId
    incarnation: Incarnation
    state: NodeState
    present: bool
    silent_s: float
    rtt_us: int | None = None
    relayed: bool = False


@dataclass(frozen=True, slots=True)
class NodeView:
    """Everything."""

    node: NodeId
    incarnation: Incarnation
    deployments: tuple[DeploymentView, ...]
    nodes: tuple[PeerView, ...]
    brokers: tuple[tuple[str, bool], ...]
    rejected: tuple[tuple[str, int], ...]
    requests: int
    sessions: int
    shadows: int
    """Sessions of which others keep a copy here."""
    kv_bytes: int
    loads: tuple[ServiceLoad, ...] = ()
    """How busy every light service is that was ever called here."""
    calls_away: int = 0
    """Calls of light services that other nodes have."""
    budgets: tuple[tuple[str, float], ...] = ()
    """What is owed to each budget, as a level: 0 while it is kept."""
    watts: float = 0.0
    """What the machine draws; 0 if nothing measures or models it."""
    promises: tuple[tuple[str, float], ...] = ()
    """Z of every request class: late requests beyond what was promised."""
    losses: tuple[tuple[str, float], ...] = ()
    """A of every request class that tolerates loss: quality lost beyond that."""


def view_of(
    identity: Identity,
    tables: Tables,
    host: Host,
    ingress: Ingress,
    movers: Movers,
    now: Instant,
) -> NodeView:
    """The view of a node at ``now``."""
    return NodeView(
        identity.node,
        identity.incarnation,
        tuple(_deployments(tables)),
        tuple(_nodes(identity, tables, now)),
        tuple(sorted(tables.brokers.items())),
        tuple(sorted(tables.rejected.items())),
        ingress.request_count,
        host.session_count,
        host.shadow_count,
        host.kv_bytes,
        tuple(movers.workshop.loads(now)),
        movers.away_count,
        (("energy", tables.budgets.energy), ("money", tables.budgets.money), ("moved", tables.budgets.moved)),
        tables.budgets.watts,
        tuple((name, tables.classes.level(name)) for name in tables.classes.names()),
        tuple((name, a.level) for name in tables.classes.names() if (a := tables.classes.quality(name)) is not None),
    )


def _deployments(tables: Tables) -> list[DeploymentView]:
    views = []
    for tenure in tables.tenures.all():
        plan = tenure.plan
        views.append(
            DeploymentView(
                plan.deployment,
                plan.epoch,
                tenure.digest,
                plan.model,
                plan.context_tokens_max,
                tenure.serving(tables.tenures.lost),
                tenure.mine,
                tuple(_stages(tenure, tables.tenures.lost)),
                route_of(tenure, tables.tenures.lost),
            )
        )
    return views


def _stages(tenure: Tenure, lost: Container[NodeId]) -> Iterator[StageView]:
    for index, stage in enumerate(tenure.plan.stages):
        said = {node: report.detail for node in stage.standbys if (report := tenure.reports.get(node)) is not None}
        standbys = tuple(
            StandbyView(node, tenure.stands_by(node, index) and node not in lost, said.get(node, ""))
            for node in stage.standbys
        )
        report = tenure.reports.get(stage.node)
        phase, detail = (None, "") if report is None else (report.phase, report.detail)
        yield StageView(stage, phase, detail, standbys)


def _nodes(identity: Identity, tables: Tables, now: Instant) -> list[PeerView]:
    trips = {link.peer: link.rtt_us for link in tables.links}
    views = [
        PeerView(
            peer.node,
            peer.incarnation,
            peer.state,
            tables.membership.present(peer.node, now),
            now - peer.heard,
            trips.get(peer.node),
            peer.node in tables.relayed,
        )
        for peer in tables.membership.peers()
    ]
    if tables.state is not None:
        views.append(PeerView(identity.node, identity.incarnation, tables.state, True, 0.0))  # noqa: FBT003
    return sorted(views, key=lambda view: view.node)
