"""What agreement promises, judged by what honest nodes say and do.

    votes         nobody casts two different ballots of one kind in one round, or proposes two plans in one: in this
                  life or any other. Whoever lost its memory must abstain, so losing it is no excuse
    certificates  there is one plan per (deployment, epoch)
    unproven      what is shown as decided is proven by a quorum of the voters of the plan before, back to the genesis
                  that an operator signed
    fence         blocks are opened and sessions begun only under a plan that is certified, by a primary or standby
                  that it names, with the blocks it names, in a trust zone that its terms allow
    epochs        what a node knows to be decided, and what it opens, never goes back in one life

The liars of a world say what they like; only honest nodes are held to this, and what they accept from liars shows in
what they do.
"""

from collections.abc import Iterable
from typing import Final

from shoal_agent.core.effects import Broadcast, LoadBlocks, Note, OpenStage
from shoal_agent.core.facts import StageSpan
from shoal_agent.core.plan import stage_at
from shoal_agent.core.seat import WISHED
from shoal_agent.sim.machine import Machine, Seen
from shoal_agent.sim.world import World
from shoal_protocol.codec import decode_plan
from shoal_protocol.envelope import Envelope
from shoal_protocol.errors import BadSignature, RemoteProtocolError
from shoal_protocol.ids import DeploymentId, Digest, Epoch, NodeId, digest_of
from shoal_protocol.messages import (
    Certified,
    Plan,
    PlanAnnounced,
    Proposed,
    RecoveryOrdered,
    VoteCast,
    VoteKind,
)
from shoal_protocol.roster import TrustedRoster
from shoal_protocol.trust import allowed
from shoal_protocol.votes import open_certificate, open_recovery

UNPROVEN: Final = "unproven"
Told = Iterable[tuple[str, str]]
Where = tuple[DeploymentId, Epoch]
_Ballot = tuple[NodeId, DeploymentId, Epoch, int, VoteKind | None]
"""Whose, of what, in which round; no kind: a proposal."""


