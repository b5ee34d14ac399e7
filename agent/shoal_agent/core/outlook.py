"""The cluster as the planner should see it: what every node could do for one deployment, as it was measured.

*Speed.* A node that runs stages measures how long they take over what its profile predicts (``stage_permille``);
that says all there is to say. Of any other node we know what other programs leave of its processors, and what it
measured when it last ran stages, which fades: the worse of the two is believed. Without that memory a node whose
profile flatters it would win every comparison while it runs nothing, lose it once it does, and blocks would go back
and forth.

*Waiting.* What a node's own processors do for other deployments is a line that ours would stand in. A node that runs
ours already is not asked: its measured pace knows, and its work for us must not count against it.

*Demand.* What all ingresses that are there tell of their own clients, added up: in what crowd a session is that passes
through the deployment (``crowding``).

*Memory.* What it offers, less what the newest plans of other deployments take there; a node that does not hold this
deployment yet must also have it free now.

*Links.* Round trips as their owners measured them; what is usual at a node is the median of its own, and of a node
without any, the median of all. How fast bytes come in is measured as well, at whom they come in, once large frames
did; a link of which that is not known is taken for a LAN, or, through brokers, for what was measured once and for all
(``RELAY``): so a plan takes one of those only where everything else is worse.

Readings move all the time and a plan should not: they are rounded to steps of 5 % (times) and an eighth (sizes), so
that the problem stays the same, to the last bit, until something has changed that may matter.

Nodes that cannot be hosts are left out, each with the reason: that is half of what there is to explain about a plan.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from shoal_agent.core.causes import is_gone
from shoal_agent.core.demand import rounded
from shoal_agent.core.facts import ModelFacts, Standing
from shoal_agent.core.plan import servers_of, stage_at
from shoal_agent.core.problem import LAN, RELAY, Candidate, Demand, Link, Links, SplitProblem, problem_of
from shoal_agent.core.room import taken_bytes
from shoal_agent.core.tables import Tables
from shoal_protocol.ids import DeploymentId, Instant, NodeId
from shoal_protocol.limits import TOKENS_PER_KS_MAX
from shoal_protocol.measured import LinkMeasured
from shoal_protocol.messages import NodeState, Plan, PlanStage
from shoal_protocol.roster import Role, TrustedRoster

STEP_PERMILLE: Final = 50
"""Times are compared in steps of 5 %."""
SIZE_BITS: Final = 3
"""Sizes and round trips keep so many bits after the first: steps of an eighth or less."""
RATE_MIN: Final = 1_000
"""Bytes a second: slower than that no link is, whoever says so, and a plan over it costs a figure still."""
RATE_MAX: Final = 1_000_000_000
"""Faster ones change no plan, and a burst out of a buffer looks faster than any link."""
RTT_US_MIN: Final = 100
"""Two nodes on one machine differ by less than this, and nobody should move for it."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """One deployment's problem, and what does not fit into a problem."""

    problem: SplitProblem
    stored: Mapping[NodeId, bool]
    """Who says it has the package."""
    owned: tuple[PlanStage, ...]
    """Blocks of this deployment that are open somewhere, whatever the epoch."""
    left_out: tuple[tuple[NodeId, str], ...]
    """Agents that were heard of and cannot be hosts, and why; by node id."""
    witnesses: tuple[NodeId, ...]
    """Who could vote."""
    owed_s: Mapping[NodeId, int] = field(default_factory=dict)
    """Whose budget of bytes moved is overdrawn, by how many seconds of what it allows."""

    def why_not(self, node: NodeId) -> str | None:
        """Why ``node`` is no candidate; None if it is one."""
        if any(candidate.node == node for candidate in self.problem.candidates):
            return None
        return dict(self.left_out).get(node, "was never heard of")


