"""Is this plan one I can live with? Validity is each host's own predicate.

A plan is not accepted because others accept it, nor because this node would have computed the same one (two views
are never equal at one instant): each host checks it against *itself*: its roster, its packages, its memory with what
other deployments and the epoch before take of it. Every fault is reported, so that an operator mends a plan once.

*Who hosts.* Every stage has a primary of its own, with one exception: the first and the last may be one node's, with
others between them (a U: what goes in and what comes out stays at home). It is what the planner can propose, and no
more: two stages of one node that follow each other are one stage, and two of the middle keep nothing at home.

*Who decides the next one* is part of every plan: its hosts first, for they have most to lose, then witnesses, ranked by
a hash of (deployment, node), so that everybody ranks alike and witnesses change only when they must. An odd number
where all are honest: a fourth voter would survive no more crashes than three, and one more would have to be heard.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from shoal_agent.core.facts import BlockFacts, LeftOut, ModelFacts, StageSpan
from shoal_protocol.ids import DIGEST_BYTES, DeploymentId, Digest, Epoch, NodeId
from shoal_protocol.limits import STAGES_MAX, VOTERS_MAX
from shoal_protocol.messages import Plan, PlanStage
from shoal_protocol.roster import Role, TrustedRoster
from shoal_protocol.trust import allowed
from shoal_protocol.widths import ActivationWidth

GENESIS_PARENT: Final = Digest(bytes(DIGEST_BYTES))
"""What stands where a first plan has no parent."""
U_STAGES_MIN: Final = 3
"""A head, something between, a tail."""
_ODD: Final = (7, 5, 3, 1)
"""How many voters there may be where nobody lies."""


def slot_of(epoch: Epoch, stage: int) -> int:
    """A node's own number for one stage of one epoch, below which the engine keeps sessions."""
    return epoch * STAGES_MAX + stage


def serves(plan: Plan, stage: int, node: NodeId) -> bool:
    """Whether ``node`` may serve ``stage``: its primary or a standby."""
    part = plan.stages[stage]
    return node == part.node or node in part.standbys


def own_stages(plan: Plan, node: NodeId) -> tuple[int, ...]:
    """Which stages ``node`` holds as their primary."""
    return tuple(index for index, stage in enumerate(plan.stages) if stage.node == node)


def stage_at(plan: Plan, first_block: int) -> int | None:
    """Which stage begins with ``first_block``."""
    return next((index for index, stage in enumerate(plan.stages) if stage.first_block == first_block), None)


def standby_stages(plan: Plan, node: NodeId) -> tuple[int, ...]:
    """Which stages ``node`` stands by for, those first for which it comes first."""
    found = [(stage.standbys.index(node), index) for index, stage in enumerate(plan.stages) if node in stage.standbys]
    return tuple(index for _, index in sorted(found))


def stages_on(plan: Plan, node: NodeId) -> tuple[int, ...]:
    """Every stage ``node`` may serve, its own first."""
    return own_stages(plan, node) + standby_stages(plan, node)


def primaries_of(plan: Plan) -> tuple[NodeId, ...]:
    """The node of each stage."""
    return tuple(stage.node for stage in plan.stages)


def hosts_of(stages: Iterable[PlanStage]) -> tuple[NodeId, ...]:
    """The nodes of ``stages``; each once."""
    return tuple(dict.fromkeys(stage.node for stage in stages))


def folded(stages: Sequence[PlanStage]) -> bool:
    """Whether they are a U: the first and the last are one node's, with others between."""
    return len(stages) >= U_STAGES_MIN and stages[0].node == stages[-1].node


def servers_of(plan: Plan) -> tuple[NodeId, ...]:
    """Everybody who may serve a stage, primaries first; each once."""
    standbys = [node for stage in plan.stages for node in stage.standbys]
    return tuple(dict.fromkeys([*primaries_of(plan), *standbys]))


def concerned_by(plan: Plan) -> tuple[NodeId, ...]:
    """Who must hear of everything about ``plan``: its hosts and its voters; each once."""
    return tuple(dict.fromkeys([*servers_of(plan), *plan.voters]))


def span_of(plan: Plan, stage: int) -> StageSpan:
    """The blocks of one stage, and how its input and its output travel."""
    part = plan.stages[stage]
    gives = ActivationWidth.F32 if stage + 1 == len(plan.stages) else plan.stages[stage + 1].width
    return StageSpan(plan.deployment, plan.epoch, plan.model, part.first_block, part.last_block, part.width, gives)


