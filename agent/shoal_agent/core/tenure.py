"""How far each epoch of each deployment has come, here and on every host.

One tenure is one plan's life: hosts LOAD, say READY, and when every primary is READY the epoch is ACTIVE; when a later
one is, it is DRAINED. The transitions of this node's own phase are the table below and nothing else; what other hosts
report is only remembered.

A **route** names for each stage the node that serves it: the primary if it says READY or ACTIVE, else the first standby
that says its blocks are open there; never one that is lost, for a dead host's last word is worth nothing. An epoch that
was complete once serves while there is a route: a host that restarts says LOADING again and its standbys take over; if
there are none, the epoch pauses instead of answering wrongly.

The **head** of a deployment is its newest epoch. Its **anchor** is the newest one that served: what there is to fall
back on while the head is not ready. Whatever is neither is of the past.
"""

from collections.abc import Container
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Final

from shoal_protocol.ids import DeploymentId, Digest, Epoch, Incarnation, Instant, NodeId, Sequence
from shoal_protocol.messages import DeploymentPhase, Plan

TRANSITIONS: Final[dict[DeploymentPhase, tuple[DeploymentPhase, ...]]] = {
    DeploymentPhase.LOADING: (DeploymentPhase.READY, DeploymentPhase.FAILED, DeploymentPhase.DRAINED),
    DeploymentPhase.READY: (DeploymentPhase.ACTIVE, DeploymentPhase.FAILED, DeploymentPhase.DRAINED),
    DeploymentPhase.ACTIVE: (DeploymentPhase.DRAINED, DeploymentPhase.FAILED),
    DeploymentPhase.FAILED: (DeploymentPhase.LOADING, DeploymentPhase.DRAINED),
    DeploymentPhase.DRAINED: (),
}
"""From a phase of this host to the phases it may go to next."""

_BEGINNING: Final = Instant(0.0)
_SERVING = (DeploymentPhase.READY, DeploymentPhase.ACTIVE)
HELD: Final = (DeploymentPhase.LOADING, *_SERVING)
"""Phases in which a host has, or is getting, blocks of an epoch."""
PAST_MAX: Final = 8
"""Epochs of a deployment that are remembered once they are of the past: to tell what happened, not to do anything."""


class Holding(Enum):
    """What this node has of one stage."""

    OPENING = auto()
    OPEN = auto()
    CLOSING = auto()
    """Its sessions are ended here, then its blocks are given back."""


@dataclass(frozen=True, slots=True)
class Without:
    """Why this node does not stand by for a stage that it should stand by for.

    ``tries``: how often its blocks could not be opened; ``until``: they are not tried again before.
    """

    why: str
    tries: int = 0
    until: Instant = _BEGINNING


@dataclass(frozen=True, slots=True)
class HostReport:
    """What one host said about one epoch, and when in its own order of words; ``since``: since when it says so.

    ``standing_by``: the stages it could serve in another's place.
    """

    phase: DeploymentPhase
    detail: str
    incarnation: Incarnation
    sequence: Sequence
    since: Instant = _BEGINNING
    standing_by: tuple[int, ...] = ()


@dataclass(slots=True)
class Tenure:
    """One epoch: its plan, this node's phase (None: it has no part in it) and what the hosts reported."""

    plan: Plan
    digest: Digest
    mine: DeploymentPhase | None = None
    detail: str = ""
    reports: dict[NodeId, HostReport] = field(default_factory=dict)
    held: dict[int, Holding] = field(default_factory=dict)
    """The stages whose blocks this node asked for, and did not give back."""
    without: dict[int, Without] = field(default_factory=dict)
    """Stages that this node should stand by for; it does not, or did not at first, and why."""
    since: Instant = _BEGINNING
    """When this node learned of it."""
    served: Instant | None = None
    """When this node first saw that all its primaries were ready, or had been."""
    closing: Instant | None = None
    """From when on no session begins here; None: not yet."""
    overdue: bool = False
    """The time to open blocks is up."""
    sourced: bool = False
    """Somebody was named from whom this node may have what it lacks."""
    failed: dict[NodeId, None] = field(default_factory=dict)
    """Primaries of whom it was told that they will not be ready."""
    sessions: int = 0
    """Sessions open on this node's stages of it."""

    @property
    def asked(self) -> bool:
        """Whether this node holds, or is getting, any of its blocks."""
        return bool(self.held)

    @property
    def open_stages(self) -> tuple[int, ...]:
        """The stages this node can serve now."""
        return tuple(sorted(stage for stage, holding in self.held.items() if holding is Holding.OPEN))

    def advance(self, phase: DeploymentPhase, detail: str = "") -> None:
        """Move this node's own phase along the table."""
        assert self.mine is not None, "only a host has a phase"
        assert phase in TRANSITIONS[self.mine], f"no way from {self.mine.name} to {phase.name}"
        self.mine = phase
        self.detail = detail

    def hear(self, node: NodeId, report: HostReport) -> None:
        """Take in what ``node`` said; an older word that another broker delivers late changes nothing."""
        known = self.reports.get(node)
        if known is None:
            self.reports[node] = report
        elif (report.incarnation, report.sequence) > (known.incarnation, known.sequence):
            same = (report.incarnation, report.phase) == (known.incarnation, known.phase)
            self.reports[node] = replace(report, since=known.since if same else report.since)

    def complete(self, lost: Container[NodeId] = ()) -> bool:
        """Whether every primary is READY or ACTIVE, and not ``lost``."""
        return all(self.ready(stage.node) and stage.node not in lost for stage in self.plan.stages)

    def serving(self, lost: Container[NodeId] = ()) -> bool:
        """Whether there is a route, and it is complete, or was: no host would be ACTIVE otherwise."""
        was = self.served is not None or any(r.phase is DeploymentPhase.ACTIVE for r in self.reports.values())
        return route_of(self, lost) is not None and (was or self.complete(lost))

    def ready(self, node: NodeId) -> bool:
        """Whether the host ``node`` said READY or ACTIVE last."""
        return self.phase_of(node) in _SERVING

    def stands_by(self, node: NodeId, stage: int) -> bool:
        """Whether the standby ``node`` said last that the blocks of ``stage`` are open there."""
        report = self.reports.get(node)
        return report is not None and report.phase in _SERVING and stage in report.standing_by

    def able(self, node: NodeId, stage: int) -> bool:
        """Whether ``node`` said last that it can serve ``stage``."""
        part = self.plan.stages[stage]
        return self.ready(node) if node == part.node else node in part.standbys and self.stands_by(node, stage)

    def phase_of(self, node: NodeId) -> DeploymentPhase | None:
        """What the host ``node`` said last; None if nothing yet."""
        report = self.reports.get(node)
        return None if report is None else report.phase

    def closed(self, now: Instant) -> bool:
        """Whether it takes no sessions any more."""
        return self.closing is not None and now >= self.closing