class Outlooks:
    """Looks out of one node."""

    def __init__(self, here: NodeId, tables: Tables, roster: TrustedRoster) -> None:
        self._here = here
        self._tables = tables
        self._roster = roster

    def of(self, plan: Plan, facts: ModelFacts, barred: Mapping[NodeId, str], now: Instant) -> Outlook:
        """What there is for the deployment of ``plan``, the newest; ``barred`` nodes failed it lately."""
        candidates, left_out, witnesses = [], [], []
        stored: dict[NodeId, bool] = {}
        owed_s: dict[NodeId, int] = {}
        owned: list[PlanStage] = []
        measured: dict[tuple[NodeId, NodeId], Link] = {}
        rates: dict[tuple[NodeId, NodeId], int] = {}
        for node, state in self._known():
            member = self._roster.member(node)
            if member is None:
                continue
            away = self._away(node, now)
            if away is None and {Role.AGENT, Role.WITNESS} & set(member.roles):
                witnesses.append(node)
            if Role.AGENT not in member.roles:
                continue
            why = away or self._unfit(node, member.zone, state, plan) or barred.get(node)
            stored[node] = plan.model in state.models
            if state.load.moved_owed_s:
                owed_s[node] = state.load.moved_owed_s
            owned += [
                PlanStage(node, held.first_block, held.last_block)
                for held in state.hosted
                # A record is its owner's word: blocks that the model has not got are nobody's.
                if held.deployment == plan.deployment and held.last_block < len(facts.blocks)
            ]
            measured |= {(node, link.peer): rounded_link(link) for link in state.links}
            rates |= {(link.peer, node): link.bytes_per_s for link in state.links}
            if why is None:
                candidates.append(self._candidate(node, member.zone, state, plan))
            else:
                left_out.append((node, why))
        links = _links(carrying(measured, rates), {candidate.node for candidate in candidates})
        asked = self._demand(plan.deployment, now)
        problem = problem_of(facts, plan.terms, plan.context_tokens_max, tuple(candidates), links, asked)
        return Outlook(problem, stored, tuple(owned), tuple(left_out), tuple(witnesses), owed_s)

    def _demand(self, deployment: DeploymentId, now: Instant) -> Demand:
        """What is asked of ``deployment``, as its ingresses tell; the clients of one that is away go elsewhere."""
        here = (s for n, s in self._known() if self._roster.member(n) is not None and self._away(n, now) is None)
        return summed(here, deployment)

    def _known(self) -> Iterator[tuple[NodeId, NodeState]]:
        """Every record there is, by node id."""
        records = {peer.node: peer.state for peer in self._tables.membership.peers()}
        if self._tables.state is not None:
            records[self._here] = self._tables.state
        return ((node, records[node]) for node in sorted(records))

    def _away(self, node: NodeId, now: Instant) -> str | None:
        """Why ``node`` cannot be counted on; None if it can."""
        if is_gone(self._tables, self._here, node):
            return "is gone or leaving"
        if node == self._here:
            return None
        standing = self._tables.membership.standing(node)
        if standing is Standing.SUSPECT:
            return "is silent"
        if standing is Standing.UNKNOWN and not self._tables.membership.present(node, now):
            return "was not heard lately"
        return None

    def _unfit(self, node: NodeId, zone: str, state: NodeState, plan: Plan) -> str | None:
        """Why ``node`` may not host ``plan``'s deployment, though it is there."""
        if plan.terms.zones and zone not in plan.terms.zones:
            return f"is in zone {zone}, allowed are {', '.join(plan.terms.zones)}"
        locked = self._tables.locked if node == self._here else state.locked
        if locked and node not in servers_of(plan):
            return "is locked by its operator"
        return None

    def _candidate(self, node: NodeId, zone: str, state: NodeState, plan: Plan) -> Candidate:
        memory = state.capacity.memory_bytes - taken_bytes(self._tables, node, plan.deployment)
        if not any(held.deployment == plan.deployment for held in state.hosted):
            memory = min(memory, rounded_down(state.load.memory_available_bytes))
        speed = state.capacity.speed_macs_per_s * 1000 // slowness_permille(state, runs=self._runs(node, state))
        waiting = waiting_permille(state, plan.deployment)
        return Candidate(node, speed, max(memory, 0), waiting_permille=waiting, zone=zone)

    def _runs(self, node: NodeId, state: NodeState) -> bool:
        """Whether blocks are open there that it does not only stand by with, which measures nothing."""
        for held in state.hosted:
            tenure = self._tables.tenures.get(held.deployment, held.epoch)
            own = None if tenure is None else stage_at(tenure.plan, held.first_block)
            if tenure is None or own is None or node not in tenure.plan.stages[own].standbys:
                return True
        return False


