"""What a node believes, frozen: for `/state`, for oracles, for tests. Nothing here can change the node."""

from dataclasses import dataclass

from shoal_agent.core.host import Host
from shoal_agent.core.ingress import Ingress
from shoal_agent.core.tables import Tables
from shoal_agent.core.voice import Identity
from shoal_protocol.ids import DeploymentId, Digest, Epoch, Incarnation, Instant, NodeId
from shoal_protocol.messages import DeploymentPhase, NodeState, PlanStage


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage of an epoch and what its host last reported; None if nothing yet."""

    stage: PlanStage
    phase: DeploymentPhase | None
    detail: str


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """One epoch of one deployment. ``serving``: requests are taken."""

    deployment: DeploymentId
    epoch: Epoch
    plan: Digest
    model: Digest
    context_tokens_max: int
    serving: bool
    mine: DeploymentPhase | None
    stages: tuple[StageView, ...]


@dataclass(frozen=True, slots=True)
class PeerView:
    """One node of the cluster. ``silent_s``: since it was last heard; 0 for this node."""

    node: NodeId
    incarnation: Incarnation
    state: NodeState
    present: bool
    silent_s: float


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
    kv_bytes: int


def view_of(
    identity: Identity,
    tables: Tables,
    host: Host,
    ingress: Ingress,
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
        host.kv_bytes,
    )


def _deployments(tables: Tables) -> list[DeploymentView]:
    views = []
    for tenure in tables.tenures.all():
        plan = tenure.plan
        stages = []
        for stage in plan.stages:
            report = tenure.reports.get(stage.node)
            stages.append(StageView(stage, report.phase if report else None, report.detail if report else ""))
        views.append(
            DeploymentView(
                plan.deployment,
                plan.epoch,
                tenure.digest,
                plan.model,
                plan.context_tokens_max,
                tenure.serving(tables.tenures.lost),
                tenure.mine,
                tuple(stages),
            )
        )
    return views


def _nodes(identity: Identity, tables: Tables, now: Instant) -> list[PeerView]:
    views = [
        PeerView(
            peer.node,
            peer.incarnation,
            peer.state,
            tables.membership.present(peer.node, now),
            now - peer.heard,
        )
        for peer in tables.membership.peers()
    ]
    if tables.state is not None:
        views.append(PeerView(identity.node, identity.incarnation, tables.state, True, 0.0))  # noqa: FBT003
    return sorted(views, key=lambda view: view.node)