class Agreed:
    """Everything that was decided in one world, and every ballot honest nodes cast."""

    def __init__(self) -> None:
        self._world: World | None = None
        self._roster: TrustedRoster | None = None
        self._liars: tuple[NodeId, ...] = ()
        self._ballots: dict[_Ballot, Digest | None] = {}
        self._plans: dict[Where, tuple[Digest, bytes, Plan]] = {}
        self._wished_s: dict[Where, float] = {}
        self._opened: dict[tuple[NodeId, int, DeploymentId], Epoch] = {}
        self._known: dict[tuple[NodeId, int, DeploymentId], Epoch] = {}
        self.agreements: list[float] = []
        """Seconds from the moment in which the first voter found a reason to change the plan to the certificate."""

    def begin(self, world: World) -> None:
        """The members of the world are known, and its liars."""
        self._world, self._roster, self._liars = world, world.roster, world.liars

    def newest(self, deployment: DeploymentId) -> Plan | None:
        """The plan in force."""
        plans = [plan for (name, _), (_, _, plan) in self._plans.items() if name == deployment]
        return max(plans, key=lambda plan: plan.epoch, default=None)

    # --- what nodes say -----------------------------------------------------------------------------------------------

    def shown(self, envelope: Envelope, at_s: float) -> Told:
        """Somebody showed a proof: an operator, a node, a liar. What proves nothing is the showman's matter."""
        message = envelope.message
        if isinstance(message, PlanAnnounced | Certified | RecoveryOrdered):
            for name, detail in self._decided(message, at_s):
                if name != UNPROVEN:
                    yield name, detail

    def handled(self, seen: Seen) -> Told:
        """A node took a step."""
        if seen.machine.name in self._liars:
            return
        assert self._world is not None, "begin() comes first"
        for effect in seen.effects:
            match effect:
                case Broadcast():
                    yield from self._said(self._world.opened(effect), seen.at_s)
                case Note(_, text, fields) if text == WISHED:
                    reason = dict(fields)
                    where = DeploymentId(str(reason["deployment"])), Epoch(int(reason["epoch"]))
                    self._wished_s.setdefault(where, seen.at_s)
                case LoadBlocks(span):
                    yield from self._fence(seen.machine, span)
                    yield from self._grows(seen.machine, span)
                case OpenStage():
                    yield from self._fence(seen.machine, effect.span)

    def _said(self, envelope: Envelope, at_s: float) -> Told:
        message = envelope.message
        match message:
            case VoteCast(deployment, epoch, round_, kind, value):
                yield from self._cast((envelope.sender, deployment, epoch, round_, kind), value)
            case Proposed(deployment, epoch, round_):
                yield from self._cast((envelope.sender, deployment, epoch, round_, None), digest_of(message.plan))
            case PlanAnnounced() | Certified() | RecoveryOrdered():
                yield from self._decided(message, at_s)

    def _cast(self, ballot: _Ballot, value: Digest | None) -> Told:
        if self._ballots.setdefault(ballot, value) != value:
            voter, deployment, epoch, round_, kind = ballot
            what = "proposed" if kind is None else kind.name
            yield "votes", f"{voter[:8]} {what} twice: {deployment}/{epoch} round {round_}"

    def _decided(self, proof: PlanAnnounced | Certified | RecoveryOrdered, at_s: float) -> Told:
        plan, digest = decode_plan(proof.plan), digest_of(proof.plan)
        where = (plan.deployment, plan.epoch)
        known = self._plans.get(where)
        if known is not None and known[0] == digest:
            return
        try:
            self._prove(proof, plan)
        except (RemoteProtocolError, KeyError) as fault:
            yield UNPROVEN, f"{plan.deployment}/{plan.epoch} is not proven: {fault!r}"
            return
        if known is not None:
            yield "certificates", f"two plans for {plan.deployment}/{plan.epoch}"
            return
        self._plans[where] = digest, proof.plan, plan
        if isinstance(proof, Certified) and where in self._wished_s:
            self.agreements.append(at_s - self._wished_s[where])

    def _prove(self, proof: PlanAnnounced | Certified | RecoveryOrdered, plan: Plan) -> None:
        assert self._roster is not None, "begin() comes first"
        if isinstance(proof, Certified):
            _, parent, _ = self._plans[plan.deployment, Epoch(plan.epoch - 1)]
            before = decode_plan(parent)
            # The count is done here again, in its own words: the oracle must not share the product's mistakes.
            signed = len({ballot.node for ballot in proof.ballots if ballot.node in before.voters})
            if 2 * signed <= len(before.voters) + before.terms.faulty:
                raise BadSignature(f"{signed} of {len(before.voters)} voters signed")
            open_certificate(proof, parent, self._roster, self._roster.cluster)
        elif isinstance(proof, RecoveryOrdered):
            _, genesis, _ = self._plans[plan.deployment, Epoch(0)]
            open_recovery(proof, genesis, self._roster, self._roster.cluster)

    # --- what nodes do ------------------------------------------------------------------------------------------------

    def _fence(self, machine: Machine, span: StageSpan) -> Told:
        assert self._roster is not None, "begin() comes first"
        known = self._plans.get((span.deployment, span.epoch))
        if known is None:
            yield "fence", f"blocks under {span.deployment}/{span.epoch}, which nobody certified"
            return
        plan, member = known[2], self._roster.member(machine.name)
        stage = stage_at(plan, span.first_block)
        own = stage is not None and machine.name in (plan.stages[stage].node, *plan.stages[stage].standbys)
        if stage is None or not own or span.last_block != plan.stages[stage].last_block:
            yield "fence", f"blocks {span.first_block}-{span.last_block} are not its own in epoch {span.epoch}"
        if plan.terms.zones and (member is None or member.zone not in plan.terms.zones):
            yield "fence", f"blocks outside the trust zones {plan.terms.zones}"
        if member is None or not allowed(plan.terms.guarded, span.first_block, span.last_block, member.zone):
            yield "fence", f"blocks {span.first_block}-{span.last_block} outside the zones that guard them"

    def _grows(self, machine: Machine, span: StageSpan) -> Told:
        life = (machine.name, machine.boots, span.deployment)
        before = self._opened.get(life, span.epoch)
        if span.epoch < before:
            yield "epochs", f"opens blocks of epoch {span.epoch} after those of {before}"
        self._opened[life] = max(before, span.epoch)

    def looked(self, machine: Machine) -> Told:
        """Look at what ``machine`` believes now."""
        if machine.name in self._liars:
            return
        held: dict[DeploymentId, Epoch] = {}
        for view in machine.node.snapshot(machine.now()).deployments:
            held[view.deployment] = max(held.get(view.deployment, view.epoch), view.epoch)
        for deployment, epoch in held.items():
            life = (machine.name, machine.boots, deployment)
            before = self._known.get(life, epoch)
            if epoch < before:
                yield "epochs", f"knew epoch {before} of {deployment}, and now only {epoch}"
            self._known[life] = max(before, epoch)
