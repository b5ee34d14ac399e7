"""Can I live with this plan? A voter's own predicate, asked of itself, never of equality with what it would propose.

Three answers. *Yes*: nothing this node knows speaks against it. *No*: something does that time will not change, with
the reason in a few words. *Not yet*: this node does not see what the proposer saw; it may within the seconds a
proposal waits, so it asks to be asked again.

    follows the head          same deployment, terms, model, context; my head is its parent
    covers the model          from block 0 to the last
    hosts                     agents of the roster, in an allowed zone, not gone; silent primaries: not yet
    widths                    certified by my manifest, and all losses within the terms; without it: not yet
    me, if I am a host        my memory with all I hold, my disk for what I lack, my operator's lock
    me, as a standby          my memory for all my stages in the end; until then I do without
    voters                    hosts first, as many as there should be, none gone
    cause                     HOST_LOST: one of the head's hosts (or voters) is gone, as I see it, else not yet
                              NOT_READY: I heard FAILED, or its time is up by my clock, else not yet
                              SLOW:      it is better by my figures
                              THIN:      the stages stay, and more of its standbys are there than of the head's
                              GAIN:      it is better by my figures by what the terms ask, its move included;
                                         the head had a minute, and no operator holds a lock
                              FRAIL:     the cuts stay, the head would not survive the loss of some node, the plan
                                         survives that of any; a minute and locks as for GAIN
    figures                   SLOW, GAIN, FRAIL: ``weighing``

Repairs are judged by what is broken, never by how good they are: a slow plan that runs beats one that does not. All
arithmetic is on integers.
"""

from dataclasses import replace
from typing import Final

from shoal_agent.core.causes import is_gone, standbys_there
from shoal_agent.core.facts import ModelFacts, Standing
from shoal_agent.core.plan import (
    Room,
    faults_for_host,
    faults_of,
    faults_of_spans,
    faults_of_successor,
    faults_of_widths,
    hosts_of,
    own_stages,
    resident_bytes,
    servers_of,
    span_of,
    stages_on,
    standby_stages,
    voter_count,
)
from shoal_agent.core.room import room_for, taken_bytes
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import Tenure
from shoal_agent.core.voice import Voice
from shoal_agent.core.weighing import YES, Answer, Sight, better, firmer
from shoal_protocol.ids import Instant, NodeId
from shoal_protocol.messages import Cause, Plan
from shoal_protocol.widths import ActivationWidth

COOL_DOWN_S: Final = 60.0
"""After a certificate nobody gains anything for so long: the figures of the new plan have to come in first."""
CLOCKS_S: Final = 5.0
"""The proposer may have heard of the head so much earlier than this node."""


