"""How far each epoch of each deployment has come, here and on every host.

One tenure is one plan's life: hosts LOAD, say READY, and when every host is READY the epoch is ACTIVE; later it is
DRAINED. The transitions of this node's own phase are the table below and nothing else; what other hosts report is
only remembered. An epoch serves while *all* its hosts say READY or ACTIVE: a host that restarts says LOADING again
and the epoch pauses instead of answering wrongly.
"""

from dataclasses import dataclass, field
from typing import Final

from shoal_protocol.ids import DeploymentId, Digest, Epoch, Incarnation, NodeId, Sequence
from shoal_protocol.messages import DeploymentPhase, Plan

TRANSITIONS: Final[dict[DeploymentPhase, tuple[DeploymentPhase, ...]]] = {
    DeploymentPhase.LOADING: (DeploymentPhase.READY, DeploymentPhase.FAILED),
    DeploymentPhase.READY: (DeploymentPhase.ACTIVE, DeploymentPhase.FAILED, DeploymentPhase.DRAINED),
    DeploymentPhase.ACTIVE: (DeploymentPhase.DRAINED, DeploymentPhase.FAILED),
    DeploymentPhase.FAILED: (DeploymentPhase.LOADING,),
    DeploymentPhase.DRAINED: (),
}
"""From a phase of this host to the phases it may go to next."""

_SERVING = (DeploymentPhase.READY, DeploymentPhase.ACTIVE)


@dataclass(frozen=True, slots=True)
class HostReport:
    """What one host said about one epoch, and when in its own order of words."""

    phase: DeploymentPhase
    detail: str
    incarnation: Incarnation
    sequence: Sequence


@dataclass(slots=True)
class Tenure:
    """One epoch: its plan, this node's phase (None: not a host) and what the hosts reported."""

    plan: Plan
    digest: Digest
    mine: DeploymentPhase | None = None
    detail: str = ""
    reports: dict[NodeId, HostReport] = field(default_factory=dict)

    def advance(self, phase: DeploymentPhase, detail: str = "") -> None:
        """Move this node's own phase along the table."""
        assert self.mine is not None, "only a host has a phase"
        assert phase in TRANSITIONS[self.mine], f"no way from {self.mine.name} to {phase.name}"
        self.mine = phase
        self.detail = detail

    def hear(self, node: NodeId, report: HostReport) -> None:
        """Take in what ``node`` said; an older word that another broker delivers late changes nothing."""
        known = self.reports.get(node)
        if known is None or (report.incarnation, report.sequence) > (known.incarnation, known.sequence):
            self.reports[node] = report

    def serving(self) -> bool:
        """Whether every host is READY or ACTIVE."""
        return all(
            (report := self.reports.get(stage.node)) is not None and report.phase in _SERVING
            for stage in self.plan.stages
        )


class Tenures:
    """All epochs this node knows."""

    def __init__(self) -> None:
        self._epochs: dict[tuple[DeploymentId, Epoch], Tenure] = {}

    def add(self, plan: Plan, digest: Digest) -> Tenure | None:
        """Begin a tenure; None if that epoch is taken (by this plan or, as evidence of foul play, by another)."""
        key = (plan.deployment, plan.epoch)
        if key in self._epochs:
            return None
        tenure = Tenure(plan, digest)
        self._epochs[key] = tenure
        return tenure

    def get(self, deployment: DeploymentId, epoch: Epoch) -> Tenure | None:
        """The tenure of one epoch."""
        return self._epochs.get((deployment, epoch))

    def serving(self, deployment: DeploymentId) -> Tenure | None:
        """The newest epoch of ``deployment`` whose hosts are all ready."""
        return max(
            (tenure for (name, _), tenure in self._epochs.items() if name == deployment and tenure.serving()),
            key=lambda tenure: tenure.plan.epoch,
            default=None,
        )

    def known(self, deployment: DeploymentId) -> bool:
        """Whether any plan for ``deployment`` was ever accepted."""
        return any(name == deployment for name, _ in self._epochs)

    def all(self) -> tuple[Tenure, ...]:
        """Every tenure, by deployment and epoch."""
        return tuple(self._epochs[key] for key in sorted(self._epochs))

    def check(self) -> None:
        """Assert that every tenure is filed under its own name."""
        for (deployment, epoch), tenure in self._epochs.items():
            assert tenure.plan.deployment == deployment
            assert tenure.plan.epoch == epoch