def resident_bytes(facts: ModelFacts, *spans: StageSpan) -> int:
    """Memory the blocks of all ``spans`` take once they are open; what several of them have is there once."""
    opened = {index for span in spans for index in range(span.first_block, span.last_block + 1)}
    return facts.shared_bytes + sum(block.resident_bytes for index, block in enumerate(facts.blocks) if index in opened)


def kv_bytes_per_token(facts: ModelFacts, span: StageSpan) -> int:
    """KV that one token of one session takes on the blocks of ``span``."""
    return sum(block.kv_bytes_per_token for block in facts.blocks[span.first_block : span.last_block + 1])


def run_blocks(facts: ModelFacts, span: StageSpan, left_out: LeftOut | None) -> list[BlockFacts | None]:
    """The blocks of ``span``, in order; None in place of those that a session does without."""
    first, last = left_out or (0, -1)
    places = range(span.first_block, span.last_block + 1)
    return [None if first <= place <= last else facts.blocks[place] for place in places]


def decode_macs(facts: ModelFacts, span: StageSpan, left_out: LeftOut | None = None) -> int:
    """Multiply-accumulates that one token takes on the blocks of ``span``, as their profile has it."""
    blocks = [block for block in run_blocks(facts, span, left_out) if block is not None]
    return sum(block.decode_us for block in blocks) * facts.reference_macs_per_s // 1_000_000


def rendezvous_order(key: bytes, nodes: Iterable[NodeId]) -> list[NodeId]:
    """``nodes`` as everybody ranks them for ``key``: highest random weight first."""
    return sorted(nodes, key=lambda n: (hashlib.blake2b(key + n.encode("ascii"), digest_size=8).digest(), n))


def voter_count(hosts: int, available: int, faulty: int) -> int:
    """How many of ``available`` nodes should vote about a plan of ``hosts``, of whom ``faulty`` may lie."""
    if faulty:
        return min(3 * faulty + 1, VOTERS_MAX, available)
    wanted = max(3, min(hosts, VOTERS_MAX))
    wanted += 1 - wanted % 2
    return next((count for count in _ODD if count <= min(wanted, available)), 0)


def voters_for(
    deployment: DeploymentId, hosts: Iterable[NodeId], alive: Iterable[NodeId], faulty: int, gone: Iterable[NodeId] = ()
) -> tuple[NodeId, ...]:
    """Who decides the epoch after one with ``hosts``; ``alive`` are the agents that may be witnesses.

    Where voters may lie their number cannot shrink, so ``gone`` ones fill the places that nobody alive can take: a
    quorum of the living is left, and they may come back.
    """
    key = deployment.encode()
    first = rendezvous_order(key, hosts)
    witnesses = [node for node in rendezvous_order(key, alive) if node not in first]
    if faulty:
        witnesses += [node for node in rendezvous_order(key, gone) if node not in first and node not in witnesses]
    count = voter_count(len(first), len(first) + len(witnesses), faulty)
    return tuple([*first, *witnesses][:count])


def faults_of(plan: Plan, roster: TrustedRoster) -> list[str]:
    """What is wrong with ``plan`` whoever looks at it; empty if nothing.

    That the stages are contiguous from block 0 is the codec's promise already.
    """
    faults = []
    if plan.epoch == 0 and plan.parent != GENESIS_PARENT:
        faults.append("a genesis plan has no parent")
    if len(plan.stages) - len(hosts_of(plan.stages)) > folded(plan.stages):
        faults.append("a node holds two stages, and not just the first and the last")
    if any(len(stage.standbys) > plan.terms.standbys for stage in plan.stages):
        faults.append(f"a stage has more standbys than {plan.terms.standbys}")
    for node in servers_of(plan):
        member = roster.member(node)
        if member is None:
            faults.append(f"{node} is not in the roster")
        elif Role.AGENT not in member.roles:
            faults.append(f"{node} is no agent")
    faults += _strangers(plan, roster)
    for node in plan.voters:
        member = roster.member(node)
        if member is None or not {Role.AGENT, Role.WITNESS}.intersection(member.roles):
            faults.append(f"{node} cannot vote")
    return faults