def route_of(tenure: Tenure, lost: Container[NodeId], avoid: Container[NodeId] = ()) -> tuple[NodeId, ...] | None:
    """The nodes to serve a session of this epoch, stage by stage; None if some stage has nobody left.

    That is the first of primary and standbys that has its blocks open, and is neither ``lost`` nor to ``avoid``.
    """
    route = []
    for index, stage in enumerate(tenure.plan.stages):
        able = (node for node in (stage.node, *stage.standbys) if tenure.able(node, index))
        chosen = next((node for node in able if node not in lost and node not in avoid), None)
        if chosen is None:
            return None
        route.append(chosen)
    return tuple(route)


class Tenures:
    """All epochs this node knows."""

    def __init__(self) -> None:
        self._epochs: dict[tuple[DeploymentId, Epoch], Tenure] = {}
        self.lost: set[NodeId] = set()
        """Nodes that are dead or left, as the failure detector has it; only ever asked for membership."""

    def add(self, plan: Plan, digest: Digest, now: Instant = _BEGINNING) -> Tenure | None:
        """Begin a tenure; None if that epoch is taken (by this plan or, as evidence of foul play, by another)."""
        key = (plan.deployment, plan.epoch)
        if key in self._epochs:
            return None
        tenure = Tenure(plan, digest, since=now)
        self._epochs[key] = tenure
        return tenure

    def get(self, deployment: DeploymentId, epoch: Epoch) -> Tenure | None:
        """The tenure of one epoch."""
        return self._epochs.get((deployment, epoch))

    def serving(self, deployment: DeploymentId) -> Tenure | None:
        """The newest epoch of ``deployment`` that was complete once and has a route."""
        return next((tenure for tenure in reversed(self.of(deployment)) if tenure.serving(self.lost)), None)

    def of(self, deployment: DeploymentId) -> list[Tenure]:
        """Every epoch of ``deployment``, oldest first."""
        return [self._epochs[key] for key in sorted(key for key in self._epochs if key[0] == deployment)]

    def head(self, deployment: DeploymentId) -> Tenure | None:
        """The newest epoch of ``deployment``."""
        return next(reversed(self.of(deployment)), None)

    def anchor(self, deployment: DeploymentId) -> Tenure | None:
        """The newest epoch of ``deployment`` that ever served."""
        return next((tenure for tenure in reversed(self.of(deployment)) if tenure.served is not None), None)

    def deployments(self) -> tuple[DeploymentId, ...]:
        """Every deployment a plan was ever accepted for, by name."""
        return tuple(sorted({name for name, _ in self._epochs}))

    def known(self, deployment: DeploymentId) -> bool:
        """Whether any plan for ``deployment`` was ever accepted."""
        return any(name == deployment for name, _ in self._epochs)

    def forget_past(self, deployment: DeploymentId) -> None:
        """Drop the oldest epochs that nothing here depends on any more."""
        anchor, head = self.anchor(deployment), self.head(deployment)
        past = [t for t in self.of(deployment) if t is not anchor and t is not head]
        idle = [tenure for tenure in past if tenure.mine not in HELD and not tenure.sessions]
        for tenure in idle[:-PAST_MAX]:
            del self._epochs[deployment, tenure.plan.epoch]

    def all(self) -> tuple[Tenure, ...]:
        """Every tenure, by deployment and epoch."""
        return tuple(self._epochs[key] for key in sorted(self._epochs))

    def check(self) -> None:
        """Assert that every tenure is filed under its own name."""
        for (deployment, epoch), tenure in self._epochs.items():
            assert tenure.plan.deployment == deployment
            assert tenure.plan.epoch == epoch
            assert tenure.sessions >= 0