def _links(measured: Mapping[tuple[NodeId, NodeId], Link], names: Container[NodeId]) -> Links:
    """What matters of them to the candidates ``names``; a link measured at one end is the same at the other."""
    both_ways = {(b, a): link for (a, b), link in measured.items()} | dict(measured)
    known = {pair: link for pair, link in both_ways.items() if pair[0] in names and pair[1] in names}
    at: dict[NodeId, list[Link]] = {}
    for (sender, _), link in sorted(both_ways.items(), key=lambda item: item[0]):
        if sender in names:
            at.setdefault(sender, []).append(link)
    usual = {node: _median(links) for node, links in at.items()}
    everywhere = list(measured.values())
    return Links(_median([*everywhere, LAN]) if everywhere else LAN, known, usual)


def carrying(
    links: Mapping[tuple[NodeId, NodeId], Link], rates: Mapping[tuple[NodeId, NodeId], int]
) -> dict[tuple[NodeId, NodeId], Link]:
    """``links`` with the ``rates`` that were measured where their bytes come in, or else the other way."""

    def known(pair: tuple[NodeId, NodeId], link: Link) -> Link:
        rate = rates.get(pair) or rates.get(pair[::-1])
        return replace(link, bytes_per_s=min(max(rounded_down(rate), RATE_MIN), RATE_MAX)) if rate else link

    return {pair: known(pair, link) for pair, link in links.items()}


def _median(links: list[Link]) -> Link:
    """Of both figures; the worse one of two."""
    middle = len(links) // 2
    rates = sorted((link.bytes_per_s for link in links), reverse=True)
    return Link(sorted(link.rtt_us for link in links)[middle], rates[middle])


def slowness_permille(state: NodeState, *, runs: bool) -> int:
    """How many times slower than its profile the node is, in thousandths; ``runs``: it has a stage of its own."""
    left = 1000 - min(_stepped(state.load.foreign_permille), 950)
    by_load = 1_000_000 // left
    measured = _stepped(state.stage_permille)
    if runs and measured:
        return max(measured, STEP_PERMILLE)
    return max(measured, by_load)


def waiting_permille(state: NodeState, deployment: DeploymentId | None) -> int:
    """How much of the time the node works for deployments other than ``deployment``; 0 if it holds that one itself.

    None: for any.
    """
    held = [stage.deployment for stage in state.hosted]
    if not held or deployment in held:
        return 0
    return _stepped(max(0, state.load.cpu_permille - state.load.foreign_permille))


def summed(states: Iterable[NodeState], deployment: DeploymentId) -> Demand:
    """What is asked of ``deployment`` through all nodes that tell ``states``, in steps; a liar's word is bounded."""
    told = [each for state in states for each in state.demands if each.deployment == deployment]
    prompts, answers = (
        min(rounded(sum(figures)), TOKENS_PER_KS_MAX)
        for figures in ([d.prompt_tokens_per_ks for d in told], [d.answer_tokens_per_ks for d in told])
    )
    return Demand(prompts, answers)


def _stepped(permille: int) -> int:
    """To the nearest step."""
    return (permille + STEP_PERMILLE // 2) // STEP_PERMILLE * STEP_PERMILLE


def rounded_down(size: int) -> int:
    """``size`` with SIZE_BITS bits after the first."""
    drop = max(0, size.bit_length() - 1 - SIZE_BITS)
    return size >> drop << drop


def rounded_link(link: LinkMeasured) -> Link:
    """A link as it is planned with."""
    usual = RELAY if link.relayed else LAN
    return Link(max(rounded_down(link.rtt_us), RTT_US_MIN), usual.bytes_per_s)