def _strangers(plan: Plan, roster: TrustedRoster) -> Iterator[str]:
    """Who would hold guarded blocks in a zone that may not."""
    for stage in plan.stages:
        blocks = stage.first_block, stage.last_block
        for node in (stage.node, *stage.standbys):
            member = roster.member(node)
            if member is not None and not allowed(plan.terms.guarded, *blocks, member.zone):
                yield f"blocks {blocks[0]}-{blocks[1]} may not be in zone {member.zone}, where {node} is"


def faults_of_successor(plan: Plan, before: Plan, parent: Digest) -> list[str]:
    """Why ``plan`` can never be proven as the next one after ``before``, named ``parent``."""
    faults = [
        f"another {name} than epoch {before.epoch}"
        for name in ("deployment", "model", "terms", "context_tokens_max")
        if getattr(plan, name) != getattr(before, name)
    ]
    if plan.parent != parent or plan.epoch != before.epoch + 1:
        faults.append(f"it does not follow epoch {before.epoch}")
    if not plan.voters:
        faults.append("nobody could ever change it")
    return faults


@dataclass(frozen=True, slots=True)
class Room:
    """What a host has for one more stage: what it offers, less what is taken, beside what stays open meanwhile."""

    memory_bytes: int
    kv_bytes_max: int
    taken_bytes: int = 0
    """By other deployments."""
    kept: tuple[StageSpan, ...] = ()
    """Stages of earlier epochs of the same deployment, which serve until this one is ready."""


def covers(plan: Plan, facts: ModelFacts) -> bool:
    """Whether the stages are of just the blocks that the model has: a signature alone does not promise that."""
    return plan.stages[-1].last_block == len(facts.blocks) - 1


def faults_for_host(plan: Plan, node: NodeId, facts: ModelFacts, room: Room) -> list[str]:
    """Why ``node``, which is a host of ``plan``, cannot take its own stages; empty if it can."""
    if not covers(plan, facts):
        return [f"the plan ends at block {plan.stages[-1].last_block}, the model at {len(facts.blocks) - 1}"]
    faults = faults_of_widths(plan, facts)
    if plan.context_tokens_max > facts.context_tokens_max:
        faults.append(f"context of {plan.context_tokens_max} tokens, the model has {facts.context_tokens_max}")
    own = own_stages(plan, node)
    assert own, "only hosts are asked"
    return faults + faults_of_spans(plan, [span_of(plan, stage) for stage in own], facts, room)


def faults_of_widths(plan: Plan, facts: ModelFacts) -> list[str]:
    """Which activations of ``plan`` may not travel as it says, by what the package certifies on this very node."""
    losses = {width.wire: width.loss for width in facts.widths} | {ActivationWidth.F32: 0}
    narrow = [(index, stage.width) for index, stage in enumerate(plan.stages)]
    faults = [f"{width.name} into stage {at}: no certificate of it here" for at, width in narrow if width not in losses]
    loss = sum(losses.get(width, 0) for _, width in narrow)
    if loss > plan.terms.loss_micronats:
        faults.append(f"narrow activations cost {loss} micronats, the terms allow {plan.terms.loss_micronats}")
    return faults


def faults_of_spans(plan: Plan, spans: Sequence[StageSpan], facts: ModelFacts, room: Room) -> list[str]:
    """Why the last of ``spans`` has no room beside the others, which are of ``plan`` too; empty if it has."""
    kv = sum(kv_bytes_per_token(facts, span) for span in spans) * plan.context_tokens_max * plan.terms.sessions
    needed = resident_bytes(facts, *spans, *room.kept) + kv
    last, beside = spans[-1], [*spans[:-1], *room.kept]
    name, offered = f"blocks {last.first_block}-{last.last_block}", room.memory_bytes - room.taken_bytes
    faults = []
    if needed > offered:
        faults.append(f"{name} need {needed} bytes{_beside(beside)}, {offered} are offered")
    if kv > room.kv_bytes_max:
        faults.append(f"{name} need {kv} bytes of KV{_beside(spans[:-1])}, {room.kv_bytes_max} are kept for it")
    return faults


def _beside(kept: Iterable[StageSpan]) -> str:
    names = [f"{span.first_block}-{span.last_block} of epoch {span.epoch}" for span in kept]
    return f" beside {', '.join(names)}" if names else ""
