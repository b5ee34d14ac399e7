"""What an operator hears before it founds a deployment, and who of them could host.

Brokers hand out the last record of every node at once, also of nodes that died since, so a record alone proves
nothing: a node counts when its *heartbeat* was heard during this survey, in the incarnation of the record. Of the nodes
that count, those can host which say READY and hold the package or have room for it: somebody must hold it, and the
others fetch from there.

*How long to listen.* If the wish names its nodes, until all of them count. Otherwise nobody can know how many there
are; the survey is over when there are enough and none was new for ``QUIET_S``, two and a half heartbeats.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from shoal_agent.core.outlook import waiting_permille
from shoal_agent.core.plan import voters_for
from shoal_agent.core.problem import Candidate, Infeasible
from shoal_agent.errors import NoPlanError
from shoal_protocol.envelope import Envelope
from shoal_protocol.ids import DeploymentId, Digest, Incarnation, Instant, NodeId
from shoal_protocol.messages import Heartbeat, NodePhase, NodeState, Terms
from shoal_protocol.roster import TrustedRoster

QUIET_S: Final = 2.5
"""Heartbeats come every second, give or take a tenth: whoever lives was heard twice."""


@dataclass(frozen=True, slots=True)
class Package:
    """What is to be hosted: the model, and what all of it takes on a disk."""

    model: Digest
    bytes: int


@dataclass(frozen=True, slots=True)
class Heard:
    """A node that counts: its record, and since when it does."""

    node: NodeId
    state: NodeState
    since: Instant


class Survey:
    """Who is there."""

    def __init__(self, begun: Instant) -> None:
        self._records: dict[NodeId, tuple[Incarnation, NodeState]] = {}
        self._beats: dict[NodeId, Incarnation] = {}
        self._since: dict[NodeId, Instant] = {}
        self._changed = begun

    def hear(self, envelope: Envelope, now: Instant) -> None:
        """Take in a verified envelope; kinds that tell nothing about nodes are ignored."""
        node, message = envelope.sender, envelope.message
        if isinstance(message, NodeState):
            self._record(node, envelope.incarnation, message)
        elif isinstance(message, Heartbeat):
            self._beats[node] = max(envelope.incarnation, self._beats.get(node, envelope.incarnation))
        if node not in self._since and self._counts(node):
            self._since[node] = now
            self._changed = now

    def heard(self) -> tuple[Heard, ...]:
        """Everybody who counts, by node id."""
        return tuple(
            Heard(node, self._records[node][1], self._since[node]) for node in sorted(self._since) if self._counts(node)
        )

    def deadline(self) -> Instant:
        """When the survey is over unless somebody new is heard."""
        return Instant(self._changed + QUIET_S)

    def over(self, wanted: frozenset[NodeId], nodes_min: int, package: Package, now: Instant) -> bool:
        """Whether listening longer would tell nothing more."""
        able = {each.node for each in self.heard() if why_not(each.state, package) is None}
        if not self.held(package):
            return False
        if wanted:
            return wanted <= able
        return len(able) >= nodes_min and now >= self.deadline()

    def held(self, package: Package) -> bool:
        """Whether anybody who counts has the package."""
        return any(package.model in each.state.models for each in self.heard())

    def _record(self, node: NodeId, incarnation: Incarnation, state: NodeState) -> None:
        known = self._records.get(node)
        if known is None or (incarnation, state.version) > (known[0], known[1].version):
            self._records[node] = (incarnation, state)

    def _counts(self, node: NodeId) -> bool:
        record = self._records.get(node)
        return record is not None and self._beats.get(node) == record[0]


def why_not(state: NodeState, package: Package) -> str | None:
    """Why the node that says ``state`` cannot host ``package``; None if it can."""
    if state.phase is not NodePhase.READY:
        return f"is {state.phase.name.lower()}"
    if package.model not in state.models and state.capacity.disk_free_bytes < package.bytes:
        return f"has not got the package, nor room for it ({state.capacity.disk_free_bytes} of {package.bytes} bytes)"
    return None


def candidate_of(heard: Heard) -> Candidate:
    """``heard`` as the planner sees it: free memory bounds what is offered, so that a second deployment fits too."""
    capacity, load = heard.state.capacity, heard.state.load
    memory = min(capacity.memory_bytes, load.memory_available_bytes)
    waiting = waiting_permille(heard.state, None)
    return Candidate(heard.node, capacity.speed_macs_per_s, memory, load.foreign_permille, waiting)


@dataclass(frozen=True, slots=True)
class Able:
    """Who can host, what keeps the others from it (None: nothing), and who is there to vote."""

    candidates: tuple[Candidate, ...]
    faults: dict[NodeId, str | None]
    alive: tuple[NodeId, ...]

    def voters_of(self, deployment: DeploymentId, terms: Terms) -> Callable[[tuple[NodeId, ...]], tuple[NodeId, ...]]:
        """Who decides the epoch after one with the given hosts; NoPlanError if they are too few for the terms."""

        def voters(hosts: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
            found, needed = voters_for(deployment, hosts, self.alive, terms.faulty), 3 * terms.faulty + 1
            if terms.faulty and len(found) < needed:
                fault = f"{needed} voters are needed where {terms.faulty} may lie, {len(self.alive)} agents are there"
                raise NoPlanError(fault, "start more agents, or trust those that are there: --faulty 0")
            return found

        return voters

    def no_plan(self, reason: Infeasible) -> NoPlanError:
        """Why nothing fits, with a line for each node that was looked at."""
        lines = [*reason.nodes, *(f"{node}: {why}" for node, why in sorted(self.faults.items()) if why is not None)]
        message = "\n  ".join([reason.reason, *lines])
        return NoPlanError(message, "add nodes, give them more room, or ask for less context")


def able_hosts(
    survey: Survey, package: Package, wanted: frozenset[NodeId], roster: TrustedRoster, zones: tuple[str, ...]
) -> Able:
    """Who of those heard (of ``wanted``, if any are named) can host ``package`` in ``zones``.

    NoPlanError if nobody has the package: then there is nowhere to fetch it from.
    """
    heard = survey.heard()
    if heard and not survey.held(package):
        name = package.model.hex()[:16]
        raise NoPlanError(f"no node that was heard has the package {name}", "import it on one of the nodes")
    asked = [each for each in heard if not wanted or each.node in wanted]
    faults = {each.node: why_not(each.state, package) or _zone_fault(each.node, roster, zones) for each in asked}
    faults |= dict.fromkeys(wanted - set(faults), "was not heard")
    able = tuple(
        replace(candidate_of(each), zone=zone_of(each.node, roster)) for each in asked if faults[each.node] is None
    )
    return Able(able, faults, tuple(each.node for each in heard if each.state.phase is NodePhase.READY))


def _zone_fault(node: NodeId, roster: TrustedRoster, zones: tuple[str, ...]) -> str | None:
    zone = zone_of(node, roster)
    return None if not zones or zone in zones else f"is in zone {zone}"


def zone_of(node: NodeId, roster: TrustedRoster) -> str:
    """The trust zone of ``node``, who was heard."""
    member = roster.member(node)
    assert member is not None, "the gate lets members speak only"
    return member.zone
