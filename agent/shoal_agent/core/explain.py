"""Why is this the plan? Everything this node can say about one epoch, gathered and frozen.

What was decided stands in the chain of plans, and what this node thought and did at the time in its story. How things
look *now* is asked anew for the newest epoch: the outlook with everybody who was left out and why, and the planner's
problem, unsolved, because solving it takes longer than a node may take for anything. Whoever asks has it solved.
"""

from dataclasses import dataclass

from shoal_agent.core.case import Account
from shoal_agent.core.council import Council
from shoal_agent.core.crowding import price
from shoal_agent.core.pipeline import SUBJECT
from shoal_agent.core.problem import Split, SplitProblem
from shoal_agent.core.services import ServiceKind, service_name
from shoal_agent.core.steering import Steering
from shoal_agent.core.story import Entry
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import HostReport
from shoal_protocol.ids import DeploymentId, Digest, Epoch, Instant, NodeId
from shoal_protocol.messages import Certified, Plan


@dataclass(frozen=True, slots=True)
class Decided:
    """How a plan was proven: the round, and whose ballots are in the certificate."""

    round: int
    voters: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an epoch, as far as this node saw. ``served_s``: from hearing of the plan until all were ready.

    ``open``: of each stage, the standbys that could serve it now.
    """

    age_s: float
    serving: bool
    served_s: float | None
    reports: tuple[tuple[NodeId, HostReport], ...]
    open: tuple[tuple[NodeId, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """One epoch of one deployment."""

    node: NodeId
    deployment: DeploymentId
    epochs: tuple[Epoch, ...]
    """Those that can be explained."""
    plan: Plan
    digest: Digest
    before: Plan | None
    decided: Decided | None
    """None: no vote decided it, but an operator."""
    outcome: Outcome | None
    """None: it is too long ago."""
    story: tuple[Entry, ...]
    account: Account | None
    """How it looks now; of the newest epoch only."""
    current: Split | None
    """What the plan costs now; None if it cannot be priced."""

    @property
    def problem(self) -> SplitProblem | None:
        """What the planner would be asked now."""
        return None if self.account is None or self.account.outlook is None else self.account.outlook.problem


def explain(
    node: NodeId,
    tables: Tables,
    council: Council,
    steering: Steering,
    deployment: DeploymentId | None,
    epoch: Epoch | None,
    now: Instant,
) -> Explanation | None:
    """Explain ``epoch`` (None: the newest) of ``deployment`` (None: the only one); None if there is no such thing."""
    names = tables.tenures.deployments()
    if deployment is None and len(names) == 1:
        deployment = names[0]
    found = None if deployment is None else council.plan(deployment, epoch)
    if deployment is None or found is None:
        return None
    plan, digest = found
    before = council.plan(deployment, Epoch(plan.epoch - 1)) if plan.epoch else None
    head = tables.tenures.head(deployment)
    account = None
    if head is not None and head.plan.epoch == plan.epoch:
        account = steering.account(head, now)
    outlook = None if account is None else account.outlook
    proof = council.proof(deployment, plan.epoch)
    decided = None
    if isinstance(proof, Certified):
        decided = Decided(proof.round, tuple(ballot.node for ballot in proof.ballots))
    return Explanation(
        node,
        deployment,
        tuple(tenure.plan.epoch for tenure in tables.tenures.of(deployment)),
        plan,
        digest,
        None if before is None else before[0],
        decided,
        _outcome(tables, deployment, plan.epoch, now),
        _story(tables, f"{deployment}/{plan.epoch}", plan, newest=account is not None),
        account,
        None if outlook is None else price(outlook.problem, plan.stages),
    )


def _story(tables: Tables, subject: str, plan: Plan, *, newest: bool) -> tuple[Entry, ...]:
    """What led to the plan; of the ``newest`` also what light services and doors did, which go by load."""
    told = {entry.number: entry for entry in tables.story.why(subject)}
    for kind in ServiceKind if newest else ():
        told.update((entry.number, entry) for entry in tables.story.about(service_name(kind, plan.model)))
    if newest:
        told.update((each.number, each) for each in tables.story.entries() if each.subject.startswith(SUBJECT))
    return tuple(told[number] for number in sorted(told))


def _outcome(tables: Tables, deployment: DeploymentId, epoch: Epoch, now: Instant) -> Outcome | None:
    tenure = tables.tenures.get(deployment, epoch)
    if tenure is None:
        return None
    served_s = None if tenure.served is None else tenure.served - tenure.since
    reports = tuple((node, tenure.reports[node]) for node in sorted(tenure.reports))
    lost = tables.tenures.lost
    able = tuple(
        tuple(node for node in stage.standbys if tenure.stands_by(node, index) and node not in lost)
        for index, stage in enumerate(tenure.plan.stages)
    )
    return Outcome(now - tenure.since, tenure.serving(lost), served_s, reports, able)
