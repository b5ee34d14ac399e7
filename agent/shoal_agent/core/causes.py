"""Why a deployment may need another plan: what of its newest epoch is gone, failed or late, as this node sees it.

One reading serves both sides of agreement: whoever wants to propose looks for a cause, and whoever is asked to vote
looks whether the cause that was given is one. Two nodes never see the same at the same instant, so "I do not see it"
is not "it is not so" before time has passed: that is the caller's to say.

A voter that hosts nothing and is gone is a cause too, though nothing breaks: with it goes one of the few that can
decide the next repair. It has ``WITNESS_S`` to come back, because restarts are common and epochs are not free.

Nor does a standby that is gone break anything: whoever lays a route takes another, or none. It has ``STANDBY_S``. What
counts is how many standbys are there: a plan that keeps the stages and has more of them is worth an epoch, and only
such a one, so this comes to an end when there are as many as the terms ask for, or as there is room for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from shoal_agent.core.facts import Standing
from shoal_agent.core.plan import hosts_of
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import Tenure
from shoal_protocol.ids import Instant, NodeId
from shoal_protocol.messages import Cause, DeploymentPhase, NodePhase, Plan, PlanStage

WITNESS_S: Final = 10.0
"""How long a voter without blocks may be gone."""
STANDBY_S: Final = 15.0
"""How long a standby may be gone; and how old a plan must be before others are looked for: an agent restarts faster."""
GONE: Final = (Standing.DEAD, Standing.LEFT)
_LEAVING: Final = (NodePhase.DRAINING, NodePhase.DISCONNECTED)


@dataclass(frozen=True, slots=True)
class Trigger:
    """A cause, the nodes it is about, and what there is to say of them. ``stays``: the stages may stay as they are."""

    cause: Cause
    nodes: tuple[NodeId, ...]
    text: str
    stays: bool = False


def phase_of(tables: Tables, here: NodeId, node: NodeId) -> NodePhase | None:
    """What ``node`` says of its life; None if nothing was heard of it."""
    if node == here:
        return tables.phase
    peer = tables.membership.peer(node)
    return None if peer is None else peer.state.phase


def is_gone(tables: Tables, here: NodeId, node: NodeId) -> bool:
    """Whether ``node`` is dead, has left, or says that it is leaving."""
    dead = node != here and tables.membership.standing(node) in GONE
    return dead or phase_of(tables, here, node) in _LEAVING


def standbys_there(tables: Tables, here: NodeId, plan: Plan) -> int:
    """How many standbys ``plan`` has, over all stages, that are not gone."""
    return sum(not is_gone(tables, here, node) for stage in plan.stages for node in stage.standbys)


def bare_stages(tables: Tables, here: NodeId, stages: Iterable[PlanStage]) -> tuple[PlanStage, ...]:
    """Those of ``stages`` without a standby that is there: the loss of their node would be an outage."""
    return tuple(stage for stage in stages if all(is_gone(tables, here, node) for node in stage.standbys))


def missed_standbys(
    tables: Tables, here: NodeId, plan: Plan, gone_since: Mapping[NodeId, Instant], now: Instant
) -> tuple[NodeId, ...]:
    """Standbys of ``plan`` that have been gone for too long; each as often as it is named."""
    return tuple(
        node
        for stage in plan.stages
        for node in stage.standbys
        if is_gone(tables, here, node) and node in gone_since and now >= gone_since[node] + STANDBY_S
    )


def late_hosts(head: Tenure, now: Instant) -> tuple[NodeId, ...]:
    """Hosts that should be ready by now: counted from the plan, or from when they began again."""
    late = []
    for node in hosts_of(head.plan.stages):
        report = head.reports.get(node)
        begun = head.since if report is None else max(head.since, report.since)
        if not head.ready(node) and now >= begun + head.plan.staging_ms / 1000:
            late.append(node)
    return tuple(late)


def trigger_of(
    tables: Tables, here: NodeId, head: Tenure, gone_since: Mapping[NodeId, Instant], now: Instant
) -> Trigger | None:
    """The gravest cause to replace ``head``; None while all is well. A gain is not looked for here."""
    hosts = hosts_of(head.plan.stages)
    gone = tuple(node for node in hosts if is_gone(tables, here, node))
    if gone:
        told = ", ".join(f"{node[:8]} is {state_of(tables, here, node)}" for node in gone)
        return Trigger(Cause.HOST_LOST, gone, f"host {told}")
    failed = tuple(node for node in hosts if head.phase_of(node) is DeploymentPhase.FAILED)
    late = late_hosts(head, now)
    if failed or late:
        lines = [f"{node[:8]} failed ({head.reports[node].detail})" for node in failed]
        lines += [f"{node[:8]} is not ready after {now - head.since:.0f} s" for node in late if node not in failed]
        return Trigger(Cause.NOT_READY, tuple(dict.fromkeys(failed + late)), "host " + ", ".join(lines))
    witnesses = tuple(
        node
        for node in head.plan.voters
        if node in gone_since and now >= gone_since[node] + WITNESS_S and is_gone(tables, here, node)
    )
    if witnesses:
        told = ", ".join(f"{node[:8]} is {state_of(tables, here, node)}" for node in witnesses)
        return Trigger(Cause.HOST_LOST, witnesses, f"voter {told}", stays=True)
    return None


def slowness_of(tables: Tables, here: NodeId, head: Tenure, now: Instant) -> Trigger | None:
    """Whether this node's own clients wait too long. Who is late while ``head`` loads is late by the plan before."""
    if not head.complete(tables.tenures.lost):
        tables.lateness.forget(head.plan.deployment)
        return None
    told = tables.lateness.slow(head.plan.deployment, now)
    return None if told is None else Trigger(Cause.SLOW, (here,), told)


def state_of(tables: Tables, here: NodeId, node: NodeId) -> str:
    """In a word, how ``node`` is gone."""
    standing = tables.membership.standing(node)
    return str(standing.value) if node != here and standing in GONE else "leaving"