class Validity:
    """One node's judgement."""

    def __init__(self, here: NodeId, tables: Tables, voice: Voice, kv_bytes_max: int) -> None:
        self._here = here
        self._tables = tables
        self._voice = voice
        self._kv_bytes_max = kv_bytes_max

    def judge(self, plan: Plan, sight: Sight, now: Instant) -> Answer:
        """Yes, no or not yet, and why."""
        form = self._form(plan, sight.head)
        if form[0] is False:  # a plan of blocks that there are not can be neither priced nor placed
            return form
        answers = (
            self._hosts(plan),
            self._widths(plan),
            self._myself(plan),
            self._voters(plan, sight),
            self._cause(plan, sight, now),
        )
        return next((answer for answer in answers if answer[0] is False), None) or next(
            (answer for answer in answers if answer[0] is None), YES
        )

    def _form(self, plan: Plan, head: Tenure) -> Answer:
        faults = faults_of_successor(plan, head.plan, head.digest)
        faults += faults_of(plan, self._voice.identity.roster)
        if plan.stages[-1].last_block != head.plan.stages[-1].last_block:
            faults.append(f"it ends at block {plan.stages[-1].last_block}, not {head.plan.stages[-1].last_block}")
        if len(plan.stages) > plan.terms.stages_max:
            faults.append(f"{len(plan.stages)} stages, the terms allow {plan.terms.stages_max}")
        if plan.cause in (Cause.GENESIS, Cause.RECOVERY):
            faults.append(f"nobody votes about {plan.cause.name}")
        return (False, f"invalid: {faults[0]}") if faults else YES

    def _hosts(self, plan: Plan) -> Answer:
        zones = plan.terms.zones
        for node in servers_of(plan):
            member = self._voice.identity.roster.member(node)
            if zones and (member is None or member.zone not in zones):
                return False, f"zone: {node[:8]} is not in {', '.join(zones)}"
            if is_gone(self._tables, self._here, node):
                return False, f"host-gone: {node[:8]}"
        silent = [node for node in hosts_of(plan.stages) if self._silent(node)]
        return (None, f"host-silent: {silent[0][:8]}") if silent else YES

    def _widths(self, plan: Plan) -> Answer:
        """Who does not have the manifest cannot tell whether narrow activations may be; nobody needs it for others."""
        facts = self._tables.models.get(plan.model)
        if facts is None:
            narrow = any(stage.width is not ActivationWidth.F32 for stage in plan.stages)
            return (None, "model-missing: this node cannot judge narrow activations yet") if narrow else YES
        faults = faults_of_widths(plan, facts)
        return (False, f"width: {faults[0]}") if faults else YES

    def _silent(self, node: NodeId) -> bool:
        return node != self._here and self._tables.membership.standing(node) is Standing.SUSPECT

    def _myself(self, plan: Plan) -> Answer:
        stages = stages_on(plan, self._here)
        if not stages:
            return YES
        held = [tenure for tenure in self._tables.tenures.of(plan.deployment) if tenure.asked]
        if self._tables.locked and not held:
            return False, "locked: this node takes no new blocks"
        facts = self._tables.models.get(plan.model)
        if facts is None:
            return YES  # it will be fetched; whether it fits is found when it is there
        capacity = self._voice.sampled.capacity
        spans = [span_of(plan, stage) for stage in stages]
        faults = self._room_faults(plan, facts, capacity.memory_bytes)
        if faults:
            return False, f"capacity: {faults[0]}"
        if not held:
            needed = resident_bytes(facts, *spans) - facts.shared_bytes
            if needed > capacity.disk_free_bytes and not self._stored(plan):
                return False, f"disk: {needed} bytes are needed, {capacity.disk_free_bytes} are free"
        return YES

    def _room_faults(self, plan: Plan, facts: ModelFacts, memory_bytes: int) -> list[str]:
        """For stages of its own the room there is now; to stand by, what there will be when earlier epochs are over.

        How much of it KV may take is not asked for standbys: proposers do not know, and a plan must not fail for that.
        """
        faults = []
        if own_stages(plan, self._here):
            room = room_for(self._tables, self._here, plan, memory_bytes, self._kv_bytes_max)
            faults = faults_for_host(plan, self._here, facts, room)
        if standby_stages(plan, self._here):
            spans = [span_of(plan, stage) for stage in stages_on(plan, self._here)]
            taken = taken_bytes(self._tables, self._here, plan.deployment)
            faults += faults_of_spans(plan, spans, facts, Room(memory_bytes, memory_bytes, taken))
        return faults

    def _stored(self, plan: Plan) -> bool:
        return self._tables.state is not None and plan.model in self._tables.state.models

    def _voters(self, plan: Plan, sight: Sight) -> Answer:
        hosts = hosts_of(plan.stages)
        named = sum(voter in hosts for voter in plan.voters)
        if len(set(plan.voters)) != len(plan.voters):
            return False, "voters: one is named twice"
        if any(voter in hosts for voter in plan.voters[named:]) or named < min(len(hosts), len(plan.voters)):
            return False, "voters: hosts come first"
        gone = [voter for voter in plan.voters if is_gone(self._tables, self._here, voter)]
        known = () if sight.outlook is None else sight.outlook.witnesses
        short = 3 * plan.terms.faulty + 1 - len(dict.fromkeys([*known, *hosts])) if plan.terms.faulty else 0
        if len(gone) > max(0, short):
            return False, f"voters: {gone[0][:8]} is gone"
        available = len(dict.fromkeys([*known, *hosts, *plan.voters]))
        wanted = voter_count(len(hosts), available, plan.terms.faulty)
        if len(plan.voters) > wanted or (sight.outlook is not None and len(plan.voters) < wanted):
            return False, f"voters: {len(plan.voters)} are named, {wanted} are due"
        return YES

    def _cause(self, plan: Plan, sight: Sight, now: Instant) -> Answer:
        trigger = sight.trigger
        match plan.cause:
            case Cause.HOST_LOST | Cause.NOT_READY:
                seen = trigger is not None and trigger.cause in (plan.cause, Cause.HOST_LOST)
                return YES if seen else (None, f"unseen: no {plan.cause.name} here")
            case Cause.THIN:
                return self._backed(plan, sight.head)
            case Cause.SLOW:
                return better(self._tables, self._here, plan, sight, 1)
            case Cause.FRAIL:
                hold = self._postponed(sight.head, now)
                return firmer(self._tables, self._here, plan, sight) if hold[0] is True else hold
            case _:
                hold, asked = self._postponed(sight.head, now), plan.terms.gain_permille
                return better(self._tables, self._here, plan, sight, asked) if hold[0] is True else hold

    def _backed(self, plan: Plan, head: Tenure) -> Answer:
        before, after = ([replace(stage, standbys=()) for stage in p.stages] for p in (head.plan, plan))
        if before != after:
            return False, "invalid: THIN leaves the stages as they are"
        if head.served is None:
            return None, "unseen: the head did not serve yet"
        known, offered = (standbys_there(self._tables, self._here, each) for each in (head.plan, plan))
        return YES if offered > known else (None, f"unseen: {known} standbys are there, and {offered} then")

    def _postponed(self, head: Tenure, now: Instant) -> Answer:
        left_s = head.since + COOL_DOWN_S - now
        if left_s > 0:
            return None if left_s <= CLOCKS_S else False, f"cooldown: {left_s:.0f} s of it are left"
        locked = self.locked(head.plan)
        return YES if locked is None else (False, f"locked: {locked[:8]} holds a lock")

    def locked(self, plan: Plan) -> NodeId | None:
        """A host or voter of ``plan`` whose operator postpones what is no repair."""
        for node in dict.fromkeys([*hosts_of(plan.stages), *plan.voters]):
            peer = self._tables.membership.peer(node)
            held = self._tables.locked if node == self._here else peer is not None and peer.state.locked
            if held:
                return node
        return None
